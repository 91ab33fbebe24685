"""Everything measured on one set of predictions, each figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lasttoken.evaluation.metrics import Metric, metrics_for, named, per_class
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import DRAWS, Interval, bootstrap
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
    for one in classes:
        one["auroc"] = None if math.isnan(one["auroc"]) else one["auroc"]
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
