"""How good the probabilities and the decisions are: every metric of the package, as metric(y, probs) -> float.

y is (N,) int64 (one label a row) or (N, C) bool (any number), probs (N, C). Decisions are those of `decide` unless they
are given, shaped as y: metric(y, probs, chosen). C is the width of probs: a label that is
neither true nor predicted anywhere scores F1 0 and is never dropped from a macro average, or else a classifier could
raise its score by leaving labels out. A label's F1 of 0/0 is 0, a row's 1. A metric of no rows is nan.

Each formula is a value of sums over rows (see rowsums.py); `significance` resamples through those same sums.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lasttoken.errors import DataError
from lasttoken.evaluation.auroc import areas, indicator, macro_shares
from lasttoken.evaluation.predictions import decide, most_probable
from lasttoken.evaluation.rowsums import RowSums
from lasttoken.labels import NOTHING, LabelSpace

HEADLINE = "macro_f1"  # what a comparison is decided on unless the user names another
BINS = 15  # of the calibration error and of the reliability diagram
PROBABILISTIC = (
    "log_loss", "brier", "ece", "ece_mass", "classwise_ece", "auroc", "p_at_1", "p_at_3", "p_at_5", "r_at_5", "ndcg_at_5"
)  # fmt: skip
PARTS = ("reliability", "resolution", "uncertainty")  # of the Brier score
SMALLEST = float(np.finfo(np.float64).eps)  # a probability of 0 costs 36 nats, not infinity


Value = Callable[[np.ndarray, int], np.ndarray]  # (sums (D, S), N) -> (D,)


@dataclass(frozen=True)
class Formula:
    """A metric as value(sums over rows)."""

    sums: Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]  # (y, probs, chosen) -> N rows of S contributions
    value: Value
    drawn: Callable[[np.ndarray], Value] | None = None  # sums of all rows (S,) -> `value` of resamples; None: the same

    def of_draws(self, rows: RowSums) -> Value:
        """The value of resamples of `rows`."""
        return self.value if self.drawn is None else self.drawn(rows.total())


@dataclass(frozen=True)
class Metric:
    """metric(y, probs, chosen) -> float, with what a reader needs to judge the figure."""

    name: str  # macro_f1
    words: str  # macro-F1
    higher_is_better: bool
    bounds: tuple[float, float]
    single: Formula | None  # None: not defined for one label a row
    multi: Formula | None

    def place(self, estimate: float | None) -> float:
        """A key under which the best estimate sorts first, and one that is undefined (None, nan) last."""
        if estimate is None or math.isnan(estimate):
            return math.inf
        return -estimate if self.higher_is_better else estimate

    @property
    def of_decisions(self) -> bool:
        """Whether it looks at decisions alone, not at probabilities."""
        return self.name not in PROBABILISTIC

    def parts(self, y: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What it is a mean of, as (rows that each part stands on, weight of each part): classes, or all rows as one part.

        Matthews' coefficient is no mean; it is taken as one over classes, all of which it needs.

        total: its sums over all rows, (S,). Classes without rows of both kinds (with one label a row: without rows) are
        left out.
        """
        n, whole = len(y), (np.array([len(y)]), np.ones(1))
        if self.name.startswith("macro_f1") or self.name in ("weighted_f1", "mcc"):
            true = np.split(total, 3)[2]
        elif self.name == "auroc":
            true = y.sum(axis=0) if y.ndim == 2 else np.bincount(y)
            true = np.minimum(true, n - true)
            true = true[:1] if y.ndim == 1 and len(true) == 2 else true  # two classes have one area
        else:
            return whole
        rows = np.minimum(true, n - true) if y.ndim == 2 else true
        there = rows > 0
        weights = true[there] if self.name == "weighted_f1" else np.ones(there.sum())
        return (rows[there], weights / weights.sum()) if there.any() else whole

    def formula(self, y: np.ndarray) -> Formula:
        """The formula for targets such as y. Raises DataError where the metric is not defined for them."""
        formula = self.multi if y.ndim == 2 else self.single
        if formula is None:
            raise undefined(self.name, multi=y.ndim == 2)
        return formula

    def sums(self, y: np.ndarray, probs: np.ndarray, chosen: np.ndarray | None = None) -> RowSums:
        """What each row contributes."""
        return self.formula(y).sums(y, probs, decide(probs, y.ndim == 2) if chosen is None else chosen)

    def __call__(self, y: np.ndarray, probs: np.ndarray, chosen: np.ndarray | None = None) -> float:
        formula = self.formula(y)
        if not len(y):
            return math.nan
        return float(formula.value(self.sums(y, probs, chosen).total()[None], len(y))[0])


