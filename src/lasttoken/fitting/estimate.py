"""Estimate of the training time left, from the first updates."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lasttoken.config.settings import Training, epochs_of
from lasttoken.train.outcome import Step
from lasttoken.wording import duration, rate

MEASURED = 4  # updates, after one of warm-up
BRIEF = 60.0  # seconds; below it there is no estimate
LONG = 3600.0  # seconds; above it the estimate mentions --time


def estimated(
    steps: Sequence[Step], settings: Training, *, rows: int, valid: int, count: int, scoring: float | None
) -> str | None:
    """One sentence on the time left, right after update 1 + MEASURED; None at any other update, or for less than BRIEF.

    steps: the updates so far, of this process. rows, valid: numbers of training and validation rows. count: updates in
    total. scoring: seconds of one validation; None if there was none yet, which is then estimated.
    """
    if len(steps) != 1 + MEASURED:
        return None
    update = statistics.median(step.seconds for step in steps[1:])
    if scoring is None:  # forward passes only: a third of an update
        scoring = update * valid / settings.batch / 3
    left, epochs = count - steps[-1].number, epochs_of(settings.epochs, settings.batch, rows)
    seconds = left * update + left / count * epochs * settings.evaluations * scoring
    if seconds < BRIEF:
        return None
    passes = f"{epochs:g} epoch{'s' * (epochs != 1)}"
    told = (
        f"about {duration(seconds)} of training at most: {passes} of {rows:,} rows, {settings.batch} per update, "
        f"{rate(1 / update)} updates per second"
    )
    limit = "; with --time 30m, train and compare choose epochs, frozen blocks and rows to fit"
    return told + (limit if seconds > LONG else "")
