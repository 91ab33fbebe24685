"""Notes and progress of a fit or a prediction, for the user; nothing is computed from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

LOGGER = logging.getLogger("lasttoken")

Progress = Callable[[int, int], None]  # called with (done, total)


def unheard(*told: object) -> None:
    """Ignore progress. A named function, so that a fitted estimator can be pickled."""


def told(name: str) -> Callable[[str], None]:
    """A note handler that logs to "lasttoken" at INFO, prefixed with `name`."""
    return partial(LOGGER.info, "%s: %s", name)


@contextmanager
def quieted(library: str) -> Iterator[None]:
    """Silence a library's log below ERROR inside the context, so that it does not mix with our output."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@dataclass
class Journal:
    """Notes, which are kept and passed to `tell`; progress and steps, which are only shown."""

    tell: Callable[[str], None] = LOGGER.info  # called with each note
    progress: Callable[[str, int, int], None] = unheard  # called with (task, done, total)
    notes: list[str] = field(default_factory=list)
    step: Callable[[Any], None] = unheard  # called with each Step of a training

    def task(self, what: str) -> Progress:
        """The progress of one task, which is shown as begun; its length is not known yet."""
        self.progress(what, 0, 0)
        return partial(self.progress, what)

    def note(self, sentence: str) -> None:
        """Keep one sentence for the user and pass it to `tell`."""
        self.notes.append(sentence)
        self.tell(sentence)
