"""What the report's tables hold: methods side by side, classes, confusions and the most confident mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lasttoken.evaluation.decisions import confidence
from lasttoken.evaluation.further import label_counts
from lasttoken.evaluation.metrics import METRICS, PARTS, Metric, confusion, exact
from lasttoken.labels import NOTHING
from lasttoken.report import units
from lasttoken.report.collect import Measure, RunView, Source

ORDERED = 300  # classes up to which their order is the best one, which takes seconds for many more
CUT = 300  # characters of a text that are shown
UNKNOWN = Measure(estimate=math.nan, low=math.nan, high=math.nan, level=math.nan)


@dataclass(frozen=True)
class Column:
    """One column of the table of methods."""

    title: str
    value: Callable[[RunView], float]
    shown: Callable[[float], str]
    higher: bool  # is better
    ends: Callable[[RunView], str] = lambda run: ""  # the interval, in words


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
    f1: dict[int, float]  # run number -> F1; a run whose label space lacks the class is not in it

    @property
    def mean(self) -> float:
        return sum(self.f1.values()) / len(self.f1)


@dataclass(frozen=True)
class Confused:
    """Rows of one class that were taken for another."""

    true: str
    predicted: str
    count: int
    share: float  # of the rows of the true class


@dataclass(frozen=True)
class Mistake:
    """One wrong decision, and how sure it was."""

    id: str
    true: str
    predicted: str
    probability: float  # of what was decided
    text: str | None
    label: str  # that the decision is about
    words: list[tuple[str, float]]  # of the text, with how much each speaks for the label, -1 to 1; none: not explained


@dataclass(frozen=True)
class Hard:
    """A test row whose truth the methods find unlikely."""

    id: str
    true: str
    surprise: float  # log-loss of the row in nats, the mean over methods
    right: int  # methods that decide it rightly all the same
    text: str | None


@dataclass(frozen=True)
class Problem:
    """The data that one or more of the runs were made from."""

    names: list[str]  # of the runs
    data: Source
    digest: str
    classes: int
    most_frequent: str
    rarest: str
    words: str  # of the test texts; "" where they are not kept


def measure(run: RunView, metric: str) -> Measure:
    """The test metric of a run; all NaN where it was not measured."""
    return run.test.metrics.get(metric, UNKNOWN)


def best_first(runs: Sequence[RunView], metric: Metric) -> list[RunView]:
    """The runs by their test metric, those without one last; ties keep their order."""
    return sorted(runs, key=lambda run: metric.place(measure(run, metric.name).estimate))


def metric_column(metric: Metric) -> Column:
    """The column of a test metric with its interval."""

    def ends(run: RunView) -> str:
        found = measure(run, metric.name)
        return units.span(found.low, found.high)

    return Column(
        metric.words, lambda run: measure(run, metric.name).estimate, units.score, metric.higher_is_better, ends
    )


def columns(headline: Metric, *, multi: bool) -> list[Column]:
    """The columns of the table of methods, quality before cost; the first is the headline."""
    quality = dict.fromkeys([headline.name, "macro_f1", "micro_f1" if multi else "accuracy", "ece", "log_loss"])
    return [
        *(metric_column(METRICS[name]) for name in quality),
        Column("trainable parameters", lambda run: run.measures.cost.trainable_parameters, units.size, False),
        Column("training time", lambda run: run.measures.cost.train_seconds, units.duration, False),
        Column("training rows/s", lambda run: run.measures.cost.train_rows_per_second, units.rate, True),
        Column("prediction rows/s", lambda run: run.measures.cost.predict_rows_per_second, units.rate, True),
        Column("peak memory", lambda run: run.measures.cost.peak_memory_bytes, units.data_size, False),
        Column("model size", lambda run: run.measures.cost.model_bytes, units.data_size, False),
    ]


def method_cells(runs: Sequence[RunView], over: Sequence[Column]) -> list[list[Cell]]:
    """A row of cells for each run. The best value of a column is marked, with all that look equal to it."""
    by_column = [column_cells(runs, column) for column in over]
    return [list(row) for row in zip(*by_column, strict=True)]


def column_cells(runs: Sequence[RunView], column: Column) -> list[Cell]:
    """The cells of one column. With a single run nothing is best."""
    values = [column.value(run) for run in runs]
    finite = [value for value in values if math.isfinite(value)]
    best = column.shown((max if column.higher else min)(finite)) if len(finite) > 1 else None
    shown = [column.shown(value) for value in values]
    ends = [column.ends(run) for run in runs]
    return [Cell(text, end, text == best) for text, end in zip(shown, ends, strict=True)]


def class_rows(runs: Sequence[RunView]) -> list[ClassRow]:
    """The classes of all runs, the best mean F1 first."""
    found: dict[str, ClassRow] = {}
    for i, run in enumerate(runs):
        for one in run.test.per_class:
            row = found.setdefault(one.label, ClassRow(one.label, one.support, {}))
            row.f1[i] = one.f1
    return sorted(found.values(), key=lambda row: math.inf if math.isnan(row.mean) else -row.mean)


def in_words(row: ClassRow, runs: Sequence[RunView]) -> str:
    """A class over all runs, for who cannot see the figure."""
    return f"F1 of {row.label}: " + ", ".join(f"{runs[i].name} {units.brief(f1)}" for i, f1 in row.f1.items())


def confusion_matrix(run: RunView) -> np.ndarray:
    """How many rows of class i were decided to be class j, (C, C) int. Of single-label runs only."""
    return confusion(run.predictions.targets, run.predictions.chosen, len(run.labels))


def most_confused(run: RunView, most: int = 20) -> list[Confused]:
    """The pairs of classes with the most rows taken one for the other, most first."""
    matrix = confusion_matrix(run)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    order = [int(place) for place in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    pairs = [divmod(place, len(matrix)) for place in order]
    names, support = run.labels.names, label_counts(run.predictions.targets, len(matrix))
    return [
        Confused(names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / support[i])) for i, j in pairs if wrong[i, j]
    ]


def clustered(run: RunView) -> tuple[list[int], np.ndarray]:
    """(classes (C,) in an order that sets those beside each other that are taken for each other, their matrix in it)."""
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


def mistakes(run: RunView, most: int = 10) -> list[Mistake]:
    """The wrong decisions that were surest, surest first; of a multi-label row only its surest one."""
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


def mistake(run: RunView, row: int, column: int, probability: float) -> Mistake:
    """The mistake of `row` about the label of `column`."""
    names, seen = run.labels.names, run.predictions
    predicted, true = names[column], truth(run, row)
    if run.labels.multi:
        predicted = predicted if seen.chosen[row, column] else f"not {predicted}"
    label, text = names[column], None if run.texts is None else cut(run.texts[row])
    words = weighed(run, seen.ids[row], label)
    if run.labels.multi and not seen.chosen[row, column]:  # what speaks for "not X" is what speaks against X
        words = [(word, -weight) for word, weight in words]
    return Mistake(seen.ids[row], true, predicted, probability, text, label, words)


def truth(run: RunView, row: int) -> str:
    """The label of a test row, or its labels."""
    names, target = run.labels.names, run.predictions.targets[row]
    if run.labels.multi:
        return ", ".join(names[j] for j in np.flatnonzero(target)) or "no label"
    return names[int(target)]


def weighed(run: RunView, row: str, label: str) -> list[tuple[str, float]]:
    """The first words of a text that was explained, the heaviest weighing 1 or -1; none where it was not."""
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


def same_rows(runs: Sequence[RunView]) -> bool:
    """Whether all runs are about the same test rows in the same order, and the same labels."""
    first = runs[0]
    return all(list(one.predictions.ids) == list(first.predictions.ids) and one.labels == first.labels for one in runs)


def hardest(runs: Sequence[RunView], most: int = 10) -> list[Hard]:
    """The test rows with the highest log-loss, the mean over runs, highest first. None where runs differ in their rows."""
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


def disputed(runs: Sequence[RunView], most: int = 10) -> list[Mistake]:
    """Test rows whose label every run decides against in the same way, the surest first: labels that may be wrong.

    Of two runs or more about the same rows in the same order; none else.
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
    return [replace(one, words=[]) for one in found]  # which words weighed is one method's own


