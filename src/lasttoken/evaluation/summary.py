"""Everything measured on one set of predictions, each figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from lasttoken.evaluation.metrics import METRICS, PARTS, Metric, brier_parts, brier_sums, metrics_for, named, per_class
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.rowsums import RowSums
from lasttoken.evaluation.significance import DRAWS, FEWEST, Interval, affordable, bootstrap, interval, resamples
from lasttoken.seed import generator


def measure(predictions: Predictions, metric: str, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """One metric with its interval, all metrics over the same draws of rows. Raises DataError on its name."""
    return interval_of(predictions, named(metric, predictions.labels.multi), seed=seed, draws=draws, level=level)


def interval_of(
    predictions: Predictions, metric: Metric, *, seed: int, draws: int = DRAWS, level: float = 0.95
) -> Interval:
    """The same, of a metric that is given."""
    rng, y = generator(seed, "intervals"), predictions.targets
    return bootstrap(metric, y, predictions.probs, predictions.chosen, rng=rng, draws=draws, level=level)


def ece_by_class(predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> list[Interval]:
    """The calibration error of each label by itself, (C,), each with its interval; the mean of them is `classwise_ece`.

    Few rows a bin make it too large: that of a label that is calibrated perfectly is not 0.
    """
    n, classes = len(predictions), len(predictions.labels)
    sums = METRICS["classwise_ece"].sums(predictions.targets, predictions.probs)

    def values(totals: np.ndarray) -> np.ndarray:  # (D, C * bins) -> (D, C)
        return np.abs(totals.reshape(len(totals), classes, -1)).sum(axis=2) * classes / max(1, n)

    return several(sums, values, bounds=(0, 1), seed=seed, draws=draws, level=level)


def brier(predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> dict[str, Interval]:
    """The parts of the Brier score by their names, each with its interval."""
    n, labels = len(predictions), predictions.labels
    parts = partial(brier_parts, n=n, classes=len(labels), multi=labels.multi)
    sums = brier_sums(predictions.targets, predictions.probs)
    found = several(sums, parts, bounds=(0, 2), seed=seed, draws=draws, level=level)
    return dict(zip(PARTS, found, strict=True))


def several(
    sums: RowSums,
    values: Callable[[np.ndarray], np.ndarray],
    *,
    bounds: tuple[float, float],
    seed: int,
    draws: int,
    level: float,
) -> list[Interval]:
    """Figures (K,) of the same sums over rows, each with its interval from the same draws. values: (D, S) -> (D, K)."""
    if sums.n < 2:
        each = (
            values(sums.total()[None])[0] if sums.n else np.full(values(np.zeros((1, sums.width))).shape[1], math.nan)
        )
        return [Interval(float(one), math.nan, math.nan, level) for one in each]
    rng = generator(seed, "intervals")
    estimates = values(sums.total()[None])[0]
    drawn = np.concatenate(
        [values(sums.weighted(weights)) for weights in resamples(sums.n, affordable(draws, FEWEST, sums), rng)]
    )
    return [interval(float(one), of, level, bounds) for one, of in zip(estimates, drawn.T, strict=True)]


def measured(predictions: Predictions) -> dict[str, float | None]:
    """Every metric without its interval, ready for JSON; None where it is undefined."""
    targets, probs, chosen = predictions.targets, predictions.probs, predictions.chosen
    values = {n: named(n, targets.ndim == 2)(targets, probs, chosen) for n in metrics_for(targets.ndim == 2)}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def summarize(
    predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95, more: Sequence[Metric] = ()
) -> dict[str, Any]:
    """n, classes, multi, metrics, per_class and further, ready for JSON. A figure that is undefined is None.

    more: the measures of this one problem (evaluation/further.py).
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
