"""Intervals, tests and power for classifiers evaluated on the same rows.

The variance of a metric comes from resampled rows, or from row scores where it is their mean. intervals.py turns it into
an interval. The p-value comes from a randomisation test. Resampling reweights the row sums of a metric, and both
classifiers of a pair share each resample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from lasttoken.evaluation.intervals import (
    GRADED,
    PSEUDO,
    Interval,
    Parts,
    difference,
    effective,
    loss_ends,
    paired_correlation,
    share_of,
)
from lasttoken.evaluation.metrics import CALIBRATION, Metric, class_f1, mean
from lasttoken.evaluation.row_statistics import RowSums
from lasttoken.labels import is_indicator
from lasttoken.seed import generator

DRAWS = 2000
WORK, FEWEST = 2 * 10**8, 100  # row contributions summed for an interval at most, and draws at least
FEWEST_SWAPS = 1000  # of a p-value at least, as Holm multiplies it by the number of pairs
SIMULATED = 20  # simulated test sets that the noise of a calibration error is averaged over
BLOCK = 2**20  # row weights drawn at once; bounds memory to some tens of MB whatever N is
Fit = tuple[np.ndarray, np.ndarray | None]  # probabilities (N, C), decisions where they are not `decide`'s
Chosen = tuple[np.ndarray | None, np.ndarray | None]  # the decisions of A and of B, where they are not `decide`'s
ROUNDING = 1e-12  # differences closer than this are equal: sums in another order differ by about N * 1e-16


def blocks(n: int, draws: int) -> Iterator[int]:
    """Sizes of the blocks of draws that are held in memory at once; they sum to `draws`."""
    size = max(1, BLOCK // max(n, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def resamples(n: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Bootstrap resamples as blocks (B, N) of how often each row is drawn."""
    for size in blocks(n, draws):
        rows = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)


def simulated_targets(probs: np.ndarray, multi: bool) -> Iterator[np.ndarray]:
    """SIMULATED draws of targets, (N,) or (N, C), from probs (N, C): the truth if the classifier were calibrated."""
    rng, total = generator(0, "targets as they are claimed"), np.cumsum(probs, axis=1)
    for _ in range(SIMULATED):
        if multi:
            yield rng.random(probs.shape) < probs
        else:
            above = total < rng.random((len(probs), 1)) * total[:, -1:]
            yield np.minimum(above.sum(axis=1), probs.shape[1] - 1)


def beyond_chance(gaps: np.ndarray, by_chance: Sequence[np.ndarray]) -> np.ndarray:
    """Bin gaps (S,) with noise removed: 0 within two standard errors of those of a calibrated classifier (`by_chance`)."""
    return np.sqrt(np.maximum(0, gaps**2 - 4 * np.mean(np.square(by_chance), axis=0)))


def recentred(estimate: float, drawn: np.ndarray, level: float, bounds: tuple[float, float], noise: float) -> Interval:
    """The percentile interval of the draws (D,) of a calibration error, recentred on the estimate, clipped to `bounds`.

    noise: the part of the estimate that may be chance; the low end is lowered by it.
    """
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - (drawn.mean() - estimate)
    low, high = max(bounds[0], min(float(low) - noise, estimate)), min(bounds[1], max(float(high), estimate))
    return Interval(estimate, low, high, level, float(drawn.std(ddof=1)))