def further(runs: Sequence[RunView]) -> list[tuple[str, list[Measure | None]]]:
    """(measure in words, its value in each run, None where it was not measured) of those that this problem has."""
    words = list(dict.fromkeys(one.words for run in runs for one in run.test.further))
    found = [{one.words: one for one in run.test.further} for run in runs]
    return [(name, [measures.get(name) for measures in found]) for name in words]


def measures(runs: Sequence[RunView]) -> list[tuple[str, list[Measure | None]]]:
    """(metric in words, its value in each run) of every metric that was measured, and of the parts of the Brier score."""
    names = [name for name in METRICS if any(name in run.test.metrics for run in runs)]
    parts = [of for of in PARTS if any(of in run.measures.brier for run in runs)]
    return [
        *((METRICS[name].words, [run.test.metrics.get(name) for run in runs]) for name in names),
        *((f"Brier score, {of}", [run.measures.brier.get(of) for run in runs]) for of in parts),
    ]


def notes(run: RunView) -> list[str]:
    """What should be known of a run: what its fit noted, and answers that named no label."""
    invalid = run.measures.invalid_answers
    return [*run.measures.notes, *([] if invalid is None else [f"{units.percent(invalid)} of answers named no label"])]


def problems(runs: Sequence[RunView]) -> list[Problem]:
    """The data of the runs, once each: runs share it where its digest is the same."""
    found: dict[str, Problem] = {}
    for run in runs:
        made = run.environment
        if made.data_digest not in found:
            ends = frequencies(run)
            found[made.data_digest] = Problem([], made.data, made.data_digest, len(run.labels), *ends, words(run))
        found[made.data_digest].names.append(run.name)
    return list(found.values())


def frequencies(run: RunView) -> tuple[str, str]:
    """The most frequent label and the rarest one, each with its share of the test rows."""
    names, n = run.labels.names, len(run.predictions)
    counts = label_counts(run.predictions.targets, len(names))
    ends = (most_frequent_label(run)[0], int(counts.argmin()))
    most, least = (f"{names[j]}, {units.percent(counts[j] / n)} of the test rows" for j in ends)
    return most, least


def words(run: RunView) -> str:
    """How many words the test texts have."""
    if not run.texts:
        return ""
    middle, high, longest = np.quantile([len(text.split()) for text in run.texts], [0.5, 0.95, 1.0])
    return f"{middle:,.0f} in the middle, {high:,.0f} at the 95th of a hundred, {longest:,.0f} at most"


def most_frequent_label(run: RunView) -> tuple[int, str]:
    """Column and name of the label that most test rows have."""
    targets, names = run.predictions.targets, run.labels.names
    counts = label_counts(targets, len(names))
    return int(counts.argmax()), names[int(counts.argmax())]


def cut(text: str) -> str:
    """`text` on one line, at most 300 characters of it."""
    line = " ".join(text.split())
    return line if len(line) <= CUT else line[:CUT].rstrip() + " …"
