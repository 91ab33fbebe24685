"""All metrics of probabilities and decisions, as metric(y, probs) -> float.

y is (N,) int64 (one label a row) or (N, C) bool (any number), probs (N, C). Decisions default to those of `decide`; give
others, shaped as y, as metric(y, probs, chosen). A label that is neither true nor predicted anywhere has F1 0 and stays in
the macro average, or else a classifier could raise its score by leaving labels out. A label's F1 of 0/0 is 0, a row's 1.
A metric of no rows is nan.

Each metric is a function of sums over rows (row_statistics.py); significance.py resamples those sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lasttoken.errors import DataError
from lasttoken.evaluation.auroc import areas, indicator, macro_shares
from lasttoken.evaluation.predictions import decide, most_probable
from lasttoken.evaluation.row_statistics import RowSums
from lasttoken.labels import NOTHING, LabelSpace, is_indicator
from lasttoken.wording import closest

HEADLINE = "macro_f1"  # the default metric of comparisons
BINS = 15  # of the calibration error and of the reliability diagram
PROBABILISTIC = (
    "log_loss", "brier", "ece", "ece_mass", "classwise_ece", "auroc", "p_at_1", "p_at_3", "p_at_5", "r_at_5", "ndcg_at_5"
)  # fmt: skip
FEW = 40  # rows below which calibration errors and Matthews' coefficient get no interval: its coverage is too low
CALIBRATION = ("ece", "ece_mass", "classwise_ece")
PARTS = ("reliability", "resolution", "uncertainty")  # of the Brier score
SMALLEST = float(np.finfo(np.float64).eps)  # a probability of 0 costs 36 nats, not infinity


Value = Callable[[np.ndarray, int], np.ndarray]  # (sums (D, S), N) -> (D,)


@dataclass(frozen=True)
class Formula:
    """A metric as a function of sums over rows."""

    sums: Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]  # (y, probs, chosen) -> N rows of S contributions
    value: Value
    drawn: Callable[[np.ndarray], Value] | None = None  # sums of all rows (S,) -> `value` of resamples; None: the same

    def of_draws(self, rows: RowSums) -> Value:
        """The value of resamples of `rows`."""
        return self.value if self.drawn is None else self.drawn(rows.total())


@dataclass(frozen=True)
class Metric:
    """metric(y, probs, chosen) -> float, with its name, direction and bounds."""

    name: str  # macro_f1
    words: str  # macro-F1
    higher_is_better: bool
    bounds: tuple[float, float]
    single: Formula | None  # None: not defined for one label a row
    multi: Formula | None
    needs: int = 2  # rows below which no interval is given

    def place(self, estimate: float | None) -> float:
        """Sort key: the best estimate first, undefined ones (None, nan) last."""
        if estimate is None or math.isnan(estimate):
            return math.inf
        return -estimate if self.higher_is_better else estimate

    @property
    def of_decisions(self) -> bool:
        """Whether it depends on decisions alone, not on probabilities."""
        return self.name not in PROBABILISTIC

    def by_row(self, y: np.ndarray, probs: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray | None:
        """The score of each row (N,) if the metric is their mean, else None."""
        if self.name == "micro_f1" and not is_indicator(y):
            decided = decide(probs, False) if chosen is None else chosen
            return exact(y, decided).astype(np.float64) if (decided != NOTHING).all() else None
        formula = self.formula(y)
        if formula.value is not mean:
            return None
        sums = self.sums(y, probs, chosen)
        return np.bincount(sums.rows, sums.amounts, sums.n)

    def formula(self, y: np.ndarray) -> Formula:
        """The formula for targets such as y. Raises DataError where the metric is not defined for them."""
        formula = self.multi if is_indicator(y) else self.single
        if formula is None:
            raise undefined(self.name, multi=is_indicator(y))
        return formula

    def sums(self, y: np.ndarray, probs: np.ndarray, chosen: np.ndarray | None = None) -> RowSums:
        """The contributions of each row."""
        return self.formula(y).sums(y, probs, decide(probs, is_indicator(y)) if chosen is None else chosen)

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
    """Counts of each class: true positives | predicted | true, S = 3C."""
    n, classes = probs.shape
    if is_indicator(y):
        rows, columns = np.nonzero(np.concatenate([y & chosen, chosen, y], axis=1))
    else:
        hit, given, every = np.flatnonzero(y == chosen), np.flatnonzero(chosen != NOTHING), np.arange(len(y))
        rows = np.concatenate([hit, given, every])
        columns = np.concatenate([y[hit], chosen[given] + classes, y + 2 * classes])
    return RowSums.marks(n, 3 * classes, rows, columns)


def exact(y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether each row's decision is right, (N,) bool; with many labels, whether its whole set is."""
    right = chosen == y
    return right.all(axis=1) if is_indicator(y) else right


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
    """Precision at k: the share of the k most probable labels that apply."""
    return lambda y, probs, chosen: once(top(y, probs, k).sum(axis=1) / k)


