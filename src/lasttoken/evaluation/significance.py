"""Is A better than B, or lucky? Intervals, tests and power for classifiers judged on the same rows.

The interval is a bootstrap of rows, the p-value a randomisation test; the two answer different questions and neither
is made from the other. All resampling goes through the sums that a metric is a value of, and both classifiers of a pair
always meet the same draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lasttoken.evaluation.metrics import Metric
from lasttoken.evaluation.rowsums import RowSums

DRAWS = 2000
WORK, FEWEST = 2 * 10**8, 100  # contributions of rows that an interval may cost, and draws that it has at least
FEWEST_SWAPS = 1000  # of a p-value, which Holm multiplies by the number of pairs
BLOCK = 2**20  # row weights drawn at once; bounds memory to some tens of MB whatever N is
Chosen = tuple[np.ndarray | None, np.ndarray | None]  # the decisions of A and of B, where they are not `decide`'s
ROUNDING = 1e-12  # differences closer than this are equal: sums in another order differ by about N * 1e-16


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds it. The ends are nan where N < 2 or the estimate is undefined."""

    estimate: float
    low: float
    high: float
    level: float  # 0.95 means a 95 % interval
    standard_error: float = math.nan  # of the estimate

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: estimate, low, high, level; None stands for nan."""
        found = {"estimate": self.estimate, "low": self.low, "high": self.high, "level": self.level}
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def blocks(n: int, draws: int) -> Iterator[int]:
    """How many draws of N rows to hold at once, until `draws` are made."""
    size = max(1, BLOCK // max(n, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def resamples(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks (B, N) of how often each row is drawn, when N rows are drawn with replacement."""
    for size in blocks(n, draws):
        rows = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)


def interval(estimate: float, drawn: np.ndarray, level: float, bounds: tuple[float, float]) -> Interval:
    """The percentile interval of the draws (D,), moved so that their mean is the estimate, cut to `bounds`.

    The move matters where a metric is biased in resamples: a rare label is missing from many of them and drags
    macro-F1 down, noise adds to every bin of the calibration error, and the plain percentile interval can miss its own
    estimate. So moved, the interval is about the score to expect on another test set of this size and kind.
    """
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - (drawn.mean() - estimate)
    low, high = max(bounds[0], min(float(low), estimate)), min(bounds[1], max(float(high), estimate))
    return Interval(estimate, low, high, level, float(drawn.std(ddof=1)))


def unanimous(metric: Metric, estimate: float, y: np.ndarray, total: np.ndarray, level: float) -> Interval:
    """The interval of a metric that is the same in every resample: all rows, or all rows of a class, are alike.

    Resampling such rows shows no spread, yet the next row may differ. An open end is that of a share of n rows without
    an exception (Clopper & Pearson 1934), carried over to the metric's range: [.964, 1] for 100 rows at 95 %. Of a mean
    over classes each has such an end of its own, and their squares add, as if they were independent. total: the metric's sums
    over all rows.
    """
    low, high = metric.bounds
    rows, weights = metric.parts(y, total)
    ends = 1 - ((1 - level) / 2) ** (1 / rows)
    room = (high - low) * float(np.sqrt(((weights * ends) ** 2).sum()))
    return Interval(estimate, max(low, estimate - room), min(high, estimate + room), level, 0.0)


def share_of(values: np.ndarray, level: float = 0.95) -> Interval:
    """The mean of N values between 0 and 1 with its interval: exact where they are all 0 or 1 (Clopper & Pearson 1934),
    normal else. Undefined for no values.
    """
    from scipy.stats import beta

    n, tail = len(values), (1 - level) / 2
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, level)
    mean = float(values.mean())
    if not np.isin(values, (0, 1)).all():
        room = NormalDist().inv_cdf(1 - tail) * float(values.std(ddof=1)) / math.sqrt(n)
        return Interval(mean, max(0.0, mean - room), min(1.0, mean + room), level)
    hits = int(values.sum())
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return Interval(mean, low, high, level)


