"""Whether a run, or an export of one, is what was written and answers as it did."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.predictions import check_finite, read_predictions, read_raw, read_texts
from lasttoken.evaluation.run_record import read_fact
from lasttoken.predictor import Predictor
from lasttoken.record.folder import EXPORT, MANIFEST, digest, files, is_export, read_json, verify
from lasttoken.record.schema import Environment, Export

SHARE = 0.995  # of a run's stored rows that are decided as before
SENTENCE = "A text to see that the model answers."


@dataclass
class Verified:
    """What was looked at. Damaged files raise before."""

    files: int  # whose digests are those of the manifest
    added: list[str]  # files that the manifest does not name
    rows: int = 0  # stored validation rows that were answered again, by each form
    same: dict[str, int] = field(
        default_factory=dict
    )  # form -> rows decided as when the run was made; of a run one, "run"
    required: dict[str, float] = field(default_factory=dict)  # form -> least share of these
    largest: float = 0.0  # largest difference of a probability before calibration
    versions: dict[str, list[str]] = field(default_factory=dict)  # library -> [then, now], where they differ
    forms: list[str] = field(default_factory=list)  # of an export, that answered

    @property
    def sound(self) -> bool:
        """Whether every form decides as many rows as before as it has to, but for one, which may be a tie."""
        return all(
            self.rows - same <= max(1, (1 - self.required[name]) * self.rows + 1e-9) for name, same in self.same.items()
        )

    @property
    def exact(self) -> bool:
        """Whether all probabilities are bit for bit what they were."""
        return self.largest == 0


def verified(folder: Path, *, device: str = "auto", model: str | None = None, run: Path | None = None) -> Verified:
    """What is found of the run or export in `folder`.

    run: that an export was made from, on whose validation rows it is answered again; an export holds none. Raises
    ArtifactError, naming the file, where one is missing, damaged or a link, ConfigError on options for the other kind.
    """
    verify(folder)
    named = read_json(folder / MANIFEST)["sha256"].keys() - {"report.html"}  # which is made anew at any time
    found = Verified(len(named), [file for file in files(folder) if file not in named and file != "report.html"])
    if not is_export(folder):
        if run is not None:
            raise ConfigError([f"--run: {folder} is a run itself; leave it out"])
        if (folder / "env.json").is_file():
            found.versions = changed_versions(read_fact(folder / "env.json", Environment).versions)
        answer_again(found, Predictor.load(folder, device=device, model=model), folder, "run", SHARE)
        return found
    if model is not None or device not in ("auto", "cpu"):
        raise ConfigError(
            [f"{folder} is an export, which holds its model and runs on the CPU; leave --model and --device out"]
        )
    facts = read_fact(folder / EXPORT, Export)
    found.versions = changed_versions(facts.versions)
    if run is not None:
        verify(run)
        if digest(run / MANIFEST) != facts.digest:
            raise ArtifactError(f"{run}: not the run that {folder} was made from, or it has changed since")
    for form in facts.forms:
        predictor = Predictor.load(folder, backend=form.name)
        predictor([SENTENCE])
        found.forms.append(form.name)
        if run is not None:
            answer_again(found, predictor, run, form.name, form.check.required)
    return found


def answer_again(found: Verified, predictor: Predictor, run: Path, name: str, required: float) -> None:
    """Answer the run's stored validation rows and add how they compare. Raises ArtifactError on rows of other labels."""
    path = run / "predictions" / "valid.parquet"
    texts = read_texts(path) if path.is_file() else None
    if not texts:
        return
    raw, policy, labels = read_raw(path), predictor.policy, predictor.labels
    if read_predictions(path).labels != labels:
        raise ArtifactError(f"{path}: its labels are not those of the model; restore it or fit again")
    answered = predictor.classifier.predict_proba(texts).probs
    check_finite(answered, [str(row) for row in range(len(texts))])
    same = decided(policy, answered, labels.multi) == decided(policy, raw, labels.multi)
    found.rows, found.required[name] = len(raw), required
    found.same[name] = int((same.all(axis=1) if labels.multi else same).sum())
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
