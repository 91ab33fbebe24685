"""Classifiers for the tests of workers: they can be read in any process, and one of them ends its process once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lasttoken.errors import ModelError
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predictor import Predictor

DEADLY = "the row that ends its worker"


class Length:
    """Labels texts by their length; a text that is DEADLY ends the process, but only as often as `times` says."""

    labels, encode, on_accelerator = LabelSpace(("long", "short")), staticmethod(list), False

    def __init__(self, times: int = 0, marks: Path | None = None):
        """marks: a folder with a file for each process that has ended."""
        self.times, self.marks = times, marks

    def predict_encoded(self, texts: Sequence[str]) -> Said:
        if DEADLY in texts and self.marks is not None and len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os._exit(9)
        p = np.array([0.75 if len(text) > 6 else 0.25 for text in texts])
        return Said(np.column_stack([p, 1 - p]), np.zeros(len(texts), dtype=np.int64))


def by_length() -> Predictor:
    """A predictor that never fails."""
    return Predictor(Length())  # type: ignore[arg-type]


def deadly(times: int, marks: Path) -> Predictor:
    """A predictor that ends its process at the DEADLY row."""
    return Predictor(Length(times, marks))  # type: ignore[arg-type]


def missing() -> Predictor:
    """No predictor: its model is not there."""
    raise ModelError("no such model")


def where(folder: Path) -> Predictor:
    """A predictor, once two workers have noted in a folder what their environment says."""
    (folder / str(os.getpid())).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    ends = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    return by_length()


class Slow(Length):
    """Takes a minute for every text."""

    def predict_encoded(self, texts: Sequence[str]) -> Said:
        """Sleep first."""
        time.sleep(60 * len(texts))
        return super().predict_encoded(texts)


def slow() -> Predictor:
    """A predictor that is still at work."""
    return Predictor(Slow())  # type: ignore[arg-type]


class Wrong(Length):
    """Has a mistake of its own."""

    def predict_encoded(self, texts: Sequence[str]) -> Said:
        """Raise what no user can mend."""
        raise ZeroDivisionError("a mistake of the program")


def wrong() -> Predictor:
    """A predictor with a mistake."""
    return Predictor(Wrong())  # type: ignore[arg-type]
