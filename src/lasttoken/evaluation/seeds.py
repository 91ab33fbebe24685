"""Means over seeds: intervals and tests that cover both another test set and other seeds.

Rows and seeds are crossed, so their variances are estimated separately and added. A mean over three seeds rests on three
draws however large the test set is; Student's t with Satterthwaite's degrees of freedom accounts for that. The
interaction of row and seed counts in both variances, which is conservative: subtracted from one of them, an estimate
from three seeds would often be 0, and differences would be claimed too often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lasttoken.evaluation.intervals import Interval, difference, paired_correlation
from lasttoken.evaluation.metrics import Metric, exact
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import ROUNDING, drawn_values, interval_of_draws

Repeats = Sequence[Predictions]  # fits of one method with different seeds, on the same rows in the same order


def values(metric: Metric, repeats: Repeats) -> np.ndarray:
    """The metric of each fit, (S,)."""
    return np.array([metric(one.targets, one.probs, one.chosen) for one in repeats])


def over_rows(metric: Metric, repeats: Repeats, drawn: np.ndarray, level: float) -> Interval:
    """The mean metric over fits, with the interval for other test rows alone. drawn: metric of each fit on resamples (S, D).

    Its half-widths are the mean half-widths of single fits, scaled by the ratio of the mean's spread to theirs.
    """
    y = repeats[0].targets
    own = [
        interval_of_draws(metric, y, (one.probs, one.chosen), draws, level)
        for one, draws in zip(repeats, drawn, strict=True)
    ]
    whole, single = float(drawn.mean(axis=0).var(ddof=1)), float(drawn.var(axis=1, ddof=1).mean())
    less = math.sqrt(whole / single) if single > ROUNDING**2 else 1.0
    estimate = float(np.mean([one.estimate for one in own]))
    below = less * float(np.mean([one.estimate - one.low for one in own]))
    above = less * float(np.mean([one.high - one.estimate for one in own]))
    return Interval(estimate, estimate - below, estimate + above, level, math.sqrt(whole))


def drawn_of(metric: Metric, groups: Sequence[Repeats], rng: np.random.Generator, draws: int) -> list[np.ndarray]:
    """The metric of each fit on resampled rows, one (S, D) for each group; all fits share the resamples."""
    fits = [(one.probs, one.chosen) for repeats in groups for one in repeats]
    whole = drawn_values(metric, groups[0][0].targets, fits, rng, draws)
    return np.split(whole, np.cumsum([len(repeats) for repeats in groups])[:-1])


def wider(found: Interval, rows: Interval) -> Interval:
    """`found` widened to contain the interval for rows alone; no interval where that has none."""
    if math.isnan(found.low) or math.isnan(rows.low):
        return replace(found, low=math.nan, high=math.nan)
    return replace(found, low=min(found.low, rows.low), high=max(found.high, rows.high))


def over_seeds(
    estimate: float,
    by_row: float,
    n: int,
    by_seed: Sequence[np.ndarray],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[Interval, float]:
    """Interval, and two-sided p-value against 0, of a sum or difference of means over seeds.

    by_row: variance over test sets of N = `n` rows; by_seed: for each mean the values of its seeds (S,), two or more.
    Variances are added, with Satterthwaite's (1946) degrees of freedom. An estimate without any spread, on whose rows all
    fits agree, gets the p-value of a sign test.
    """
    parts = [(by_row, n - 1), *((found.var(ddof=1) / len(found), len(found) - 1) for found in by_seed)]
    whole = sum(variance for variance, _ in parts)
    if not math.isfinite(estimate) or n < 2:
        return Interval(estimate, math.nan, math.nan, level), 1.0
    if whole < ROUNDING**2:
        return Interval(estimate, estimate, estimate, level, 0.0), 1.0 if abs(estimate) < ROUNDING else 0.5 ** (n - 1)
    from scipy.stats import t

    freedom = whole**2 / sum(variance**2 / df for variance, df in parts)
    error = math.sqrt(whole)
    room = float(t.ppf((1 + level) / 2, freedom)) * error
    found = Interval(estimate, max(bounds[0], estimate - room), min(bounds[1], estimate + room), level, error)
    return found, float(2 * t.sf(abs(estimate) / error, freedom))


def measure_mean(
    metric: Metric, repeats: Repeats, *, rng: np.random.Generator, draws: int, level: float = 0.95
) -> Interval:
    """The mean of a metric over two or more seeds, with its interval for other rows and other seeds."""
    found, n = values(metric, repeats), len(repeats[0])
    if n < 2:
        return Interval(float(found.mean()), math.nan, math.nan, level)
    (drawn,) = drawn_of(metric, [repeats], rng, draws)
    rows = over_rows(metric, repeats, drawn, level)
    both, _ = over_seeds(rows.estimate, rows.standard_error**2, n, [found], level=level, bounds=metric.bounds)
    return wider(both, rows)


def compare_means(
    metric: Metric, a: Repeats, b: Repeats, *, rng: np.random.Generator, draws: int, level: float = 0.95
) -> tuple[Interval, float]:
    """(interval, two-sided p-value) of the mean metric of `a` minus that of `b`; one of them may have a single seed.

    With one seed a method is judged as this one fit; its variance between seeds is not covered.
    """
    of_a, of_b = values(metric, a), values(metric, b)
    n, estimate = len(a[0]), float(of_a.mean() - of_b.mean())
    if n < 2:
        return Interval(estimate, math.nan, math.nan, level), 1.0
    drawn_a, drawn_b = drawn_of(metric, [a, b], rng, draws)
    mean_a, mean_b = drawn_a.mean(axis=0), drawn_b.mean(axis=0)
    by_row = float((mean_a - mean_b).var(ddof=1))
    several = [found for found in (of_a, of_b) if len(found) > 1]
    both, p = over_seeds(estimate, by_row, n, several, level=level)
    rows_a, rows_b = over_rows(metric, a, drawn_a, level), over_rows(metric, b, drawn_b, level)
    correlation = paired_correlation(mean_a, mean_b, n)
    return wider(both, difference(rows_a, rows_b, correlation, math.sqrt(by_row))), p


def right_share(repeats: Repeats) -> np.ndarray:
    """The share of seeds that decided each row exactly right, (N,)."""
    return np.mean([exact(one.targets, one.chosen) for one in repeats], axis=0)
