"""An export that is being written: the run it is made from, and the forms that passed their check."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lasttoken.config.forms import Wanted
from lasttoken.errors import ExportRefused
from lasttoken.export import layout
from lasttoken.export.check import Calibrated, Reference, checked
from lasttoken.infer.portable import Portable
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.predictor import Predictor
from lasttoken.record.schema import Form
from lasttoken.runtime.exported import ExportedModel
from lasttoken.runtime.sessions import Session


@dataclass(frozen=True, eq=False)
class Source:
    """The run that is exported."""

    folder: Path
    predictor: Predictor
    config: Any  # of the method
    stored: dict[str, Any]  # method.json
    base: str | None  # where its base model is; None where the run holds all of its own
    reference: Reference

    @property
    def labels(self) -> LabelSpace:
        return self.predictor.labels

    def calibrated(self, model: Any) -> Calibrated:
        """A classifier's probabilities under the run's calibration."""
        return lambda texts: self.predictor.policy.calibrated(model.predict_proba(texts).probs)


@dataclass(eq=False)
class Making:
    """The folder, and what is in it so far."""

    source: Source
    wanted: Wanted
    part: Path
    journal: Journal
    forms: list[Form] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)  # runtime -> code for the card that loads its first form

    def keep(
        self, form: tuple[str, str, str, str], theirs: Calibrated, used: Calibrated, *, files: Sequence[Path], how: str
    ) -> None:
        """Check a form that was written, and keep it. form: name, runtime, precision, file. how: code that loads it.

        Where it fails its files are removed: it is told if the form was one of several, else raised.
        """
        name, runtime, precision, file = form
        self.journal.progress(f"checking {name}", 0, 0)
        required, tie = self.wanted.required(precision), self.wanted.agreement is None
        try:
            found = checked(name, theirs, used, self.source.reference, required=required, tie=tie)
        except ExportRefused as error:
            for path in files:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if self.wanted.precisions:
                raise
            self.journal.note(f"left out: {str(error).partition(';')[0]}")
            return
        self.forms.append(Form(name=name, runtime=runtime, precision=precision, file=file, check=found))
        self.how.setdefault(runtime, how)

    def model(
        self, session: Session, plain: Portable, folder: Path, temperature: float, *, workers: int
    ) -> ExportedModel:
        """A session as `predict` runs it, with the tokenizer that was written into `folder`."""
        tokenizer, padding = AutoTokenizer.from_pretrained(str(folder)), layout.padding_or_zero(plain.tokenizer)
        return ExportedModel(self.source.labels, plain.reading, tokenizer, session, temperature, padding, workers)
