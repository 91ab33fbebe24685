"""Schema of the JSON files of a run folder.

An undefined number (the AUROC of a class without rows) is NaN here and null in the file, because JSON has no NaN.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

FORMAT = 2  # of a run folder; a newer one is refused by name


def nan_for_null(value: object) -> object:
    """NaN for null, any other value unchanged."""
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(nan_for_null)]


class Fact(BaseModel):
    """A frozen record from a file. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Versioned(Fact):
    """A file with a format number."""

    format: int = FORMAT


class Measure(Fact):
    """A metric with its interval; low and high are NaN without one."""

    estimate: Number
    low: Number
    high: Number
    level: float  # 0.95 means a 95 % interval


class ClassMeasure(Fact):
    """Metrics of one class."""

    label: str
    precision: Number
    recall: Number
    f1: Number
    support: int  # rows that have the class
    predicted: int  # rows that were given the class
    auroc: Number = math.nan
    ece: Measure | None = None  # None in runs of older versions


class ProblemMeasure(Measure):
    """A metric that depends on the data set (evaluation/problem_metrics.py), with its name in words."""

    name: str
    words: str


class SplitMeasures(Fact):
    """All metrics of one split."""

    n: int
    classes: int
    multi: bool
    metrics: dict[str, Measure]
    per_class: list[ClassMeasure]
    further: list[ProblemMeasure] = []


class Cost(Fact):
    """Parameters, time and memory of training and prediction."""

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
    """How often conformal sets contained the truth."""

    promised: float  # guaranteed coverage
    had: Measure
    size: float  # labels in a set, on average


class EachLabel(Fact):
    """The precision or recall that labels achieved, against the one wanted of each."""

    of: str  # precision or recall
    wanted: float
    had: Measure  # of all labels together
    labels: int  # that can be judged
    short: int  # that are shown to have less


class Spent(Fact):
    """Mean cost of a row's decision, and of giving the most probable label instead."""

    each: Measure
    by_most_probable: Measure
    saved: Measure  # by_most_probable - each, on the same rows


class Guarantees(Fact):
    """The policy's guarantees and what was achieved on test rows."""

    each: EachLabel | None = None
    cost: Spent | None = None
    answered: Measure | None = None  # share of rows answered, not abstained from
    wrong: Measure | None = None  # error rate among answered rows
    sets: Sets | None = None


class Truncated(Fact):
    """Metrics of truncated rows and of the others."""

    told: str  # the comparison in a sentence
    rows: int = 0
    metric: str = ""
    cut: Measure | None = None
    whole: Measure | None = None


class Ended(Fact):
    """How training ended."""

    how: Literal["finished", "early", "interrupted", "diverged"]
    update: int = 0  # that the kept weights are from
    score: Number = math.nan  # validation metric of the kept weights
    told: str = ""  # how training ended, in a sentence; empty for a method without training


class CrossValidated(Fact):
    """How the rows of the test split were judged, where every row is one."""

    folds: int
    train_seconds: Number  # of all fold models together
    told: str  # what the scores are of, and what the saved model is, in two sentences


class FoldFact(Fact):
    """fold.json: what one fold of a cross-validation cost and lost, kept until the run is finished."""

    train_seconds: Number
    predict_seconds: Number
    lost: list[int]  # tokens that each row lost
    invalid: list[bool] | None = None  # generated answers that name no label; None: nothing was generated
    told: str = ""  # how its training diverged; empty where it did not


class Metrics(Versioned):
    """metrics.json."""

    method: str
    model: str | None = None
    name: str
    end: Ended
    splits: dict[str, SplitMeasures]
    raw: dict[str, Number] = {}  # all metrics on test rows before calibration
    cost: Cost
    notes: list[str] = []
    invalid_answers: float | None = None  # share of answers that name no label
    guarantees: Guarantees = Guarantees()
    brier: dict[str, Measure] = {}  # the parts of the Brier score
    truncation: Truncated | None = None  # None where few or nearly all rows were truncated
    cross_validated: CrossValidated | None = None  # None where test is a part of its own

    @model_validator(mode="before")
    @classmethod
    def of_format_1(cls, values: Any) -> Any:
        """Converts format 1, which had one word `ended` for `end`, and `promises` for `guarantees`."""
        if not isinstance(values, dict) or "end" in values or values.get("format", 1) > 1:
            return values
        ended = values.get("ended", "finished")
        return {"end": {"how": ended}, "guarantees": values.get("promises") or {}} | values


class Source(Fact):
    """Source of the rows and their splits."""

    source: str
    origin: str
    rows: dict[str, int]
    doubts: list[str] = []  # warnings about the data


class Environment(Versioned):
    """env.json: what is needed to reproduce the run."""

    lasttoken: str
    created: str
    versions: dict[str, str]
    device: str
    precision: str | None = None  # of matrix products; None: of a run without a model, or of before it was recorded
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
    lr: Number = math.nan
    grad_norm: Number = math.nan
    rows: int = 0
    seconds: Number = math.nan
    valid: dict[str, Number] | None = None


class Explained(Fact):
    """One line of explained.jsonl: what each word of a text adds to the log-odds of a label."""

    id: str
    label: str
    by: str = ""
    words: list[str]
    scores: list[float | None]  # None for a word that was truncated


class Checked(Fact):
    """How an exported form compared with the run on its validation rows."""

    rows: int
    agreement: float  # share of rows with the same decision
    required: float  # the least that was accepted
    largest: float  # largest difference of a calibrated probability
    rows_per_second: float
    ours: float  # rows per second of the run itself, in the same process


class Form(Fact):
    """One form of an exported model."""

    name: str
    runtime: str
    precision: str
    file: str  # relative to the folder
    check: Checked


class ReadingFacts(Fact):
    """How texts become token ids (infer/portable.py)."""

    limit: int
    keep: Literal["head", "tail", "head_tail"] = "head"
    prefix: str = ""
    suffix: str = ""


class Export(Versioned):
    """export.json."""

    lasttoken: str
    created: str
    run: str  # name of the run
    digest: str  # sha256 of its manifest
    method: str
    model: str | None = None
    cpu: str  # that the checks ran on
    versions: dict[str, str] = {}  # of libraries when it was made
    reading: ReadingFacts | None = None  # None of an answering model, whose prompt is in prompt.json
    temperature: float = 1.0  # what logits are divided by
    padding: int = 0  # token id
    forms: list[Form]