# -- contributions of rows


def once(row: np.ndarray) -> RowSums:
    """One figure a row: (N,) -> S = 1."""
    return RowSums(len(row), 1, np.arange(len(row)), np.zeros(len(row), dtype=np.int64), row.astype(np.float64))


def counts(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Of each class its rows both true and predicted | predicted | true: S = 3C."""
    n, classes = probs.shape
    if y.ndim == 2:
        rows, columns = np.nonzero(np.concatenate([y & chosen, chosen, y], axis=1))
    else:
        hit, given, every = np.flatnonzero(y == chosen), np.flatnonzero(chosen != NOTHING), np.arange(len(y))
        rows = np.concatenate([hit, given, every])
        columns = np.concatenate([y[hit], chosen[given] + classes, y + 2 * classes])
    return RowSums.marks(n, 3 * classes, rows, columns)


def exact(y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether each row's decision is right, (N,) bool; with many labels, whether its whole set is."""
    right = chosen == y
    return right.all(axis=1) if y.ndim == 2 else right


def right_rows(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    return once(exact(y, chosen))


def row_f1(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    sizes = y.sum(axis=1) + chosen.sum(axis=1)
    return once(np.where(sizes == 0, 1.0, ratio(2.0 * (y & chosen).sum(axis=1), sizes.astype(np.float64))))


def top(y: np.ndarray, probs: np.ndarray, k: int) -> np.ndarray:
    """Whether each of the k most probable labels applies, the most probable first: (N, min(k, C)) bool."""
    order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(y, order, axis=1)


def hits_at(k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """The share of the k most probable labels that apply."""
    return lambda y, probs, chosen: once(top(y, probs, k).sum(axis=1) / k)


def found_at(k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """The share of the labels that apply among the k most probable; 0 without labels."""
    return lambda y, probs, chosen: once(ratio(top(y, probs, k).sum(axis=1, dtype=np.float64), y.sum(axis=1)))


def gain_at(k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """Discounted gain of the k most probable labels over the best there is (Järvelin & Kekäläinen 2002); 0 without labels."""

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        hits = top(y, probs, k)
        worth = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
        best = np.r_[0.0, np.cumsum(worth)][np.minimum(y.sum(axis=1), hits.shape[1])]
        return once(ratio(hits @ worth, best))

    return sums


def surprise(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """-log of the probability given to the truth, in nats; the mean over columns with many labels."""
    if y.ndim == 2:
        return once(-np.log(np.clip(np.where(y, probs, 1 - probs), SMALLEST, 1)).mean(axis=1))
    return once(-np.log(np.clip(probs[np.arange(len(y)), y], SMALLEST, 1)))


def squares(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """(p - truth)^2, summed over the classes of a row as Brier (1950) did; the mean over columns with many labels."""
    if y.ndim == 2:
        return once(((probs - y) ** 2).mean(axis=1))
    return once((probs**2).sum(axis=1) - 2 * probs[np.arange(len(y)), y] + 1)


def claims(y: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is claimed and whether it is true, each (N, K): of the top label (K = 1), or with many, of each (K = C)."""
    if y.ndim == 2:
        return probs, y
    return probs.max(axis=1)[:, None], (most_probable(probs) == y)[:, None]


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` equal-width bins (low, high]; 0 falls into the first."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def gaps(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Truth less confidence in the bin that it falls into: S = BINS, divided by the claims a row makes."""
    confidence, true = claims(y, probs)
    return gaps_in(bin_of(confidence, BINS), confidence, true)


def gaps_of_equal_mass(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """As `gaps`, in bins that hold equally many claims (Nguyen & O'Connor 2015), fixed for all resamples."""
    confidence, true = claims(y, probs)
    edges = np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    return gaps_in(np.searchsorted(edges, confidence, side="left"), confidence, true)


def gaps_in(bins: np.ndarray, confidence: np.ndarray, true: np.ndarray) -> RowSums:
    """The gaps of claims (N, K), each in its bin."""
    n, claimed = confidence.shape
    place = np.arange(n)[:, None] * BINS + bins
    amounts = np.bincount(place.ravel(), (true - confidence).ravel(), n * BINS) / claimed
    return RowSums.dense(amounts.reshape(n, BINS))


def gaps_by_class(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Truth less probability of every class in the bin of that class that it falls into: S = C * BINS, divided by C."""
    n, classes = probs.shape
    columns = np.arange(classes) * BINS + bin_of(probs, BINS)  # (N, C)
    amounts = (indicator(y, classes) - probs) / classes
    return RowSums(n, classes * BINS, np.repeat(np.arange(n), classes), columns.ravel(), amounts.ravel())


def area_shares(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    return once(macro_shares(y, probs))


# -- values of sums, (D, S) -> (D,)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def mean(sums: np.ndarray, n: int) -> np.ndarray:
    return sums[:, 0] / n


def class_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of every class, (D, 3C) -> (D, C)."""
    hit, predicted, true = np.split(sums, 3, axis=1)
    return ratio(2 * hit, predicted + true)


def macro(sums: np.ndarray, n: int) -> np.ndarray:
    """The mean of the classes' F1, not the F1 of mean precision and recall (Opitz & Burst 2019, arXiv:1911.03347)."""
    return class_f1(sums).mean(axis=1)


def macro_of_draws(total: np.ndarray) -> Value:
    """`macro` of resamples, where a class whose true rows a resample has lost keeps the F1 that it has in all rows.

    A resample without a class says next to nothing about it. At 0 a class of few rows would put a second hump into the
    distribution, and an end of the interval would jump between the two.
    """
    known = class_f1(total[None])  # (1, C)

    def value(sums: np.ndarray, n: int) -> np.ndarray:
        return np.where(np.split(sums, 3, axis=1)[2] == 0, known, class_f1(sums)).mean(axis=1)

    return value


def micro(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, true = (part.sum(axis=1) for part in np.split(sums, 3, axis=1))
    return ratio(2 * hit, predicted + true)


def weighted(sums: np.ndarray, n: int) -> np.ndarray:
    """The mean of the classes' F1, each weighing as many as it has true rows."""
    true = np.split(sums, 3, axis=1)[2]
    return ratio((class_f1(sums) * true).sum(axis=1), true.sum(axis=1))


def correlation(sums: np.ndarray, n: int) -> np.ndarray:
    """Matthews' coefficient for C classes (Gorodkin 2004, R_K); 0 where truth or prediction is constant."""
    hit, predicted, true = np.split(sums, 3, axis=1)
    covariance = n * hit.sum(axis=1) - (predicted * true).sum(axis=1)
    spread = (n**2 - (predicted**2).sum(axis=1)) * (n**2 - (true**2).sum(axis=1))
    return ratio(covariance, np.sqrt(spread))


def mean_gap(sums: np.ndarray, n: int) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3). Few rows a bin make it too large."""
    return np.abs(sums).sum(axis=1) / n


# -- the table

MACRO, MICRO, WEIGHTED = Formula(counts, macro, macro_of_draws), Formula(counts, micro), Formula(counts, weighted)
RIGHT, SURPRISE, SQUARES = Formula(right_rows, mean), Formula(surprise, mean), Formula(squares, mean)
GAPS, MASS, BY_CLASS = (Formula(sums, mean_gap) for sums in (gaps, gaps_of_equal_mass, gaps_by_class))
AREA = Formula(area_shares, mean)
AT_1, AT_3, AT_5, GAIN = (Formula(sums, mean) for sums in (hits_at(1), hits_at(3), hits_at(5), gain_at(5)))
FOUND_5 = Formula(found_at(5), mean)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # name, words, higher is better, bounds, one label a row, any number of labels
        Metric("accuracy", "accuracy", True, (0, 1), RIGHT, None),
        Metric("subset_accuracy", "subset accuracy", True, (0, 1), None, RIGHT),  # the whole set is right
        Metric("macro_f1", "macro-F1", True, (0, 1), MACRO, MACRO),
        Metric("micro_f1", "micro-F1", True, (0, 1), MICRO, MICRO),  # with one label a row this is the accuracy
        Metric("weighted_f1", "weighted F1", True, (0, 1), WEIGHTED, WEIGHTED),
        # a row that rightly gets no label scores 1: scikit-learn's zero_division=1, not its default
        Metric("samples_f1", "samples F1", True, (0, 1), None, Formula(row_f1, mean)),
        Metric("mcc", "MCC", True, (-1, 1), Formula(counts, correlation), None),
        Metric("log_loss", "log-loss", False, (0, math.inf), SURPRISE, SURPRISE),
        # one label: the sum over classes, 0 to 2; many: the mean over all N * C binary claims, 0 to 1
        Metric("brier", "Brier score", False, (0, 2), SQUARES, SQUARES),
        # one label: the top label's confidence; many: all N * C probabilities pooled into one set of bins
        Metric("ece", "ECE", False, (0, 1), GAPS, GAPS),
        Metric("ece_mass", "ECE, equal mass", False, (0, 1), MASS, MASS),
        # the mean over classes of each one's own error (Kull 2019, arXiv:1910.12656); with many labels, over labels
        Metric("classwise_ece", "classwise ECE", False, (0, 1), BY_CLASS, BY_CLASS),
        # macro, one class against the rest, over the classes that have rows of both kinds (Hanley & McNeil 1982)
        Metric("auroc", "AUROC", True, (0, 1), AREA, AREA),
        # of the most probable labels, whatever is decided; where there are fewer than k labels the others count as wrong
        Metric("p_at_1", "P@1", True, (0, 1), None, AT_1),
        Metric("p_at_3", "P@3", True, (0, 1), None, AT_3),
        Metric("p_at_5", "P@5", True, (0, 1), None, AT_5),
        Metric("r_at_5", "R@5", True, (0, 1), None, FOUND_5),
        Metric("ndcg_at_5", "nDCG@5", True, (0, 1), None, GAIN),
    )
}


def metrics_for(multi: bool) -> list[str]:
    """The names of the metrics that are defined for one label a row, or with `multi` for any number."""
    return [name for name, metric in METRICS.items() if (metric.multi if multi else metric.single) is not None]


def undefined(name: str, *, multi: bool) -> DataError:
    """The error of a metric that there is not for such targets, with the nearest that there is."""
    kind, known = "any number of labels" if multi else "one label", metrics_for(multi)
    near = [other for other in known if name in other] or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return DataError(f"metric {name!r} is not defined where a text has {kind}; {hint}choose from {', '.join(known)}")


def named(name: str, multi: bool) -> Metric:
    """The metric of that name. Raises DataError where there is none for such targets."""
    if name not in metrics_for(multi):
        raise undefined(name, multi=multi)
    return METRICS[name]


# -- the same counts, by class and by bin


@dataclass(frozen=True)
class ClassScores:
    """How one label fares. Ratios of 0/0 are 0; auroc is nan where all rows are of one kind."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows of which it is true
    predicted: int  # rows for which it is decided
    auroc: float


def per_class(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray, labels: LabelSpace) -> list[ClassScores]:
    """One entry per label, in column order."""
    sums = counts(y, probs, chosen).total()
    hit, predicted, true = np.split(sums, 3)  # each (C,)
    table = zip(
        labels.names, ratio(hit, predicted), ratio(hit, true), class_f1(sums[None])[0], true, predicted,
        areas(y, probs), strict=True,
    )  # fmt: skip
    return [
        ClassScores(name, float(p), float(r), float(f), int(t), int(d), float(a)) for name, p, r, f, t, d, a in table
    ]


def confusion(y: np.ndarray, chosen: np.ndarray, classes: int) -> np.ndarray:
    """Rows by truth and decision, int64: (C, C) with one label a row, (C, 2, 2) with many (no before yes).

    A row with one label that was given none is not in it.
    """
    n = len(y)
    if y.ndim == 1:
        given = chosen != NOTHING
        return np.bincount(y[given] * classes + chosen[given], minlength=classes**2).reshape(classes, classes)
    hit, predicted, true = (np.sum(part, axis=0) for part in (y & chosen, chosen, y))
    cells = np.stack([n - predicted - true + hit, predicted - hit, true - hit, hit], axis=1)
    return cells.reshape(classes, 2, 2)


@dataclass(frozen=True, eq=False)
class Reliability:
    """The reliability diagram: what was claimed and what came true, per equal-width bin of confidence."""

    confidence: np.ndarray  # (bins,) mean of the bin's claims; nan where it is empty
    accuracy: np.ndarray  # (bins,) the part of them that is true; nan where it is empty
    count: np.ndarray  # (bins,) int64


def reliability(y: np.ndarray, probs: np.ndarray, bins: int = BINS) -> Reliability:
    """Claims against truth: the top label of each row, or with many labels all N * C probabilities."""
    confidence, true = (part.ravel() for part in claims(y, probs))
    place = bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    full = np.where(count == 0, np.nan, count)
    return Reliability(
        np.bincount(place, confidence, bins) / full, np.bincount(place, true.astype(np.float64), bins) / full, count
    )


# -- Murphy's (1973) parts of the Brier score: reliability - resolution + uncertainty, but for what bins smooth over


def brier_sums(y: np.ndarray, probs: np.ndarray, edges: np.ndarray | None = None) -> RowSums:
    """Of each class and bin of its probability the rows | what they claim | what came true: S = 3 * C * bins.

    edges: of the bins; None: BINS equal ones.
    """
    edges = np.linspace(0, 1, BINS + 1) if edges is None else edges
    n, classes = probs.shape
    width = classes * (len(edges) - 1)
    place = np.searchsorted(edges[1:-1], probs, side="left") + np.arange(classes) * (len(edges) - 1)  # (N, C)
    amounts = np.stack([np.ones_like(probs), probs, indicator(y, classes)])  # (3, N, C)
    columns = place + np.arange(3)[:, None, None] * width
    rows = np.broadcast_to(np.arange(n)[:, None], amounts.shape)
    return RowSums(n, 3 * width, rows.ravel(), columns.ravel(), amounts.ravel().astype(np.float64))


def brier_parts(sums: np.ndarray, n: int, *, classes: int, multi: bool) -> np.ndarray:
    """The PARTS (D, 3) of sums (D, S) over N = n rows, summed over the classes of a row, or with many labels their mean.

    How far claims are from what came true (0 is best), how far what came true in the bins is from the base rate (high is
    best), and what the base rate alone leaves open.
    """
    count, claimed, came = sums.reshape(len(sums), 3, classes, -1).transpose(1, 0, 2, 3)  # each (D, C, bins)
    base = came.sum(axis=2, keepdims=True) / n
    parts = np.stack(
        [
            ratio((claimed - came) ** 2, count).sum(axis=2),
            ratio((came - count * base) ** 2, count).sum(axis=2),
            (base * (1 - base))[..., 0] * n,
        ],
        axis=1,
    )  # (D, 3, C)
    return (parts.mean(axis=2) if multi else parts.sum(axis=2)) / n
