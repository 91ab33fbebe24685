"""What a fit can do in a given time: epochs, frozen blocks and training rows, chosen from measured speeds.

Epochs go first, down to ENOUGH_EPOCHS. Then lower blocks are frozen, where the method can: their output is computed
once. Training rows go last. Validation and test rows stay, so that scores can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lasttoken.errors import ConfigError
from lasttoken.wording import duration, listed

ENOUGH_EPOCHS = 3.0  # blocks are frozen before fewer are trained
FEWEST_EPOCHS = 2.0  # rows are left out before fewer are trained
FROZEN = (1 / 2, 3 / 4)  # shares of the blocks that may be frozen
SHARE = 0.9  # of the time that is planned with; the rest is for what was measured too low


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    rows: int  # to train on
    valid: int
    test: int
    epochs: float  # 0: nothing is trained but what reads the model's output once
    batch: int = 1  # rows of an update
    evaluations: int = 0  # of the validation rows, an epoch
    trunk: int = 0  # frozen blocks
    depth: int = 0  # blocks of a model that can be frozen in part; 0: of none
    head_first: bool = False  # the head is fitted on the frozen model before training
    fewest: int = 1  # training rows with which every label has one
    untrained: bool = False  # a zero-shot model, which reads no rows but to predict them


@dataclass(frozen=True)
class Speed:
    """Measured seconds. `update` is without frozen blocks."""

    start: float  # until the first row is read
    update: float
    row: float  # to predict one row
    end: float  # from the last prediction to the written run


def seconds_of(job: Job, speed: Speed) -> float:
    """Seconds from the beginning of a fit to its written run, if training does not stop early."""
    above = 1 - job.trunk / job.depth if job.depth else 1.0
    updates = math.ceil(job.rows / job.batch)
    epoch = updates * speed.update * above + job.evaluations * job.valid * speed.row * above
    once = 1.0 if job.head_first or not job.epochs else 1 - above  # share of the blocks that all texts pass before
    before = 0.0 if job.untrained else (job.rows + job.valid) * speed.row * once
    return speed.start + before + job.epochs * epoch + seconds_after(job, speed)


def seconds_after(job: Job, speed: Speed) -> float:
    """Seconds from the end of training to the written run."""
    return (job.valid + job.test) * speed.row + speed.end


def choose(job: Job, speed: Speed, seconds: float, *, time: str) -> Job:
    """The most of `job` that is done in `seconds`. time: how the user gave it, for the error.

    Raises ConfigError where even the fewest rows take longer.
    """
    room = SHARE * seconds
    for candidate in fewer(job, speed, room):
        if seconds_of(candidate, speed) <= room:
            return candidate
    least, learning = seconds_of(smallest(job), speed) / SHARE, "" if job.untrained else " and the least training"
    raise ConfigError(
        [
            f"--time {time}: loading the model, predicting {job.valid + job.test:,} validation and test rows{learning} "
            f"take about {duration(least)}; give more time, or use --method linear"
        ]
    )


def fewer(job: Job, speed: Speed, room: float) -> Iterator[Job]:
    """Jobs to try, the best first; each leaves out more than the one before."""
    frozen = [job, *(replace(job, trunk=k) for share in FROZEN if (k := int(share * job.depth)) > job.trunk)]
    for one in frozen:
        yield with_most_epochs(one, speed, room, least=min(ENOUGH_EPOCHS, job.epochs))
    deepest = replace(frozen[-1], epochs=min(FEWEST_EPOCHS, job.epochs))
    yield deepest
    none, every = (seconds_of(replace(deepest, rows=rows), speed) for rows in (0, deepest.rows))
    rows = int((room - none) / max(1e-9, every - none) * job.rows) // job.batch * job.batch
    if job.fewest <= rows < job.rows:
        yield replace(deepest, rows=rows)
    yield smallest(job)


def with_most_epochs(job: Job, speed: Speed, room: float, *, least: float) -> Job:
    """The job with as many whole epochs as there is room for, at most its own and at least `least`."""
    none, one = (seconds_of(replace(job, epochs=epochs), speed) for epochs in (1e-9, 1.0))
    most = math.floor((room - none) / max(1e-9, one - none))
    return replace(job, epochs=max(least, min(job.epochs, float(most))))


def smallest(job: Job) -> Job:
    """The job with the fewest epochs, rows and trained blocks."""
    return replace(
        job,
        rows=min(job.rows, max(job.fewest, job.batch)),
        epochs=min(FEWEST_EPOCHS, job.epochs),
        trunk=max(job.trunk, int(FROZEN[-1] * job.depth)),
    )


def told(job: Job, chosen: Job, speed: Speed, *, time: str) -> str:
    """What was given up, in a sentence. job: what would be done without a limit."""
    parts = []
    if chosen.epochs < job.epochs:
        parts.append(f"{chosen.epochs:g} of {job.epochs:g} epochs")
    if chosen.rows < job.rows:
        parts.append(f"{chosen.rows:,} of {job.rows:,} rows")
    if chosen.trunk > job.trunk:
        parts.append(f"LoRA on the upper {job.depth - chosen.trunk} of {job.depth} blocks")
    took, whole = duration(seconds_of(chosen, speed)), duration(seconds_of(job, speed))
    if not parts and job.untrained:
        return (
            f"{time}: all of it fits, loading the model and predicting {job.valid + job.test:,} rows take about {took}"
        )
    if not parts:
        epochs = f"{job.epochs:g} epoch{'' if job.epochs == 1 else 's'} of " if job.epochs else ""
        return f"{time}: all of it fits, {epochs}{job.rows:,} rows take about {took}"
    return f"{time}: {listed(parts)}, about {took}; all of it would take about {whole}"
