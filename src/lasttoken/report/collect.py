"""One run folder, read and checked, as the value that the report shows.

A file that is missing or damaged is named in an ArtifactError; only the training log and the texts of the
test rows may be absent, because not every method trains and not everyone keeps the texts.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.policy import Policy, read_policy
from lasttoken.evaluation.predictions import Predictions, read_predictions, read_raw, read_texts
from lasttoken.labels import LabelSpace

FORMAT = 1  # of env.json and metrics.json


def nan_for_null(value: object) -> object:
    """JSON has no NaN: where a number is undefined (the AUROC of a class without rows), the file says null."""
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(nan_for_null)]


class Fact(BaseModel):
    """What a file says, frozen. Fields that the report does not show are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Versioned(Fact):
    """What says whether this version can read the rest."""

    format: int = FORMAT


class Measure(Fact):
    """A metric and the interval that holds it."""

    estimate: Number
    low: Number
    high: Number
    level: float  # 0.95 means a 95 % interval


class ClassMeasure(Fact):
    """How one class fared."""

    label: str
    precision: Number
    recall: Number
    f1: Number
    support: int  # rows that are of this class
    predicted: int  # rows that were decided to be
    auroc: Number = math.nan
    ece: Measure | None = None  # None: of a run of an older version


class Further(Measure):
    """A measure that has a meaning for one problem only, with its name in words."""

    name: str
    words: str


class SplitMeasures(Fact):
    """Everything measured on one split."""

    n: int
    classes: int
    multi: bool
    metrics: dict[str, Measure]
    per_class: list[ClassMeasure]
    further: list[Further] = []  # measures of this one problem


class Cost(Fact):
    """What training and prediction took."""

    trainable_parameters: Number
    total_parameters: Number = math.nan
    train_seconds: Number
    train_rows_per_second: Number = math.nan
    predict_rows_per_second: Number
    peak_memory_bytes: Number
    peak_memory_kind: str  # resident: of the process; allocated: on the accelerator
    peak_reserved_bytes: Number = math.nan
    model_bytes: Number


class Sets(Fact):
    """How often conformal sets held the truth."""

    promised: float
    had: Measure
    size: float  # labels in a set, on average


class EachLabel(Fact):
    """How much of the precision or recall that was wanted of each label there was."""

    of: str
    wanted: float
    had: Measure  # of all labels together
    labels: int  # that can be judged
    short: int  # that are shown to have less


class Spent(Fact):
    """What a row's decision cost, and what it would have cost to give the most probable label."""

    each: Measure
    by_most_probable: Measure
    saved: Measure  # the latter less the former, on the same rows


class Promises(Fact):
    """What the policy's promises came to on test rows."""

    each: EachLabel | None = None
    cost: Spent | None = None
    answered: Measure | None = None  # share of rows that the rule did not abstain from
    wrong: Measure | None = None  # share of those that is wrong
    sets: Sets | None = None


class Truncated(Fact):
    """How rows that were cut fare beside the others."""

    told: str


class Measures(Fact):
    """metrics.json."""

    method: str
    model: str | None = None
    name: str
    splits: dict[str, SplitMeasures]
    cost: Cost
    notes: list[str] = []
    invalid_answers: float | None = None  # share of answers that name no label
    promises: Promises = Promises()
    brier: dict[str, Measure] = {}  # the parts of the Brier score
    truncation: Truncated | None = None  # None where few rows, or nearly all, were cut


class Source(Fact):
    """Where the rows came from and how they were divided."""

    source: str
    origin: str
    rows: dict[str, int]
    doubts: list[str] = []  # what looked wrong in them


class Environment(Fact):
    """env.json: enough to do it again."""

    lasttoken: str
    created: str
    versions: dict[str, str]
    device: str
    seed: int
    git_commit: str | None = None
    data_digest: str
    data: Source


class LabelFile(Fact):
    """labels.json."""

    names: list[str]
    multi: bool


class LoggedStep(Fact):
    """One line of steps.jsonl."""

    update: int
    loss: Number
    valid: dict[str, Number] | None = None


class Explained(Fact):
    """One line of explained.jsonl: what each word of a text adds to the log-odds of a label."""

    id: str
    label: str
    words: list[str]
    scores: list[float | None]  # none for a word that was not read


@dataclass(frozen=True, eq=False)
class RunView:
    """One run, as the report sees it."""

    folder: Path
    config: str  # TOML, as written
    environment: Environment
    labels: LabelSpace
    steps: list[LoggedStep]  # empty for a method without a training loop
    measures: Measures
    predictions: Predictions  # of the test rows
    texts: list[str] | None  # (N,), of the test rows
    raw: np.ndarray  # (N, C), their probabilities before calibration
    policy: Policy
    explained: list[Explained]  # the surest mistakes; empty where none were explained

    @property
    def name(self) -> str:
        return self.measures.name

    @property
    def test(self) -> SplitMeasures:
        return self.measures.splits["test"]


AnyFact = TypeVar("AnyFact", bound=Fact)


def collect(folder: Path) -> RunView:
    """The run in `folder`. Raises ArtifactError naming the file that is missing, damaged or of a newer format."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such run folder; name the folder that a fit wrote")
    measures = read_fact(folder / "metrics.json", Measures)
    if "test" not in measures.splits:
        raise ArtifactError(f"{folder / 'metrics.json'}: no metrics of the test split; run the fit again")
    listed = read_fact(folder / "labels.json", LabelFile)
    labels = LabelSpace(tuple(listed.names), listed.multi)
    path = folder / "predictions" / "test.parquet"
    predictions = read_predictions(path)
    if predictions.labels != labels:
        raise ArtifactError(f"{path}: its labels are not those of {folder / 'labels.json'}; run the fit again")
    return RunView(
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


def read_fact(path: Path, kind: type[AnyFact]) -> AnyFact:
    """The JSON file at `path` as a `kind`."""
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
    """A `kind` a line; none where there is no file."""
    if not path.exists():
        return []
    lines = enumerate(read_text(path).split("\n"), start=1)  # a text may hold what else ends a line
    return [parsed(line, kind, f"{path}:{number}") for number, line in lines if line.strip()]


def read_text(path: Path) -> str:
    """The UTF-8 text of a file that must be there."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"{path}: cannot be read ({why}); run the fit again") from error


def parsed(text: str, kind: type[AnyFact], where: str) -> AnyFact:
    """`text` as a `kind`; the error names the first field that is wrong."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{where}: {field or 'content'}: {first['msg']}; run the fit again") from error
