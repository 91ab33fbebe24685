"""Whether a run, or an export of one, is what was written and answers as it did."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.predictions import read_raw, read_texts
from lasttoken.evaluation.run_record import read_fact
from lasttoken.predictor import Predictor
from lasttoken.record.folder import EXPORT, MANIFEST, is_export, read_json, verify
from lasttoken.record.schema import Environment, Export

ROWS = 200  # stored rows that are answered again, at most
SENTENCE = "A text to see that the model answers."


@dataclass
class Verified:
    """What was looked at. Damaged files raise before."""

    files: int  # whose digests are those of the manifest
    rows: int = 0  # stored validation rows that were answered again
    same: int = 0  # of these, decided as when the run was made
    largest: float = 0.0  # largest difference of a probability before calibration
    versions: dict[str, list[str]] = field(default_factory=dict)  # library -> [then, now], where they differ
    forms: list[str] = field(default_factory=list)  # of an export, that answered

    @property
    def sound(self) -> bool:
        """Whether every stored row was decided as before, but for one tie or half a percent."""
        return self.rows - self.same <= max(1, self.rows // 200)

    @property
    def exact(self) -> bool:
        """Whether all probabilities are bit for bit what they were."""
        return self.largest == 0


def verified(folder: Path, *, device: str = "auto", model: str | None = None, run: Path | None = None) -> Verified:
    """What is found of the run or export in `folder`.

    run: that an export was made from, on whose validation rows it is answered again; an export holds none. Raises
    ArtifactError, naming the file, where one is missing, damaged or a link.
    """
    verify(folder)
    found = Verified(len(read_json(folder / MANIFEST)["sha256"]))
    if is_export(folder):
        for form in read_fact(folder / EXPORT, Export).forms:
            predictor = Predictor.load(folder, backend=form.name)
            predictor([SENTENCE])
            found.forms.append(form.name)
            if run is not None:
                verify(run)
                answer_again(found, predictor, run)
        return found
    if run is not None:
        raise ArtifactError(f"{folder} is a run itself; --run is for the export of one")
    if (folder / "env.json").is_file():
        found.versions = changed_versions(read_fact(folder / "env.json", Environment).versions)
    answer_again(found, Predictor.load(folder, device=device, model=model), folder)
    return found


def answer_again(found: Verified, predictor: Predictor, run: Path) -> None:
    """Answer stored validation rows and add how they compare."""
    path = run / "predictions" / "valid.parquet"
    texts = read_texts(path) if path.is_file() else None
    if not texts:
        return
    # all rows, as when the run was made: neighbours in a batch do not change an answer, but a sum's last bit
    raw, policy = read_raw(path)[:ROWS], predictor.policy
    answered = predictor.classifier.predict_proba(texts).probs[:ROWS]
    multi = predictor.labels.multi
    same = decided(policy, answered, multi) == decided(policy, raw, multi)
    found.rows += len(raw)
    found.same += int((same.all(axis=1) if multi else same).sum())
    found.largest = max(found.largest, float(np.abs(answered - raw).max()))


def decided(policy: Policy, raw: np.ndarray, multi: bool) -> np.ndarray:
    """Decisions on probabilities before calibration."""
    return policy(raw, multi)[1]


def changed_versions(then: Mapping[str, str]) -> dict[str, list[str]]:
    """The libraries whose version is another than when the run was made: [then, now]."""
    now = {name: installed(name) for name in then}
    return {name: [before, now[name]] for name, before in then.items() if now[name] != before}


def installed(name: str) -> str:
    """The version of a package here, or of Python; "none" where it is not installed."""
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
