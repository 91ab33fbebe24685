"""Contents of the report's tables: methods, classes, confusions, most confident mistakes, data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lasttoken import wording
from lasttoken.evaluation.decisions import confidence
from lasttoken.evaluation.metrics import METRICS, PARTS, Metric, confusion, exact
from lasttoken.evaluation.problem_metrics import label_counts
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.labels import NOTHING
from lasttoken.record.schema import Measure, Source

ORDERED = 300  # classes above which they are not ordered optimally, which would take seconds
CUT = 300  # characters of a text that are shown
UNKNOWN = Measure(estimate=math.nan, low=math.nan, high=math.nan, level=math.nan)


@dataclass(frozen=True)
class Column:
    """One column of the table of methods."""

    title: str
    value: Callable[[RunRecord], float]
    shown: Callable[[float], str]
    higher: bool  # is better
    ends: Callable[[RunRecord], str] = lambda run: ""  # the interval, in words


@dataclass(frozen=True)
class Cell:
    """One value as shown."""

    shown: str
    detail: str
    best: bool


@dataclass(frozen=True)
class ClassRow:
    """One class over all runs."""

    label: str
    support: int
    f1: dict[int, float]  # run number -> F1, of the runs that have the class

    @property
    def mean(self) -> float:
        return sum(self.f1.values()) / len(self.f1)


@dataclass(frozen=True)
class Confused:
    """Rows of one class that were decided to be another."""

    true: str
    predicted: str
    count: int
    share: float  # of the rows of the true class


@dataclass(frozen=True)
class Mistake:
    """One wrong decision and its probability."""

    id: str
    true: str
    predicted: str
    probability: float  # of what was decided
    text: str | None
    label: str  # that was wrongly decided
    words: list[tuple[str, float]]  # of the text, with their weight for the label, -1 to 1; []: not explained
    fold: int = 0  # from 1, whose model made it without having seen the row; 0: no cross-validation


@dataclass(frozen=True)
class Hard:
    """A test row with a high log-loss."""

    id: str
    true: str
    surprise: float  # log-loss of the row in nats, the mean over methods
    right: int  # methods whose decision is right
    text: str | None


@dataclass(frozen=True)
class Problem:
    """A data set, and the runs trained on it."""

    names: list[str]  # of the runs
    data: Source
    digest: str
    classes: int
    most_frequent: str
    rarest: str
    words: str  # word counts of the test texts; "" where texts are not stored


def measure(run: RunRecord, metric: str) -> Measure:
    """The test metric of a run; all NaN where it was not measured."""
    return run.test.metrics.get(metric, UNKNOWN)


def best_first(runs: Sequence[RunRecord], metric: Metric) -> list[RunRecord]:
    """The runs sorted by test metric, undefined ones last; ties keep their order."""
    return sorted(runs, key=lambda run: metric.place(measure(run, metric.name).estimate))


def metric_column(metric: Metric) -> Column:
    """The column of a test metric with its interval."""

    def ends(run: RunRecord) -> str:
        found = measure(run, metric.name)
        return wording.shown_span(found.low, found.high)

    return Column(
        metric.words, lambda run: measure(run, metric.name).estimate, wording.score, metric.higher_is_better, ends
    )


def columns(headline: Metric, *, multi: bool) -> list[Column]:
    """The columns of the table of methods, quality before cost; the first is the headline.

    What was not trained (zero-shot) has no training time and no trainable parameters, rather than the least.
    """
    quality = dict.fromkeys([headline.name, "macro_f1", "micro_f1" if multi else "accuracy", "ece", "log_loss"])
    return [
        *(metric_column(METRICS[name]) for name in quality),
        Column(
            "trainable parameters", lambda run: run.measures.cost.trainable_parameters or math.nan, wording.size, False
        ),
        Column("training time", lambda run: run.measures.cost.train_seconds or math.nan, wording.duration, False),
        Column("training rows/s", lambda run: run.measures.cost.train_rows_per_second, wording.rate, True),
        Column("prediction rows/s", lambda run: run.measures.cost.predict_rows_per_second, wording.rate, True),
        Column("peak memory", lambda run: run.measures.cost.peak_memory_bytes, wording.data_size, False),
        Column("model size", lambda run: run.measures.cost.model_bytes, wording.data_size, False),
    ]


def method_cells(runs: Sequence[RunRecord], over: Sequence[Column]) -> list[list[Cell]]:
    """A row of cells for each run; the best shown value of a column is marked, with ties."""
    by_column = [column_cells(runs, column) for column in over]
    return [list(row) for row in zip(*by_column, strict=True)]


def column_cells(runs: Sequence[RunRecord], column: Column) -> list[Cell]:
    """The cells of one column. A single value is not marked as best."""
    values = [column.value(run) for run in runs]
    finite = [value for value in values if math.isfinite(value)]
    best = column.shown((max if column.higher else min)(finite)) if len(finite) > 1 else None
    shown = [column.shown(value) for value in values]
    ends = [column.ends(run) for run in runs]
    return [Cell(text, end, text == best) for text, end in zip(shown, ends, strict=True)]


def class_rows(runs: Sequence[RunRecord]) -> list[ClassRow]:
    """The classes of all runs, the best mean F1 first."""
    found: dict[str, ClassRow] = {}
    for i, run in enumerate(runs):
        for one in run.test.per_class:
            row = found.setdefault(one.label, ClassRow(one.label, one.support, {}))
            row.f1[i] = one.f1
    return sorted(found.values(), key=lambda row: math.inf if math.isnan(row.mean) else -row.mean)


def in_words(row: ClassRow, runs: Sequence[RunRecord]) -> str:
    """The F1 of a class in each run, as the text alternative of its figure."""
    return f"F1 of {row.label}: " + ", ".join(f"{runs[i].name} {wording.brief(f1)}" for i, f1 in row.f1.items())


def confusion_matrix(run: RunRecord) -> np.ndarray:
    """Confusion matrix (C, C) int, truth by decision. For single-label runs only."""
    return confusion(run.predictions.targets, run.predictions.chosen, len(run.labels))


def most_confused(run: RunRecord, most: int = 20) -> list[Confused]:
    """The (true class, decided class) pairs with the most rows, most first."""
    matrix = confusion_matrix(run)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    order = [int(place) for place in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    pairs = [divmod(place, len(matrix)) for place in order]
    names, support = run.labels.names, label_counts(run.predictions.targets, len(matrix))
    return [
        Confused(names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / support[i])) for i, j in pairs if wrong[i, j]
    ]


def clustered(run: RunRecord) -> tuple[list[int], np.ndarray]:
    """(order of the classes (C,) with confused ones side by side, confusion matrix in that order)."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    matrix = confusion_matrix(run)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    near = np.minimum(1, (shares + shares.T) / 2)
    np.fill_diagonal(near, 1)
    distances = squareform(1 - near, checks=False)
    tree = linkage(distances, "average")
    order = leaves_list(optimal_leaf_ordering(tree, distances) if len(matrix) <= ORDERED else tree).tolist()
    return order, matrix[np.ix_(order, order)]


