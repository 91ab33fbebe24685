"""Learning-rate schedules: from progress in [0, 1) to a factor on the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Name = Literal["linear", "cosine", "constant"]


def schedule(name: Name, *, warmup: float) -> Callable[[float], float]:
    """Linear warm-up to 1 over the first `warmup` share of training, then decay to 0 (linear, cosine) or constant."""
    shapes: dict[str, Callable[[float], float]] = {
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
        "constant": lambda done: 1.0,
    }
    shape = shapes[name]

    def factor(progress: float) -> float:
        if progress < warmup:
            return (progress + 1e-3) / (warmup + 1e-3)  # not 0 in the first update
        return shape((progress - warmup) / (1.0 - warmup)) if warmup < 1 else 1.0

    return factor
