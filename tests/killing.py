"""Classifiers for the tests of workers: they can be read in any process, and one of them ends its process once."""

from __future__ import annotations

import os
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
    """A predictor; what the environment says of this worker is noted in a folder."""
    (folder / str(os.getpid())).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    return by_length()
