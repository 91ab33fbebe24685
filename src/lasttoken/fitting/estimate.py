"""How long a training will take, told once its first updates are measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lasttoken.config.settings import Training, epochs_of
from lasttoken.train.outcome import Step
from lasttoken.wording import duration, rate

MEASURED = 4  # updates, after a first one that warms up
BRIEF = 60.0  # seconds below which nothing is told
LONG = 3600.0  # seconds above which a way to limit them is told


def estimated(
    steps: Sequence[Step], settings: Training, *, rows: int, valid: int, count: int, scoring: float | None
) -> str | None:
    """The time left in a sentence after the MEASURED first updates; None before, after, and where it is brief.

    steps: of this process. rows, valid: to train on, to validate with. count: updates in all. scoring: seconds of a
    validation, None where there was none yet.
    """
    if len(steps) != 1 + MEASURED:
        return None
    update = statistics.median(step.seconds for step in steps[1:])
    scoring = update * valid / settings.batch / 3 if scoring is None else scoring  # forward passes alone
    left, epochs = count - steps[-1].number, epochs_of(settings.epochs, settings.batch, rows)
    seconds = left * update + left / count * epochs * settings.evaluations * scoring
    if seconds < BRIEF:
        return None
    passes = f"{epochs:g} epoch{'s' * (epochs != 1)}"
    told = (
        f"about {duration(seconds)} of training at most: {passes} of {rows:,} rows, {settings.batch} an update, "
        f"{rate(1 / update)} updates a second"
    )
    limit = "; train and compare take --time 30m, which chooses epochs, frozen blocks and rows to fit"
    return told + (limit if seconds > LONG else "")