def mistakes(run: RunRecord, most: int = 10) -> list[Mistake]:
    """The most confident wrong decisions, surest first; for a multi-label row only its surest one."""
    seen = run.predictions
    decided = seen.chosen
    if run.labels.multi:
        said = np.where(decided, seen.probs, 1 - seen.probs)  # the probability of what was decided
        sure = np.where(decided != seen.targets, said, -1.0)  # (N, C)
        column = sure.argmax(axis=1)
        surest = sure.max(axis=1)
    else:
        column = decided
        wrong = (decided != seen.targets) & (decided != NOTHING)
        surest = np.where(wrong, confidence(seen.probs, decided), -1.0)
    rows = [int(i) for i in np.argsort(-surest, kind="stable")[:most] if surest[i] >= 0]
    return [mistake(run, i, int(column[i]), float(surest[i])) for i in rows]


def mistake(run: RunRecord, row: int, column: int, probability: float) -> Mistake:
    """The mistake of `row` about the label of `column`."""
    names, seen = run.labels.names, run.predictions
    predicted, true = names[column], truth(run, row)
    if run.labels.multi:
        predicted = predicted if seen.chosen[row, column] else f"not {predicted}"
    label, text = names[column], None if run.texts is None else cut(run.texts[row])
    words = weighed(run, seen.ids[row], label)
    if run.labels.multi and not seen.chosen[row, column]:  # a weight for "not X" is a weight against X
        words = [(word, -weight) for word, weight in words]
    fold = 0 if seen.fold is None else int(seen.fold[row]) + 1
    return Mistake(seen.ids[row], true, predicted, probability, text, label, words, fold)


def truth(run: RunRecord, row: int) -> str:
    """The label of a test row, or its labels."""
    names, target = run.labels.names, run.predictions.targets[row]
    if run.labels.multi:
        return ", ".join(names[j] for j in np.flatnonzero(target)) or "no label"
    return names[int(target)]


def weighed(run: RunRecord, row: str, label: str) -> list[tuple[str, float]]:
    """The first words of an explained text with weights scaled to at most 1 in size; [] without an explanation."""
    found = next((one for one in run.explained if (one.id, one.label) == (row, label)), None)
    if found is None or run.texts is None:
        return []
    scores = [score or 0.0 for score in found.scores]
    most = max(map(abs, scores), default=0.0) or 1.0
    shown, characters = [], 0
    for word, score in zip(found.words, scores, strict=True):
        characters += len(word) + 1
        if characters > CUT:
            return [*shown, ("…", 0.0)]
        shown.append((word, score / most))
    return shown


def same_rows(runs: Sequence[RunRecord]) -> bool:
    """Whether all runs have the same labels and the same test rows in the same order."""
    first = runs[0]
    return all(list(one.predictions.ids) == list(first.predictions.ids) and one.labels == first.labels for one in runs)


