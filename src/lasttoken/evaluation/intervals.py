"""Confidence intervals that are valid from eight rows on; bench/quality/coverage.py simulates their coverage.

A share of rows gets the exact interval of Clopper & Pearson (1934). Any other bounded metric gets the same interval with
the effective number of rows, at which a share has the metric's variance (Korn & Graubard 1998, Survey Methodology 24).
Pseudo-rows (Agresti & Coull 1998) keep that variance above 0 where all rows of a class are right, or all are wrong.
For many rows both agree with the bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

PSEUDO = 4.0  # rows added to each class, half of them right (Agresti & Coull 1998)
GRADED = 0.5  # the same where the score of a row is graded, not just 0 or 1: a few such rows carry more information
LEAST_EFFECTIVE = 30  # effective rows, (sum x)^2 / sum x^2 (Kish 1965), below which a mean loss gets no interval
UNCORRELATED = 4  # pseudo-rows with correlation 0, added where two classifiers are compared


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; its ends are nan where there are too few rows or no estimate."""

    estimate: float
    low: float
    high: float
    level: float  # 0.95 means a 95 % interval
    standard_error: float = math.nan  # of the estimate

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: estimate, low, high, level; None stands for nan."""
        values = {"estimate": self.estimate, "low": self.low, "high": self.high, "level": self.level}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts that a metric is a weighted mean of: the classes, or all rows as one part."""

    rows: np.ndarray  # (P,) rows that each part is estimated from
    weights: np.ndarray  # (P,) summing to 1
    values: np.ndarray  # (P,) the metric of each, between 0 and 1
    pseudo: float = PSEUDO  # rows added to each part
    missing: float = 0.0  # share of the classes that have no row and count 0


def share_of(values: np.ndarray, level: float = 0.95) -> Interval:
    """The mean of N values between 0 and 1 with its interval, exact where all are 0 or 1. Undefined for no values."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, level)
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) / n if n > 1 else 0.0
    if np.isin(values, (0, 1)).all():
        return Interval(mean, *clopper_pearson(mean * n, n, level), level, math.sqrt(variance))
    whole = Parts(np.array([n]), np.ones(1), np.array([mean]), GRADED)
    return Interval(mean, *effective(mean, variance, n, whole, level), level, math.sqrt(variance))


def clopper_pearson(hits: float, n: float, level: float) -> tuple[float, float]:
    """The ends of the exact interval of hits / n (Clopper & Pearson 1934); hits and n may be fractions."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def effective(mean: float, variance: float, n: int, parts: Parts, level: float) -> tuple[float, float]:
    """The ends of the interval of a metric between 0 and 1, by its variance and by its parts.

    A class without rows may score like the others, or 0: the interval covers both. Student's t with n - 1 degrees of
    freedom replaces the normal, and the interval is never narrower than that of rows that are all right or all wrong.
    """
    from scipy.special import stdtrit

    there = 1 - parts.missing
    mean, variance = min(1.0, max(0.0, mean / there)), variance / there**2  # sums of floats may exceed the range
    shrunk = (parts.rows * parts.values + parts.pseudo / 2) / (parts.rows + parts.pseudo)  # (P,)
    added = np.maximum(0, shrunk * (1 - shrunk) - parts.values * (1 - parts.values)) / parts.rows
    added = float((parts.weights**2 * added).sum())
    middle = float((parts.weights * shrunk).sum())
    tail = (1 - level) / 2
    stretch = (float(stdtrit(n - 1, tail)) / NormalDist().inv_cdf(tail)) ** 2 if n > 1 else 1.0
    least = (
        parts.pseudo / 4 * float((parts.weights**2 / (parts.rows + parts.pseudo) ** 2).sum())
    )  # where resamples show no spread
    rows = middle * (1 - middle) / max(variance * stretch + added, least)
    low, high = clopper_pearson(mean * rows, rows, level)
    alike = tail ** float((parts.weights**2 / parts.rows).sum())  # the low end where all rows are right
    return there * min(low, alike), max(high, 1 - alike)


def loss_ends(row: np.ndarray, level: float) -> tuple[float, float]:
    """The ends of the interval of the mean of unbounded losses (N,): Student's t of its logarithm.

    nan where a few rows dominate the mean (fewer than LEAST_EFFECTIVE effective rows): no interval would be valid.
    """
    from scipy.special import stdtrit

    n, mean = len(row), float(row.mean())
    if mean == 0 or mean**2 * n < LEAST_EFFECTIVE * float((row**2).mean()):
        return math.nan, math.nan
    room = -float(stdtrit(n - 1, (1 - level) / 2)) * float(row.std(ddof=1)) / math.sqrt(n) / mean
    return mean * math.exp(-room), mean * math.exp(room)


def paired_correlation(a: np.ndarray, b: np.ndarray, n: int) -> float:
    """The correlation of two estimates from n rows, by their draws (D,) or by the scores of rows (N,).

    UNCORRELATED pseudo-rows keep it below 1: two classifiers that agree on a few rows are not shown to be the same.
    """
    spread = float(a.std() * b.std())
    found = float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else float(np.array_equal(a, b))
    return found * n / (n + UNCORRELATED)


def difference(a: Interval, b: Interval, correlation: float, error: float) -> Interval:
    """The interval of a - b from the intervals of both and the correlation of their estimates.

    The distances of the ends from the estimates are combined like standard errors (Newcombe 1998, method 10; Zou &
    Donner 2008), so it is valid for few rows, as these two are. error: the standard error of the difference.
    """
    down_a, up_a, down_b, up_b = a.estimate - a.low, a.high - a.estimate, b.estimate - b.low, b.high - b.estimate
    estimate = a.estimate - b.estimate
    if math.isnan(a.low) or math.isnan(b.low):
        return Interval(estimate, math.nan, math.nan, a.level)
    below = math.sqrt(max(0.0, down_a**2 + up_b**2 - 2 * correlation * down_a * up_b))
    above = math.sqrt(max(0.0, up_a**2 + down_b**2 - 2 * correlation * up_a * down_b))
    return Interval(estimate, estimate - below, estimate + above, a.level, error)
