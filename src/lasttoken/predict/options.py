"""How rows are read, predicted and written: options as values, which cost nothing to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lasttoken.data.read import Columns

if TYPE_CHECKING:
    from lasttoken.predictor import Predictor


@dataclass(frozen=True)
class Input:
    """How a source is read."""

    columns: Columns  # text, template and id; its label and split columns are ignored
    format: str | None = None  # csv, tsv, jsonl or parquet; None: by the ending of the file's name
    encoding: str = "utf-8"
    quoting: str = "auto"


@dataclass(frozen=True)
class Output:
    """What is written, and how."""

    format: str | None = None  # None: by the ending of the file's name, else that of the source
    probs: bool = False  # a column p(NAME) for each label
    separator: str = ";"  # of several labels in a cell of CSV and TSV
    empty: str = (
        "blank"  # a text without a letter, digit or emoji gets no label; label: the model's; refuse: is an error
    )
    overwrite: bool = False


@dataclass(frozen=True)
class Loading:
    """How a predictor is read: a GetPredictor. The options are those of `Predictor.load`."""

    run: Path
    device: str = "auto"
    trust_remote_code: bool = False
    model: str | None = None
    merge: str | None = None
    precision: str | None = None
    backend: str | None = None
    raw: bool = False  # without calibration and thresholds

    def __call__(self) -> Predictor:
        """The predictor."""
        from lasttoken.evaluation.policy import Policy
        from lasttoken.predictor import Predictor  # heavy, and options are checked before

        predictor = Predictor.load(
            self.run,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            model=self.model,
            merge=self.merge,
            precision=self.precision,
            backend=self.backend,
        )
        return Predictor(predictor.classifier, Policy()) if self.raw else predictor