def hardest(runs: Sequence[RunRecord], most: int = 10) -> list[Hard]:
    """The test rows with the highest mean log-loss over runs, highest first; [] where runs differ in their rows."""
    if not same_rows(runs):
        return []
    seen = [run.predictions for run in runs]
    losses = [METRICS["log_loss"].sums(one.targets, one.probs, one.chosen).amounts for one in seen]  # each (N,)
    surprise = np.mean(losses, axis=0)
    right = np.sum([exact(one.targets, one.chosen) for one in seen], axis=0)
    first = runs[0]
    return [
        Hard(
            first.predictions.ids[i],
            truth(first, i),
            float(surprise[i]),
            int(right[i]),
            None if first.texts is None else cut(first.texts[i]),
        )
        for i in map(int, np.argsort(-surprise, kind="stable")[:most])
    ]


def disputed(runs: Sequence[RunRecord], most: int = 10) -> list[Mistake]:
    """Labels that may be wrong: test rows for which all runs make the same other decision, surest first.

    [] for a single run, or where runs differ in their rows.
    """
    if len(runs) < 2 or not same_rows(runs):
        return []
    first = runs[0].predictions
    decided = first.chosen
    agreed = np.all([run.predictions.chosen == decided for run in runs], axis=0) & (decided != first.targets)
    agreed &= decided != NOTHING
    said = np.mean([run.predictions.probs for run in runs], axis=0)  # (N, C)
    if runs[0].labels.multi:
        sure = np.where(agreed, np.where(decided, said, 1 - said), -1.0)
        column, surest = sure.argmax(axis=1), sure.max(axis=1)
    else:
        column, surest = decided, np.where(agreed, said[np.arange(len(said)), decided], -1.0)
    rows = [int(i) for i in np.argsort(-surest, kind="stable")[:most] if surest[i] >= 0]
    found = [mistake(runs[0], i, int(column[i]), float(surest[i])) for i in rows]
    return [replace(one, words=[]) for one in found]  # explanations differ between methods


def problem_measures(runs: Sequence[RunRecord]) -> list[tuple[str, list[Measure | None]]]:
    """(metric in words, its value in each run or None) of the metrics of this problem (problem_metrics.py)."""
    words = list(dict.fromkeys(one.words for run in runs for one in run.test.further))
    found = [{one.words: one for one in run.test.further} for run in runs]
    return [(name, [measures.get(name) for measures in found]) for name in words]


def measures(runs: Sequence[RunRecord]) -> list[tuple[str, list[Measure | None]]]:
    """(metric in words, its value in each run or None) of every metric and of the parts of the Brier score."""
    names = [name for name in METRICS if any(name in run.test.metrics for run in runs)]
    parts = [of for of in PARTS if any(of in run.measures.brier for run in runs)]
    return [
        *((METRICS[name].words, [run.test.metrics.get(name) for run in runs]) for name in names),
        *((f"Brier score, {of}", [run.measures.brier.get(of) for run in runs]) for of in parts),
    ]


def without_interval(runs: Sequence[RunRecord]) -> list[str]:
    """Metrics in words that have a value but no interval in one of the runs."""
    measured = [(name, one) for run in runs for name, one in run.test.metrics.items()]
    bare = {name for name, one in measured if math.isnan(one.low) and not math.isnan(one.estimate)}
    return [metric.words for name, metric in METRICS.items() if name in bare]


def notes(run: RunRecord) -> list[str]:
    """The notes of a run's fit, and its share of answers that named no label."""
    invalid = run.measures.invalid_answers
    return [
        *run.measures.notes,
        *([] if invalid is None else [f"{wording.percent(invalid)} of answers named no label"]),
    ]


def problems(runs: Sequence[RunRecord]) -> list[Problem]:
    """The data sets of the runs, grouped by digest."""
    found: dict[str, Problem] = {}
    for run in runs:
        made = run.environment
        if made.data_digest not in found:
            ends = frequencies(run)
            found[made.data_digest] = Problem([], made.data, made.data_digest, len(run.labels), *ends, words(run))
        found[made.data_digest].names.append(run.name)
    return list(found.values())


def frequencies(run: RunRecord) -> tuple[str, str]:
    """The most frequent label and the rarest one, each with its share of the test rows."""
    names, n = run.labels.names, len(run.predictions)
    counts = label_counts(run.predictions.targets, len(names))
    ends = (most_frequent_label(run)[0], int(counts.argmin()))
    most, least = (f"{names[j]}, {wording.percent(counts[j] / n)} of the test rows" for j in ends)
    return most, least


def words(run: RunRecord) -> str:
    """Words in the test texts: median, 95th percentile and maximum."""
    if not run.texts:
        return ""
    middle, high, longest = np.quantile([len(text.split()) for text in run.texts], [0.5, 0.95, 1.0])
    return f"median {middle:,.0f}, 95th percentile {high:,.0f}, maximum {longest:,.0f}"


def most_frequent_label(run: RunRecord) -> tuple[int, str]:
    """(column, name) of the label with the most test rows."""
    targets, names = run.predictions.targets, run.labels.names
    counts = label_counts(targets, len(names))
    return int(counts.argmax()), names[int(counts.argmax())]


def cut(text: str) -> str:
    """`text` on one line, at most 300 characters of it."""
    line = " ".join(text.split())
    return line if len(line) <= CUT else line[:CUT].rstrip() + " …"