def affordable(draws: int, fewest: int, *sums: RowSums) -> int:
    """`draws`, or as many as WORK allows for these sums, but at least `fewest`."""
    return min(draws, max(fewest, WORK // max(1, sum(len(one.rows) for one in sums))))


def drawn_values(
    metric: Metric, y: np.ndarray, fits: Sequence[Fit], rng: np.random.Generator, draws: int
) -> np.ndarray:
    """The metric of each of F fits on the same resampled rows: (F, D)."""
    formula, n = metric.formula(y), len(y)
    sums = [metric.sums(y, probs, chosen) for probs, chosen in fits]
    values = [formula.of_draws(one) for one in sums]
    draws = affordable(draws, FEWEST, *sums)
    blocks_of = [
        [value(one.weighted(weights), n) for one, value in zip(sums, values, strict=True)]
        for weights in resamples(n, draws, rng)
    ]
    return np.concatenate([np.array(block) for block in blocks_of], axis=1)


def parts_of(metric: Metric, y: np.ndarray, total: np.ndarray, scaled: float) -> Parts:
    """The classes that the metric is a mean over, or all rows as one part.

    Matthews' coefficient is no mean, but is treated as one over classes. scaled: the metric rescaled to [0, 1]. total: its
    sums over all rows, (S,). Classes without positive or without negative rows are left out (with one label a row: those
    without rows).
    """
    n, pseudo = len(y), GRADED if metric.name == "auroc" or metric.formula(y).value is mean else PSEUDO
    whole = Parts(np.array([n]), np.ones(1), np.array([scaled]), pseudo)
    if metric.name.startswith("macro_f1") or metric.name in ("weighted_f1", "mcc"):
        true, values = np.split(total, 3)[2], class_f1(total[None])[0]
    elif metric.name == "auroc":
        true = y.sum(axis=0) if is_indicator(y) else np.bincount(y)
        true = np.minimum(true, n - true)
        true = true[:1] if not is_indicator(y) and len(true) == 2 else true  # two classes have one area
        values = np.full(len(true), scaled)
    else:
        return whole
    values = np.full(len(true), scaled) if metric.name == "mcc" else values
    rows = np.minimum(true, n - true) if is_indicator(y) else true
    there = rows > 0
    if not there.any():
        return whole
    weights = true[there] if metric.name == "weighted_f1" else np.ones(there.sum())
    missing = float(np.mean(true == 0)) if metric.name.startswith("macro_f1") else 0.0
    return Parts(rows[there], weights / weights.sum(), values[there], pseudo, missing)


def interval_of_draws(metric: Metric, y: np.ndarray, fit: Fit, drawn: np.ndarray, level: float) -> Interval:
    """The interval of a fit's metric from its draws (D,), which may be empty where the metric is a mean over rows."""
    (probs, chosen), n = fit, len(y)
    estimate = metric(y, probs, chosen)
    if n < max(2, metric.needs) or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan, level)
    row, (low, high) = metric.by_row(y, probs, chosen), metric.bounds
    if row is not None and metric.name != "auroc" and (low, high) == (0, 1) and np.isin(row, (0, 1)).all():
        return share_of(row, level)
    if row is not None and math.isinf(high):
        return Interval(estimate, *loss_ends(row, level), level, float(row.std(ddof=1)) / math.sqrt(n))
    if row is None and metric.name in CALIBRATION:
        total = metric.sums(y, probs, chosen).total()
        by_chance = [metric.sums(truth, probs).total() for truth in simulated_targets(probs, is_indicator(y))]
        left = float(metric.formula(y).value(beyond_chance(total, by_chance)[None], n)[0])
        return recentred(estimate, drawn, level, metric.bounds, estimate - left)
    # the variance of resamples is too small by (n - 1) / n
    variance = float(row.var(ddof=1)) / n if row is not None else float(np.var(drawn, ddof=1)) * n / (n - 1)
    span = high - low
    parts = parts_of(metric, y, metric.sums(y, probs, chosen).total(), (estimate - low) / span)
    ends = effective((estimate - low) / span, variance / span**2, n, parts, level)
    return Interval(estimate, low + span * ends[0], low + span * ends[1], level, math.sqrt(variance))


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
    """Interval of metric(y, probs, chosen), its variance from resampled rows. y (N,) or (N, C), probs (N, C).

    For AUROC it is the variance of the rows' pseudo-values, DeLong's (1988).
    """
    needed = len(y) >= max(2, metric.needs) and metric.by_row(y, probs, chosen) is None
    drawn = drawn_values(metric, y, [(probs, chosen)], rng, draws)[0] if needed else np.zeros(0)
    return interval_of_draws(metric, y, (probs, chosen), drawn, level)


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
    """Interval of metric(y, a) - metric(y, b), by the intervals of both and their correlation over rows.

    a, b: probabilities (N, C), row-aligned. Pairing makes it narrower than with two separate test sets.
    """
    fits: list[Fit] = [(a, chosen[0]), (b, chosen[1])]
    if len(y) < 2:
        return Interval(metric(y, a, chosen[0]) - metric(y, b, chosen[1]), math.nan, math.nan, level)
    scores = [metric.by_row(y, probs, given) for probs, given in fits]
    if scores[0] is None or scores[1] is None:
        drawn = drawn_values(metric, y, fits, rng, draws)
        error = float((drawn[0] - drawn[1]).std(ddof=1))
    else:
        drawn = np.array(scores)
        error = float((drawn[0] - drawn[1]).std(ddof=1)) / math.sqrt(len(y))
    if metric.name in CALIBRATION and len(y) >= metric.needs:  # noise cancels in the difference
        estimate = metric(y, a, chosen[0]) - metric(y, b, chosen[1])
        return recentred(estimate, drawn[0] - drawn[1], level, (-1, 1), 0.0)
    of_a, of_b = (interval_of_draws(metric, y, fit, one, level) for fit, one in zip(fits, drawn, strict=True))
    return difference(of_a, of_b, paired_correlation(drawn[0], drawn[1], len(y)), error)


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
    """Two-sided p-value of the null hypothesis that A and B are alike, by |metric(y, a) - metric(y, b)|.

    Approximate randomisation (Noreen 1989; Yeh 2000, arXiv:cs/0008005): were A and B alike, swapping their outputs on
    any rows would change nothing, so the share of random swaps with a difference at least as large is the p-value. The
    observed arrangement counts as one of them (Phipson & Smyth 2010), so p is never below 1 / (draws + 1) and the
    test's size is at most alpha at any N and for any metric: a bootstrap p-value guarantees neither. For AUROC the
    pseudo-values of rows are swapped, which is correct to first order.
    """
    observed = metric(y, a, chosen[0]) - metric(y, b, chosen[1])
    if math.isnan(observed):
        return 1.0
    formula, n = metric.formula(y), len(y)
    of_a, of_b = metric.sums(y, a, chosen[0]), metric.sums(y, b, chosen[1])
    swap = of_b.minus(of_a)  # what A gains, and B loses, by a swap
    total_a, total_b = of_a.total(), of_b.total()
    as_large, draws = 0, affordable(draws, FEWEST_SWAPS, swap)
    for size in blocks(n, draws):
        gain = swap.weighted(rng.integers(0, 2, (size, n), dtype=np.uint8))  # (B, S)
        difference = formula.value(total_a + gain, n) - formula.value(total_b - gain, n)
        as_large += int(np.sum(np.abs(difference) >= abs(observed) - ROUNDING))
    return (1 + as_large) / (1 + draws)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Exact two-sided p-value of the null hypothesis that A and B are equally often right.

    right_a, right_b: bool (N,), row-aligned. Under the null each row on which the two disagree is a fair coin
    (McNemar 1947, binomial form).
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
    """Holm-adjusted p-values of one family (Holm 1979): the family-wise error rate stays below alpha.

    nan (a test that was not made) stays nan and is not counted.
    """
    made = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def minimum_detectable_effect(
    standard_error: float, *, alpha: float = 0.05, power: float = 0.8, freedom: float = math.inf
) -> float:
    """The true difference that is detected with probability `power` at two-sided level `alpha`.

    (z_{1 - alpha/2} + z_{power}) * standard error, the normal approximation (Card et al. 2020, arXiv:2010.06595).
    freedom: degrees of freedom of a t test, whose quantiles then take the place of the normal's.
    """
    if math.isfinite(freedom):
        from scipy.special import stdtrit

        return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, power)) * standard_error
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def detectable_rows(*, alpha: float = 0.05, power: float = 0.8) -> float:
    """Rows that only the better of two classifiers has right, on average, from which an exact test shows it.

    With k such rows and none of the other kind the exact p is 2^(1 - k); it takes k of them for p <= alpha, and their
    number is Poisson. Where few rows differ no standard error tells of this.
    """
    from scipy.special import gammaincinv

    return float(gammaincinv(math.ceil(math.log2(2 / alpha)), power))  # the mean whose P(k or more) is `power`
