"""The contract of every method: `fit` returns a `Fitted`, `predict_proba` a `Said`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lasttoken.journal import Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.text.truncation import Truncation
from lasttoken.train.outcome import Cost, End, Step

if TYPE_CHECKING:
    from lasttoken.infer.differentiable import Differentiable
    from lasttoken.infer.portable import Portable, PortableLM
    from lasttoken.text.tokenizer import Encoded


NOT_CUT = Truncation()
UNTRAINED = End()


@dataclass(frozen=True, eq=False)
class Said:
    """A classifier's predictions for N texts."""

    probs: np.ndarray  # (N, C) float64
    lost: np.ndarray  # (N,) int64, tokens that a length limit cut off each text
    truncation: Truncation = NOT_CUT  # the same, counted over all of them
    invalid: np.ndarray | None = None  # (N,) bool, generated answers that name no label; None: nothing was generated
    tokens: np.ndarray | None = None  # (N,) int64, tokens of each text that the model read; None without a tokenizer

    @classmethod
    def of(cls, probs: np.ndarray, encoded: Encoded, invalid: np.ndarray | None = None) -> Said:
        """Probabilities (N, C) of the texts that were read as `encoded`."""
        return cls(probs, encoded.lost, encoded.truncation(), invalid, encoded.lengths)

    @classmethod
    def joined(cls, parts: Sequence[Said]) -> Said:
        """The predictions of consecutive parts of the texts, concatenated; at least one part."""
        truncation = parts[0].truncation
        for part in parts[1:]:
            truncation = truncation + part.truncation
        invalid = [part.invalid for part in parts if part.invalid is not None]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return cls(
            np.concatenate([part.probs for part in parts]),
            np.concatenate([part.lost for part in parts]),
            truncation,
            np.concatenate(invalid) if invalid else None,
            np.concatenate(tokens) if tokens else None,
        )


class Classifier(Protocol):
    """Something fitted: it predicts and can be saved, nothing else. Immutable once made, and called from many threads."""

    @property
    def labels(self) -> LabelSpace:
        """What column j of the probabilities means."""
        ...

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64, row order kept; a text's row does not depend on its neighbours.

        progress: is told the rows done.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Any:
        """What the model is given for the texts (token ids, or features), which may be made while it predicts others."""
        ...

    def predict_encoded(self, encoded: Any, progress: Progress = unheard) -> Said:
        """`predict_proba` of texts that `encode` has read."""
        ...

    @property
    def on_accelerator(self) -> bool:
        """Whether the model runs beside the CPU, which can encode other texts meanwhile."""
        ...

    @property
    def has_gradients(self) -> bool:
        """Whether `differentiable` is supported."""
        ...

    def differentiable(self, text: str) -> Differentiable:
        """One text as a function of its embeddings. Raises ConfigError where the method has no gradients."""
        ...

    def portable(self) -> Portable | PortableLM:
        """The classifier as plain torch, to export. Raises ConfigError where the method has no such form."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs into an existing folder: safetensors and JSON, nothing that executes."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` returns. Nothing of a fit is read anywhere else."""

    classifier: Classifier
    cost: Cost
    steps: tuple[Step, ...] = ()  # empty for a method without a training loop
    end: End = UNTRAINED
    notes: tuple[str, ...] = ()  # notes of the fit
    split: bool = False  # the model is split over processes, which predict together or not at all
