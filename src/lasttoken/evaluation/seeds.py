"""Several fits of one method, a seed each, judged on the same rows: what another test set and another seed would change.

Rows and seeds are crossed, so their variances are estimated apart and added. A mean over three seeds stands on three
draws however large the test set is, which Student's t with Satterthwaite's degrees of freedom says. What fits differ in
on single rows counts in both variances, which errs to the side of showing nothing: taken out of one of them, an
estimate from three seeds would often fall to 0 and claim too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lasttoken.evaluation.metrics import Metric, exact
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import FEWEST, ROUNDING, Interval, affordable, resamples, unanimous

Repeats = Sequence[Predictions]  # of one method, a seed each, on the same rows in the same order


def values(metric: Metric, repeats: Repeats) -> np.ndarray:
    """The metric of each fit, (S,)."""
    return np.array([metric(one.targets, one.probs, one.chosen) for one in repeats])


def drawn_means(metric: Metric, groups: Sequence[Repeats], *, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The mean metric of each group of fits over resampled rows, the same rows for all: (G, D)."""
    y = groups[0][0].targets
    formula, n = metric.formula(y), len(y)
    sums = [[metric.sums(y, one.probs, one.chosen) for one in repeats] for repeats in groups]
    judged = [[(one, formula.of_draws(one)) for one in repeats] for repeats in sums]
    draws = affordable(draws, FEWEST, *(one for repeats in sums for one in repeats))
    blocks = [
        [np.mean([value(one.weighted(weights), n) for one, value in repeats], axis=0) for repeats in judged]
        for weights in resamples(n, draws, rng)
    ]
    return np.concatenate([np.array(block) for block in blocks], axis=1)


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

    by_row: its variance over test sets of N = `n` rows; by_seed: of each mean the values of its seeds, (S,), two or more.
    Variances are added, their degrees of freedom are Satterthwaite's (1946). An estimate without any spread, whose rows
    all agree, has the p-value of a sign test.
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
    """The mean of a metric over two or more seeds, with the interval that holds it for other rows and other seeds."""
    found = values(metric, repeats)
    n = len(repeats[0])
    by_row = drawn_means(metric, [repeats], rng=rng, draws=draws)[0].var(ddof=1) if n > 1 else math.nan
    if math.isfinite(metric.bounds[1]) and n > 1 and np.ptp(found) < ROUNDING and by_row < ROUNDING**2:
        y, first = repeats[0].targets, repeats[0]
        return unanimous(metric, float(found[0]), y, metric.sums(y, first.probs, first.chosen).total(), level)
    return over_seeds(float(found.mean()), float(by_row), n, [found], level=level, bounds=metric.bounds)[0]


def compare_means(
    metric: Metric, a: Repeats, b: Repeats, *, rng: np.random.Generator, draws: int, level: float = 0.95
) -> tuple[Interval, float]:
    """(interval, two-sided p-value) of the mean metric of `a` less that of `b`; one of them may have a single seed.

    A method with one seed is taken as the fit that it is: what another seed would change in it stays unknown.
    """
    of_a, of_b = values(metric, a), values(metric, b)
    n = len(a[0])
    by_row = math.nan
    if n > 1:
        mean_a, mean_b = drawn_means(metric, [a, b], rng=rng, draws=draws)
        by_row = float((mean_a - mean_b).var(ddof=1))
    several = [found for found in (of_a, of_b) if len(found) > 1]
    return over_seeds(float(of_a.mean() - of_b.mean()), by_row, n, several, level=level)


def right_share(repeats: Repeats) -> np.ndarray:
    """The share of seeds that decided each row exactly right, (N,)."""
    return np.mean([exact(one.targets, one.chosen) for one in repeats], axis=0)
