"""A run in memory, as `train` writes it to its folder and as the report and `load` read it.

An ArtifactError names a missing or damaged file. Only the training log and the test texts may be absent: not every
method trains, and storing texts is optional.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.policy import Policy, read_policy, write_policy
from lasttoken.evaluation.predictions import Predictions, read_predictions, read_raw, read_texts, write_predictions
from lasttoken.labels import LabelSpace
from lasttoken.record.folder import write_json, write_jsonl
from lasttoken.record.schema import (
    FORMAT,
    Environment,
    Explained,
    Fact,
    LabelFile,
    LoggedStep,
    Metrics,
    SplitMeasures,
    Versioned,
)


@dataclass(frozen=True, eq=False)
class ValidationRows:
    """Predictions of the validation rows, with their texts and the probabilities before calibration (N, C)."""

    predictions: Predictions
    texts: Sequence[str]
    raw: np.ndarray


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The contents of a run folder, except the model."""

    folder: Path
    config: str  # TOML, as written
    environment: Environment
    labels: LabelSpace
    steps: list[LoggedStep]  # empty for a method without a training loop
    measures: Metrics
    predictions: Predictions  # of the test rows
    texts: list[str] | None  # (N,), of the test rows
    raw: np.ndarray  # (N, C), their probabilities before calibration
    policy: Policy
    explained: list[Explained]  # the most confident mistakes; empty without explanations
    valid: ValidationRows | None = None  # None when read from a folder

    @property
    def name(self) -> str:
        return self.measures.name

    @property
    def test(self) -> SplitMeasures:
        return self.measures.splits["test"]


AnyFact = TypeVar("AnyFact", bound=Fact)


def read_record(folder: Path) -> RunRecord:
    """The run in `folder`. Raises ArtifactError naming the file that is missing, damaged or of a newer format."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such run folder; name the folder that a fit wrote")
    measures = read_fact(folder / "metrics.json", Metrics)
    if "test" not in measures.splits:
        raise ArtifactError(f"{folder / 'metrics.json'}: no metrics of the test split; run the fit again")
    stored = read_fact(folder / "labels.json", LabelFile)
    labels = LabelSpace(tuple(stored.names), stored.multi)
    path = folder / "predictions" / "test.parquet"
    predictions = read_predictions(path)
    if predictions.labels != labels:
        raise ArtifactError(f"{path}: its labels are not those of {folder / 'labels.json'}; run the fit again")
    return RunRecord(
        folder,
        read_config(folder / "config.toml"),
        read_fact(folder / "env.json", Environment),
        labels,
        read_lines(folder / "steps.jsonl", LoggedStep),
        measures,
        predictions,
        read_texts(path),
        read_raw(path),
        read_policy(folder),
        read_lines(folder / "explained.jsonl", Explained),
    )


def write_record(record: RunRecord, folder: Path) -> None:
    """Write every file of the record into an existing folder."""
    (folder / "config.toml").write_text(record.config, encoding="utf-8")
    write_json(folder / "env.json", record.environment.model_dump())
    write_json(folder / "labels.json", {"names": record.labels.names, "multi": record.labels.multi})
    write_jsonl(folder / "steps.jsonl", [step.model_dump() for step in record.steps])
    write_json(folder / "metrics.json", record.measures.model_dump())
    write_jsonl(folder / "explained.jsonl", [one.model_dump() for one in record.explained])
    write_policy(record.policy, folder)
    (folder / "predictions").mkdir()
    test = folder / "predictions" / "test.parquet"
    write_predictions(record.predictions, test, texts=record.texts, raw=record.raw)
    if (valid := record.valid) is not None:
        path = folder / "predictions" / "valid.parquet"
        write_predictions(valid.predictions, path, texts=valid.texts, raw=valid.raw)


def read_fact(path: Path, kind: type[AnyFact]) -> AnyFact:
    """The JSON file at `path` as a `kind`. Raises ArtifactError where it is missing, damaged or of a newer format."""
    text = read_text(path)
    newer = parsed(text, Versioned, str(path)).format
    if newer > FORMAT:
        raise ArtifactError(
            f"{path}: format {newer} is newer than {FORMAT}, which this version reads; upgrade lasttoken"
        )
    return parsed(text, kind, str(path))


def read_config(path: Path) -> str:
    """The text of a TOML file that parses."""
    text = read_text(path)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArtifactError(f"{path}: not TOML ({error}); run the fit again") from error
    return text


def read_lines(path: Path, kind: type[AnyFact]) -> list[AnyFact]:
    """One `kind` for each line; [] without the file."""
    if not path.exists():
        return []
    lines = enumerate(read_text(path).split("\n"), start=1)  # not splitlines: texts may contain U+2028 and the like
    return [parsed(line, kind, f"{path}:{number}") for number, line in lines if line.strip()]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ArtifactError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{path}: cannot be read ({why}); run the fit again") from error


def parsed(text: str, kind: type[AnyFact], where: str) -> AnyFact:
    """`text` as a `kind`. Raises ArtifactError naming the first invalid field."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{where}: {field or 'content'}: {first['msg']}; run the fit again") from error