def found_at(k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """Recall at k: the share of a row's labels among its k most probable ones; 0 for a row without labels."""
    return lambda y, probs, chosen: once(ratio(top(y, probs, k).sum(axis=1, dtype=np.float64), y.sum(axis=1)))


def gain_at(k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """nDCG at k (Järvelin & Kekäläinen 2002); 0 for a row without labels."""

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        hits = top(y, probs, k)
        discount = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
        best = np.r_[0.0, np.cumsum(discount)][np.minimum(y.sum(axis=1), hits.shape[1])]
        return once(ratio(hits @ discount, best))

    return sums


def surprise(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Log-loss of each row, in nats; with many labels the mean over columns."""
    if is_indicator(y):
        return once(-np.log(np.clip(np.where(y, probs, 1 - probs), SMALLEST, 1)).mean(axis=1))
    return once(-np.log(np.clip(probs[np.arange(len(y)), y], SMALLEST, 1)))


def squares(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """(p - truth)^2, summed over the classes of a row (Brier 1950); with many labels the mean over columns."""
    if is_indicator(y):
        return once(((probs - y) ** 2).mean(axis=1))
    return once((probs**2).sum(axis=1) - 2 * probs[np.arange(len(y)), y] + 1)


def claims(y: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, whether it is right), each (N, K): of the top label (K = 1), or with many labels of each (K = C)."""
    if is_indicator(y):
        return probs, y
    return probs.max(axis=1)[:, None], (most_probable(probs) == y)[:, None]


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Index of the equal-width bin (low, high] of [0, 1]; 0 falls into the first."""
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")


def gaps(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Truth minus confidence, summed in equal-width bins of confidence and divided by K: S = BINS."""
    confidence, true = claims(y, probs)
    return gaps_in(bin_of(confidence, BINS), confidence, true)


def gaps_of_equal_mass(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """As `gaps`, in bins of equal mass (Nguyen & O'Connor 2015), whose edges are fixed for all resamples."""
    confidence, true = claims(y, probs)
    edges = np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    return gaps_in(np.searchsorted(edges, confidence, side="left"), confidence, true)


def gaps_in(bins: np.ndarray, confidence: np.ndarray, true: np.ndarray) -> RowSums:
    """Truth minus confidence (N, K), summed by bin."""
    n, claimed = confidence.shape
    place = np.arange(n)[:, None] * BINS + bins
    amounts = np.bincount(place.ravel(), (true - confidence).ravel(), n * BINS) / claimed
    return RowSums.dense(amounts.reshape(n, BINS))


def gaps_by_class(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Truth minus probability of every class, summed in bins of each class and divided by C: S = C * BINS."""
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
    """Mean F1 over classes, not the F1 of mean precision and recall (Opitz & Burst 2019, arXiv:1911.03347)."""
    return class_f1(sums).mean(axis=1)


def macro_of_draws(total: np.ndarray) -> Value:
    """`macro` of resamples; a class without true rows in a resample keeps its F1 over all rows.

    Set to 0, a class of few rows would give the distribution a second mode, and the ends of intervals would jump.
    """
    known = class_f1(total[None])  # (1, C)

    def value(sums: np.ndarray, n: int) -> np.ndarray:
        return np.where(np.split(sums, 3, axis=1)[2] == 0, known, class_f1(sums)).mean(axis=1)

    return value


def micro(sums: np.ndarray, n: int) -> np.ndarray:
    hit, predicted, true = (part.sum(axis=1) for part in np.split(sums, 3, axis=1))
    return ratio(2 * hit, predicted + true)


def weighted(sums: np.ndarray, n: int) -> np.ndarray:
    """Mean F1 over classes, weighted by their true rows."""
    true = np.split(sums, 3, axis=1)[2]
    return ratio((class_f1(sums) * true).sum(axis=1), true.sum(axis=1))


def correlation(sums: np.ndarray, n: int) -> np.ndarray:
    """Matthews' coefficient for C classes (Gorodkin 2004, R_K); 0 where truth or prediction is constant."""
    hit, predicted, true = np.split(sums, 3, axis=1)
    covariance = n * hit.sum(axis=1) - (predicted * true).sum(axis=1)
    spread = (n**2 - (predicted**2).sum(axis=1)) * (n**2 - (true**2).sum(axis=1))
    return ratio(covariance, np.sqrt(spread))


def mean_gap(sums: np.ndarray, n: int) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3). Biased upwards by bins with few rows."""
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
        # a row that correctly gets no label scores 1: scikit-learn's zero_division=1, not its default
        Metric("samples_f1", "samples F1", True, (0, 1), None, Formula(row_f1, mean)),
        Metric("mcc", "MCC", True, (-1, 1), Formula(counts, correlation), None, FEW),
        Metric("log_loss", "log-loss", False, (0, math.inf), SURPRISE, SURPRISE),
        # one label: the sum over classes, 0 to 2; many: the mean over all N * C binary claims, 0 to 1
        Metric("brier", "Brier score", False, (0, 2), SQUARES, SQUARES),
        # one label: the top label's confidence; many: all N * C probabilities pooled into one set of bins
        Metric("ece", "ECE", False, (0, 1), GAPS, GAPS, FEW),
        Metric("ece_mass", "ECE, equal mass", False, (0, 1), MASS, MASS, FEW),
        # the mean over classes of each one's own error (Kull 2019, arXiv:1910.12656); with many labels, over labels
        Metric("classwise_ece", "classwise ECE", False, (0, 1), BY_CLASS, BY_CLASS, FEW),
        # macro, one class against the rest, over the classes with positive and negative rows (Hanley & McNeil 1982)
        Metric("auroc", "AUROC", True, (0, 1), AREA, AREA),
        # of the k most probable labels, whatever is decided; with C < k the missing ones count as wrong
        Metric("p_at_1", "P@1", True, (0, 1), None, AT_1),
        Metric("p_at_3", "P@3", True, (0, 1), None, AT_3),
        Metric("p_at_5", "P@5", True, (0, 1), None, AT_5),
        Metric("r_at_5", "R@5", True, (0, 1), None, FOUND_5),
        Metric("ndcg_at_5", "nDCG@5", True, (0, 1), None, GAIN),
    )
}


def metrics_for(multi: bool) -> list[str]:
    """Names of the metrics defined for one label a row, or with `multi` for any number."""
    return [name for name, metric in METRICS.items() if (metric.multi if multi else metric.single) is not None]


def undefined(name: str, *, multi: bool) -> DataError:
    """The error that a metric is not defined for such targets, with a suggestion."""
    kind, known = "any number of labels" if multi else "one label", metrics_for(multi)
    meant = next((other for other in known if name in other), "") or closest(name, known)
    hint = f"did you mean {meant}? " if meant else ""
    return DataError(f"metric {name!r} is not defined where a text has {kind}; {hint}choose from {', '.join(known)}")


def named(name: str, multi: bool) -> Metric:
    """The metric called `name`. Raises DataError where it is not defined for such targets."""
    if name not in metrics_for(multi):
        raise undefined(name, multi=multi)
    return METRICS[name]


# -- the same counts, by class and by bin


@dataclass(frozen=True)
class ClassScores:
    """Scores of one label. Ratios of 0/0 are 0; auroc is nan where all rows are positive, or all negative."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows that have the label
    predicted: int  # rows that were given the label
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
    """Confusion matrix, int64, truth by decision: (C, C) with one label a row, (C, 2, 2) with many (no before yes).

    With one label a row, rows whose decision is NOTHING are left out.
    """
    n = len(y)
    if not is_indicator(y):
        given = chosen != NOTHING
        return np.bincount(y[given] * classes + chosen[given], minlength=classes**2).reshape(classes, classes)
    hit, predicted, true = (np.sum(part, axis=0) for part in (y & chosen, chosen, y))
    cells = np.stack([n - predicted - true + hit, predicted - hit, true - hit, hit], axis=1)
    return cells.reshape(classes, 2, 2)


@dataclass(frozen=True, eq=False)
class Reliability:
    """The reliability diagram: confidence and accuracy by equal-width bin of confidence."""

    confidence: np.ndarray  # (bins,) mean confidence; nan in empty bins
    accuracy: np.ndarray  # (bins,) share that is right; nan in empty bins
    count: np.ndarray  # (bins,) int64


def reliability(y: np.ndarray, probs: np.ndarray, bins: int = BINS) -> Reliability:
    """Reliability of the top label of each row, or with many labels of all N * C probabilities."""
    confidence, true = (part.ravel() for part in claims(y, probs))
    place = bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    full = np.where(count == 0, np.nan, count)
    return Reliability(
        np.bincount(place, confidence, bins) / full, np.bincount(place, true.astype(np.float64), bins) / full, count
    )


# -- Murphy's (1973) decomposition of the Brier score: reliability - resolution + uncertainty, up to binning


def brier_sums(y: np.ndarray, probs: np.ndarray, edges: np.ndarray | None = None) -> RowSums:
    """By class and bin of its probability: rows | sum of probabilities | true rows, S = 3 * C * bins.

    edges of the bins; None: BINS of equal width.
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
    """The PARTS (D, 3) of sums (D, S) over n rows, summed over classes, or with many labels their mean.

    Reliability: distance of probabilities from observed frequencies (0 is best). Resolution: distance of observed
    frequencies from the base rate (high is best). Uncertainty: variance of the truth at the base rate.
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
