"""All metrics of one set of predictions, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from lasttoken.evaluation.folds import measure_folds
from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.metrics import (
    FEW,
    METRICS,
    PARTS,
    Metric,
    brier_parts,
    brier_sums,
    metrics_for,
    named,
    per_class,
)
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.row_statistics import RowSums
from lasttoken.evaluation.significance import (
    DRAWS,
    FEWEST,
    affordable,
    beyond_chance,
    bootstrap,
    recentred,
    resamples,
    simulated_targets,
)
from lasttoken.seed import generator


def measure(predictions: Predictions, metric: str, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """One metric with its interval; all metrics share the resamples. Raises DataError on an unknown name."""
    return interval_of(predictions, named(metric, predictions.labels.multi), seed=seed, draws=draws, level=level)


def interval_of(
    predictions: Predictions, metric: Metric, *, seed: int, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """As `measure`, for a Metric; the interval of a cross-validation knows its folds (folds.py)."""
    rng, y = generator(seed, "intervals"), predictions.targets
    if predictions.fold is not None and predictions.fold.any():  # one fold alone has no spread
        return measure_folds(metric, [predictions], rng=rng, draws=draws, level=level)
    return bootstrap(metric, y, predictions.probs, predictions.chosen, rng=rng, draws=draws, level=level)


def ece_by_class(predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> list[Interval]:
    """Calibration error and interval of each label (C,); their mean is `classwise_ece`.

    Biased upwards by bins with few rows: it is above 0 even for a perfectly calibrated label.
    """
    n, classes = len(predictions), len(predictions.labels)
    sums = METRICS["classwise_ece"].sums(predictions.targets, predictions.probs)

    def values(totals: np.ndarray) -> np.ndarray:  # (D, C * bins) -> (D, C)
        return np.abs(totals.reshape(len(totals), classes, -1)).sum(axis=2) * classes / max(1, n)

    noise = np.zeros(classes)
    if n >= FEW:
        said = [METRICS["classwise_ece"].sums(y, predictions.probs).total() for y in claims_of(predictions)]
        total = sums.total()
        noise = values(total[None])[0] - values(beyond_chance(total, said)[None])[0]
    return several(sums, values, bounds=(0, 1), noise=noise, seed=seed, draws=draws, level=level)


def claims_of(predictions: Predictions) -> Iterator[np.ndarray]:
    """Targets drawn from the probabilities."""
    return simulated_targets(predictions.probs, predictions.labels.multi)


def brier(predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> dict[str, Interval]:
    """The parts of the Brier score by name, each with its interval."""
    n, labels = len(predictions), predictions.labels
    parts = partial(brier_parts, n=n, classes=len(labels), multi=labels.multi)
    sums = brier_sums(predictions.targets, predictions.probs)
    noise = np.zeros(len(PARTS))
    if n >= FEW:  # bins with few rows bias reliability and resolution upwards alike
        said = [parts(brier_sums(y, predictions.probs).total()[None])[0, 0] for y in claims_of(predictions)]
        noise[:2] = np.mean(said)
    found = several(sums, parts, bounds=(0, 2), noise=noise, seed=seed, draws=draws, level=level)
    return dict(zip(PARTS, found, strict=True))


def several(
    sums: RowSums,
    values: Callable[[np.ndarray], np.ndarray],
    *,
    bounds: tuple[float, float],
    noise: np.ndarray,
    seed: int,
    draws: int,
    level: float,
) -> list[Interval]:
    """K values of the same row sums, each with an interval from the same draws. values: (D, S) -> (D, K).

    noise: the bias of each (K,), from simulated targets. With fewer than FEW rows there is no interval.
    """
    if sums.n < FEW:
        each = (
            values(sums.total()[None])[0] if sums.n else np.full(values(np.zeros((1, sums.width))).shape[1], math.nan)
        )
        return [Interval(float(one), math.nan, math.nan, level) for one in each]
    rng = generator(seed, "intervals")
    estimates = values(sums.total()[None])[0]
    drawn = np.concatenate(
        [values(sums.weighted(weights)) for weights in resamples(sums.n, affordable(draws, FEWEST, sums), rng)]
    )
    return [
        recentred(float(one), of, level, bounds, float(by_chance))
        for one, of, by_chance in zip(estimates, drawn.T, noise, strict=True)
    ]


def measured(predictions: Predictions) -> dict[str, float | None]:
    """Every metric without its interval, ready for JSON; None where it is undefined."""
    targets, probs, chosen = predictions.targets, predictions.probs, predictions.chosen
    values = {
        n: named(n, predictions.labels.multi)(targets, probs, chosen) for n in metrics_for(predictions.labels.multi)
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def summarize(
    predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95, more: Sequence[Metric] = ()
) -> dict[str, Any]:
    """n, classes, multi, metrics, per_class and further, ready for JSON. Undefined values are None.

    more: the metrics of this problem (evaluation/problem_metrics.py).
    """
    space = predictions.labels
    metrics = {
        name: measure(predictions, name, seed=seed, draws=draws, level=level).to_dict()
        for name in metrics_for(space.multi)
    }
    classes = [asdict(one) for one in per_class(predictions.targets, predictions.probs, predictions.chosen, space)]
    errors = ece_by_class(predictions, seed=seed, draws=draws, level=level)
    for one, error in zip(classes, errors, strict=True):
        one["auroc"] = None if math.isnan(one["auroc"]) else one["auroc"]
        one["ece"] = error.to_dict()
    return {
        "n": len(predictions),
        "classes": len(space),
        "multi": space.multi,
        "metrics": metrics,
        "per_class": classes,
        "further": [
            {
                "name": metric.name,
                "words": metric.words,
                **interval_of(predictions, metric, seed=seed, draws=draws, level=level).to_dict(),
            }
            for metric in more
        ],
    }
