"""Intervals and tests of cross-validated scores, which know that folds share training rows.

Each row is judged once by one of K models, and any two of these share most of their training rows, so that scores of
folds are not independent and their plain variance is too small. Nadeau & Bengio (2003, Machine Learning 52, eq. 9)
correct it: of J fold values with variance s^2 the variance of the mean is (1 / J + tested / trained) s^2, and
Student's t has J - 1 degrees of freedom. With K folds tested / trained is 1 / (K - 1). R repeats with other folds give
J = R K values (Bouckaert & Frank 2004): only the first term shrinks, since every repeat has the same rows.

The same formula gives the interval of a score, with SCORE_FREEDOM degrees of freedom however many folds and repeats there
are: how scores vary between samples cannot be seen inside of one. With J - 1 the interval held the expected score in 90 %
of simulated samples only (bench/quality/folds.py). For differences, where much of that cancels, J - 1 is enough.

The value of a fold is its jackknife pseudo-value, so that metrics that are no mean over rows (macro-F1) are taken over
all rows: the score of eight rows of a fold would be biased. For a mean over rows it is the score of the fold's rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lasttoken.errors import DataError
from lasttoken.evaluation.intervals import Interval, difference, paired_correlation
from lasttoken.evaluation.metrics import Metric
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.seeds import Repeats, drawn_of, over_rows, wider
from lasttoken.evaluation.significance import ROUNDING

SCORE_FREEDOM = 4  # degrees of freedom of a score's interval at most, those of five folds


def fold_values(metric: Metric, run: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(pseudo-value of the metric in each fold (K,), the share of rows that each fold holds (K,)).

    h D - (h - 1) D_without for a fold of N / h rows (Busing, Meijer & van der Leeden 1999), D over all rows.
    """
    assert run.fold is not None
    formula, sums = metric.formula(run.targets), metric.sums(run.targets, run.probs, run.chosen)
    value, n = formula.of_draws(sums), len(run)
    counts = np.bincount(run.fold)
    whole = float(value(sums.total()[None], n)[0])
    found = []
    for number, count in enumerate(counts.tolist()):
        without = float(value(sums.weighted((run.fold != number)[None]), n - count)[0])
        weight = n / count
        found.append(weight * whole - (weight - 1) * without)
    return np.array(found), counts / n


def corrected_error(values: np.ndarray, shares: np.ndarray, partitions: int) -> float:
    """Standard error of the mean of R repeats of K fold values (R, K).

    shares: of rows, (R, K); variances are weighted by them, for groups make folds of unequal sizes. partitions: how many
    of the repeats have folds of their own; another seed on the same folds is no new division.
    """
    repeats, folds = values.shape
    middle = float((values * shares).sum(axis=1).mean())
    number = partitions * folds
    variance = float((shares * (values - middle) ** 2).sum()) / repeats * number / (number - 1)
    return math.sqrt((1 / number + 1 / (folds - 1)) * variance)


def judged_by_folds(runs: Sequence[Predictions]) -> bool:
    """Whether these predictions are of cross-validations. Raises DataError where only some are."""
    found = {run.fold is not None for run in runs}
    if len(found) > 1:
        raise DataError(
            "some of these runs were cross-validated and some judged on a test part; compare runs of one kind: train "
            "all with the same --folds, or none"
        )
    return found == {True}


def partitions(repeats: Repeats) -> int:
    """How many of these cross-validations have folds of their own."""
    return len({folds_of(run) for run in repeats})


def folds_of(run: Predictions) -> bytes:
    """The fold of each row, to be compared with those of another run of the same rows."""
    assert run.fold is not None
    return run.fold.astype(np.int64).tobytes()


def freedom_of(repeats: Repeats) -> int:
    """Degrees of freedom of a t test over the folds of these repeats."""
    fold = repeats[0].fold
    assert fold is not None
    return partitions(repeats) * (int(fold.max()) + 1) - 1


def paired(a: Repeats, b: Repeats, names: tuple[str, str]) -> tuple[list[Predictions], list[Predictions]]:
    """The repeats of both that have the same folds, in the same order. Raises DataError where there are none."""
    left, pairs = list(b), list[tuple[Predictions, Predictions]]()
    for one in a:
        same = next((i for i, other in enumerate(left) if folds_of(one) == folds_of(other)), None)
        if same is not None:
            pairs.append((one, left.pop(same)))
    if not pairs:
        raise DataError(
            f"{names[0]} and {names[1]} were cross-validated on different folds; train both with the same --folds and --seed"
        )
    return [one for one, _ in pairs], [other for _, other in pairs]


def measure_folds(
    metric: Metric, repeats: Repeats, *, rng: np.random.Generator, draws: int, level: float = 0.95
) -> Interval:
    """The metric of a cross-validation, or its mean over repeats, with its interval for another sample of rows."""
    (drawn,) = drawn_of(metric, [repeats], rng, draws)
    rows = over_rows(metric, repeats, drawn, level)
    values, shares = (np.array(of) for of in zip(*(fold_values(metric, run) for run in repeats), strict=True))
    error = corrected_error(values, shares, partitions(repeats))
    found, _ = over_folds(rows, error, min(SCORE_FREEDOM, values.shape[1] - 1), bounds=metric.bounds)
    return found


def compare_folds(
    metric: Metric, a: Repeats, b: Repeats, *, rng: np.random.Generator, draws: int, level: float = 0.95
) -> tuple[Interval, float]:
    """(interval, two-sided p-value) of the mean metric of `a` minus that of `b`, whose repeats have the same folds."""
    drawn_a, drawn_b = drawn_of(metric, [a, b], rng, draws)
    mean_a, mean_b = drawn_a.mean(axis=0), drawn_b.mean(axis=0)
    rows_a, rows_b = over_rows(metric, a, drawn_a, level), over_rows(metric, b, drawn_b, level)
    correlation = paired_correlation(mean_a, mean_b, len(a[0]))
    rows = difference(rows_a, rows_b, correlation, float((mean_a - mean_b).std(ddof=1)))
    of_a, of_b = ([fold_values(metric, run) for run in repeats] for repeats in (a, b))
    values = np.array([one - other for (one, _), (other, _) in zip(of_a, of_b, strict=True)])
    error = corrected_error(values, np.array([shares for _, shares in of_a]), partitions(a))
    return over_folds(rows, error, freedom_of(a))


def over_folds(
    rows: Interval, error: float, freedom: int, *, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[Interval, float]:
    """(interval, two-sided p-value against 0) by Student's t with a corrected `error`, never narrower than `rows`.

    rows: the interval for other rows with these models. Its standard error is the least that is assumed: a few folds may
    happen to agree, and t would then claim anything. Where rows have no spread either, p is that of a sign test.
    """
    error, estimate, level = max(error, rows.standard_error), rows.estimate, rows.level
    if not math.isfinite(estimate) or not math.isfinite(error):
        return replace(rows, low=math.nan, high=math.nan), 1.0
    if error < ROUNDING:
        return rows, 1.0 if abs(estimate) < ROUNDING else 0.5**freedom
    from scipy.stats import t

    room = float(t.ppf((1 + level) / 2, freedom)) * error
    found = Interval(estimate, max(bounds[0], estimate - room), min(bounds[1], estimate + room), level, error)
    return wider(found, rows), float(2 * t.sf(abs(estimate) / error, freedom))
