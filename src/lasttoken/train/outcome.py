"""Results of a training run: its steps, its cost and how it ended; and what asks it to end. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["finished", "early", "interrupted", "diverged"]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser update."""

    number: int  # 1, 2, ...
    loss: float  # mean over the update's items
    lr: float  # of the first parameter group
    grad_norm: float  # L2, before clipping
    items: float  # divisor of the mean loss: rows, weighted rows, or target tokens
    seconds: float  # wall time, including waiting for data
    rows: int = 0  # training rows of the update, over all processes
    score: float | None = None  # validation metric after it; None if not computed


@dataclass(frozen=True, slots=True)
class End:
    """How training ended, and which weights were kept."""

    how: How = "finished"  # early: validation stopped improving, or the time was up
    update: int = 0  # of the kept weights; 0: initial weights, or nothing was trained
    score: float | None = None  # validation metric of the kept weights
    told: str = ""  # summary in a sentence; empty if nothing was trained


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a fit. None: not known."""

    trainable_parameters: int
    total_parameters: int
    model_bytes: int | None = None  # of the weights in memory; None: the method reports size on disk instead
    seconds: float = 0.0  # of training, without reading texts and loading the model
    rows_per_second: float | None = None  # over all updates but the first tenth; None if too few
    peak_bytes: int | None = None
    peak_kind: str = "resident"  # resident: of the process; allocated: on the accelerator
    peak_reserved: int | None = None  # on the accelerator


@dataclass
class Stop:
    """A signal that asks to stop. cli/stopping.py sets it; a training looks at it between two updates."""

    signal: int | None = None
    deferred: bool = False  # a training looks; else the signal is raised where it comes
