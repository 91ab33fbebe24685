"""What happened during a run, kept for the run folder and told to whoever watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Truncation:
    """What a length limit cut off the rows of one or several calls; false where nothing was cut."""

    rows: int = 0  # that were looked at
    cut: int = 0  # of them, those that lost tokens
    tokens: int = 0  # of all rows, the lost ones included
    lost: int = 0  # tokens
    worst: int = 0  # tokens that one row lost
    limit: int = 0  # tokens that a row, or a window of it, may keep
    windows: int = 1  # that a row may have

    def __add__(self, other: Truncation) -> Truncation:
        return Truncation(
            self.rows + other.rows,
            self.cut + other.cut,
            self.tokens + other.tokens,
            self.lost + other.lost,
            max(self.worst, other.worst),
            max(self.limit, other.limit),
            max(self.windows, other.windows),
        )

    def __bool__(self) -> bool:
        return self.cut > 0

    def __str__(self) -> str:
        return (
            f"{self.cut} of {self.rows} rows were truncated at "
            f"{f'{self.windows} windows of ' if self.windows > 1 else ''}{self.limit} tokens: "
            f"{self.lost / self.tokens:.1%} of all tokens cut, {self.worst} of the longest row"
        )


LOGGER = logging.getLogger("lasttoken")


def unheard(*told: object) -> None:
    """Nobody watches. A function with a name, so that a fitted estimator can be pickled."""


def told(name: str) -> Callable[[str], None]:
    """A way to tell notes: to the logger "lasttoken", at INFO, under a name."""
    return partial(LOGGER.info, "%s: %s", name)


@dataclass
class Journal:
    """Notes, optimiser steps and figures of a fit or a prediction, in the order in which they came.

    The one value of the package that is written to while it is passed around: a method appends, its caller reads.
    """

    tell: Callable[[str], None] = LOGGER.info  # each note, as it comes
    progress: Callable[[str, int, int], None] = unheard  # what, done, total; of something that takes a while
    notes: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)  # update, loss, lr, grad_norm, rows, seconds, valid
    facts: dict[str, Any] = field(default_factory=dict)  # trainable_parameters, train_seconds, ...
    truncation: Truncation = field(default_factory=Truncation)  # of the rows that were predicted
    lost: list[int] = field(default_factory=list)  # tokens that each of those rows lost
    invalid: int | None = None  # generated answers that name no label; None where nothing was generated
    failure: BaseException | None = None  # what cut the fit short, where its best weights could be kept

    def cut(self, truncation: Truncation, lost: Iterable[int]) -> None:
        """Add what a limit cut off some rows, all in all and row by row."""
        self.truncation += truncation
        self.lost += map(int, lost)

    def note(self, sentence: str) -> None:
        """Keep and tell one sentence that the user should know."""
        self.notes.append(sentence)
        self.tell(sentence)