def affordable(draws: int, fewest: int, *sums: RowSums) -> int:
    """`draws`, or as many as WORK allows of these contributions, `fewest` at least."""
    return min(draws, max(fewest, WORK // max(1, sum(len(one.rows) for one in sums))))


def bootstrap(
    metric: Metric,
    y: np.ndarray,
    probs: np.ndarray,
    chosen: np.ndarray | None = None,
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(y, probs, chosen) from resampled rows (Efron & Tibshirani 1993). y (N,) or (N, C), probs (N, C).

    For AUROC the rows' pseudo-values are resampled, which is DeLong's interval (1988) in all but the normal tails.
    """
    estimate = metric(y, probs, chosen)
    if len(y) < 2 or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan, level)
    n, sums = len(y), metric.sums(y, probs, chosen)
    value = metric.formula(y).of_draws(sums)
    draws = affordable(draws, FEWEST, sums)
    drawn = np.concatenate([value(sums.weighted(weights), n) for weights in resamples(n, draws, rng)])
    if math.isfinite(metric.bounds[1]) and np.ptp(drawn) < ROUNDING:
        return unanimous(metric, estimate, y, sums.total(), level)
    return interval(estimate, drawn, level, metric.bounds)


def bootstrap_difference(
    metric: Metric,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    chosen: Chosen = (None, None),
    rng: np.random.Generator,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(y, a) - metric(y, b), resampling rows jointly. a, b: probabilities (N, C), row-aligned.

    Joint resampling keeps the pairing, which is what makes the interval narrower than the difference of two separate
    ones (Efron & Tibshirani 1993).
    """
    estimate = metric(y, a, chosen[0]) - metric(y, b, chosen[1])
    if len(y) < 2 or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan, level)
    formula, n = metric.formula(y), len(y)
    of_a, of_b = metric.sums(y, a, chosen[0]), metric.sums(y, b, chosen[1])
    value_a, value_b = formula.of_draws(of_a), formula.of_draws(of_b)
    draws = affordable(draws, FEWEST, of_a, of_b)
    drawn = [
        value_a(of_a.weighted(weights), n) - value_b(of_b.weighted(weights), n) for weights in resamples(n, draws, rng)
    ]
    return interval(estimate, np.concatenate(drawn), level, (-math.inf, math.inf))


def randomisation(
    metric: Metric,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    chosen: Chosen = (None, None),
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> float:
    """Two-sided p-value that A and B are alike, judged by |metric(y, a) - metric(y, b)|.

    Approximate randomisation (Noreen 1989; Yeh 2000, arXiv:cs/0008005): were A and B alike, swapping their outputs on
    any rows would change nothing, so the share of random swaps with a difference at least as large is the p-value. The
    observed arrangement counts as one of them (Phipson & Smyth 2010), so p is never below 1 / (draws + 1) and the
    test's size is at most alpha at any N and for any metric: a bootstrap p-value promises neither. For AUROC it is the
    rows' pseudo-values that are swapped, which is right to first order.
    """
    observed = metric(y, a, chosen[0]) - metric(y, b, chosen[1])
    if math.isnan(observed):
        return 1.0
    formula, n = metric.formula(y), len(y)
    of_a, of_b = metric.sums(y, a, chosen[0]), metric.sums(y, b, chosen[1])
    moved = of_b.minus(of_a)  # what A gains, and B loses, by a swap
    total_a, total_b = of_a.total(), of_b.total()
    as_large, draws = 0, affordable(draws, FEWEST_SWAPS, moved)
    for size in blocks(n, draws):
        gain = moved.weighted(rng.integers(0, 2, (size, n), dtype=np.uint8))  # (B, S)
        difference = formula.value(total_a + gain, n) - formula.value(total_b - gain, n)
        as_large += int(np.sum(np.abs(difference) >= abs(observed) - ROUNDING))
    return (1 + as_large) / (1 + draws)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Exact two-sided p-value that A and B are equally often right.

    right_a, right_b: bool (N,), row i of both about the same text. Only the rows on which the two disagree carry
    evidence; under the null each such row is a fair coin (McNemar 1947, binomial form).
    """
    only_a = int(np.sum(right_a & ~right_b))
    only_b = int(np.sum(~right_a & right_b))
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    ways = tail = 1  # ways to choose i of n, as exact integers
    for i in range(k):
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family adjusted so that its chance of any false claim stays below alpha (Holm 1979).

    nan, of a test that was not made, stays nan and is no part of the family.
    """
    made = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def minimum_detectable_effect(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a test set with this standard error shows in `power` of cases, at two-sided `alpha`.

    (z_{1 - alpha/2} + z_{power}) * standard error, the normal approximation (Card et al. 2020, arXiv:2010.06595).
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error
