"""Everything measured on one set of predictions, each figure with its interval."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lasttoken.evaluation.metrics import metrics_for, named, per_class
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import DRAWS, Interval, bootstrap
from lasttoken.seed import generator


def measure(predictions: Predictions, metric: str, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """One metric with its interval, all metrics over the same draws of rows. Raises DataError on its name."""
    rng = generator(seed, "intervals")
    chosen = named(metric, predictions.labels.multi)
    targets, probs = predictions.targets, predictions.probs
    return bootstrap(chosen, targets, probs, predictions.chosen, rng=rng, draws=draws, level=level)


def measured(predictions: Predictions) -> dict[str, float | None]:
    """Every metric without its interval, ready for JSON; None where it is undefined."""
    targets, probs, chosen = predictions.targets, predictions.probs, predictions.chosen
    values = {n: named(n, targets.ndim == 2)(targets, probs, chosen) for n in metrics_for(targets.ndim == 2)}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def summarize(predictions: Predictions, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> dict[str, Any]:
    """n, classes, multi, metrics and per_class, ready for JSON. A figure that is undefined is None."""
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
    }
