"""The contract of every method, and what their folders have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace


class Classifier(Protocol):
    """Something fitted: it predicts and can be saved, nothing else. Immutable once made."""

    @property
    def labels(self) -> LabelSpace:
        """What column j of the probabilities means."""
        ...

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept; a text's row does not depend on its neighbours.

        What a length limit cut off the texts is added to `journal.truncation`.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs into an existing folder: safetensors and JSON, nothing that executes."""
        ...
