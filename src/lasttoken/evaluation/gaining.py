"""Whether a training ended while its validation score was still rising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.wording import figure

EPOCH = 1.0  # over which a gain counts; half of the training where that is shorter


@dataclass(frozen=True)
class Gain:
    """The score at the end of a training, and before its last part."""

    before: float
    last: float
    over: float  # epochs


def gain_at_end(scores: Sequence[tuple[float, float]], *, rows: int) -> Gain | None:
    """The gain over the last epoch, if the last score is the best and the gain exceeds its standard error; else None.

    scores: (epochs trained, validation score), in order. rows: validation rows n. A score s of n rows has a standard
    error of sqrt(s (1 - s) / n), as a share does; for F1 that is an approximation.
    """
    if not scores:
        return None
    end, last = scores[-1]
    over = min(EPOCH, end / 2)
    earlier = [score for epochs, score in scores[:-1] if epochs <= end - over + 1e-9]
    if not earlier or last <= max(score for _, score in scores[:-1]):
        return None
    noise = math.sqrt(max(0.0, last * (1 - last)) / max(1, rows))
    return Gain(earlier[-1], last, over) if last - earlier[-1] > noise else None


def remarks(runs: Sequence[RunRecord]) -> list[str]:
    """One sentence for each run that was cut short, or that was still gaining at its end."""
    return [said for run in runs if (said := remark(run))]


def remark(run: RunRecord) -> str:
    """What a reader of the run's scores must know of its training; empty where there is nothing."""
    end = run.measures.end
    if end.how in ("interrupted", "diverged"):
        return f"{run.name} was {'interrupted' if end.how == 'interrupted' else 'cut short'}: {end.told or end.how}"
    return still_gaining(run)


def still_gaining(run: RunRecord) -> str:
    """That the run's validation score was still rising when its training ended; empty where it was not."""
    if run.measures.end.how in ("interrupted", "diverged"):
        return ""
    rows = run.environment.data.rows
    metric = next((name for step in run.steps for name in step.valid or {}), "")
    epochs = np.cumsum([step.rows for step in run.steps]) / max(1, rows.get("train", 0))
    scores = [(float(at), step.valid[metric]) for at, step in zip(epochs, run.steps, strict=True) if step.valid]
    gain = gain_at_end(scores, rows=rows.get("valid", 0))
    if gain is None:
        return ""
    part = "epoch" if gain.over == EPOCH else "half of its training"
    words = METRICS[metric].words if metric in METRICS else metric
    return (
        f"{run.name} was still gaining at its end (validation {words} {figure(gain.before)} to {figure(gain.last)} in the "
        f"last {part}): more epochs may raise it"
    )
