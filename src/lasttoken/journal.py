"""What happened during a run, kept for the run folder and told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Journal:
    """Notes, optimiser steps and figures of one fit, in the order in which they came.

    The one value of the package that is written to while it is passed around: a fit appends, nothing reads back.
    """

    tell: Callable[[str], None] = lambda sentence: None  # each note, as it comes
    progress: Callable[[str, int, int], None] = lambda what, done, total: None  # of something that takes a while
    notes: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)  # update, loss, lr, grad_norm, rows, seconds, valid
    facts: dict[str, Any] = field(default_factory=dict)  # trainable_parameters, train_seconds, ...
    failure: BaseException | None = None  # what cut the fit short, where its best weights could be kept

    def note(self, sentence: str) -> None:
        """Keep and tell one sentence that the user should know."""
        self.notes.append(sentence)
        self.tell(sentence)
