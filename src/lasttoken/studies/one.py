"""One run from data to folder: fit, predict, evaluate, explain mistakes, write.

The record of a run is built in memory and written once, with the model; the folder appears whole or not at all.
"""

from __future__ import annotations

import itertools
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lasttoken import catalog
from lasttoken.config.parse import to_toml
from lasttoken.config.run import Run
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.splits_file import data_digest, write_splits
from lasttoken.errors import UserError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.policy import check_decision, fit_policy, judged_parts
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.problem_metrics import label_counts, problem_metrics
from lasttoken.evaluation.run_record import RunRecord, ValidationRows, read_fact, write_record
from lasttoken.evaluation.summary import brier, interval_of, measured, summarize
from lasttoken.explain.explanation import explained
from lasttoken.journal import Journal
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.model.device import choose_device, describe_device
from lasttoken.predictor import Predictor
from lasttoken.record.artifact import SETTINGS
from lasttoken.record.folder import INTERRUPTED, check_free, files, read_json, verify, writing
from lasttoken.record.schema import Environment, LoggedStep, Metrics
from lasttoken.report.page import render, write_page
from lasttoken.report.tables import mistakes
from lasttoken.report.verdict import title
from lasttoken.studies.folds import (
    Fold,
    cross_validated,
    in_order,
    remove_folds,
    rows_per_second,
    run_folds,
    said_of,
)
from lasttoken.studies.kept import Keeping, check_same, kept_state
from lasttoken.train.distributed import join, launched
from lasttoken.wording import figure, first_line, quoted, span

if TYPE_CHECKING:
    from lasttoken.train.state import TrainState

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "scikit-learn", "numpy")
WARM_UP = 32  # rows predicted before the clock starts
SHOWN = 5  # labels that are named in a sentence
FEW = 20  # least number of truncated rows, and of others, to compare their scores


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run."""

    folder: Path
    measures: Metrics
    fitted: Fitted | None  # None if the run was finished before


@dataclass(frozen=True)
class Until:
    """Deadlines of a run with a time limit, as values of time.monotonic()."""

    training: float = math.inf  # when training ends, finished or not
    explaining: float = math.inf  # after which mistakes are no longer explained


@dataclass(frozen=True, eq=False)
class Predicted:
    """Uncalibrated predictions of the validation and test rows."""

    valid: Said
    test: Said  # by the folds' models in a cross-validation
    rows_per_second: float  # on test rows
    folds: Sequence[Fold] = ()  # that predicted the test rows; empty without cross-validation


def run_method(
    config: Run,
    splits: Splits,
    folder: Path,
    *,
    name: str,
    journal: Journal,
    until: Until | None = None,
    keeping: Keeping | None = None,
) -> Outcome:
    """Fit, predict, evaluate and save one method. The folder is written whole or not at all, by the first process only.

    until: deadlines of a run with a time limit. keeping: checkpoints of its training; None writes and reads none.
    """
    until = Until() if until is None else until
    journal.progress(catalog.loading(config.method), 0, 0)  # importing torch takes seconds
    check_decision(config.decision, splits.valid.targets, splits.labels)
    world = join(catalog.device_of(config.method.method, config.device))
    check_free(folder)  # fail before training
    state = None
    if keeping is not None and "train" in type(config.method).model_fields:
        state = kept_state(config, splits, folder, keeping, world=world, journal=journal)
    folds = run_folds(config, splits, folder, writes=world.rank == 0, journal=journal) if splits.folds else []
    fitted = catalog.fit(
        config.method,
        splits.train,
        splits.valid,
        seed=config.seed,
        device=config.device,
        journal=journal,
        state=state_until(until.training, state),
    )
    found = predict_parts(fitted, splits, journal, folds)
    record = judge(config, splits, fitted, found, folder, name=name, journal=journal)
    try:
        if world.rank == 0:
            if time.monotonic() >= until.explaining:
                journal.note("mistakes are not explained: the time is up")
            elif fitted.split:  # the others would have to predict along
                journal.note(
                    "mistakes are not explained: the model is split over the processes; lasttoken explain does it"
                )
            elif not folds:  # the folds' models, which made the mistakes, are no longer in memory
                record = explain_mistakes(config, splits, fitted, record, journal)
            record = write_run(record, splits, fitted, journal)
            if fitted.end.how != "interrupted":
                if folds:
                    remove_folds(folder)
                if state is not None and state.keeper is not None:
                    state.keeper.remove()
    finally:
        world.wait()  # also if writing failed: the other processes wait here
    return Outcome(record.folder, record.measures, fitted)


def state_until(deadline: float, state: TrainState | None) -> TrainState | None:
    """The state, or a new one, that ends at `deadline`; None without either. Imports torch."""
    if deadline == math.inf:
        return state
    from lasttoken.train.state import TrainState

    state = TrainState() if state is None else state
    state.deadline = deadline
    return state


def predict_parts(fitted: Fitted, splits: Splits, journal: Journal, folds: Sequence[Fold] = ()) -> Predicted:
    """Uncalibrated predictions of the validation and test rows; the test rows are timed.

    With `folds`, the predictions of the test rows are those of the folds.
    """
    predictor = Predictor(fitted.classifier)
    valid = predictor.said(splits.valid.texts, journal, "predicting validation rows")
    if folds:
        return Predicted(valid, said_of(splits, folds), rows_per_second(folds), folds)
    fitted.classifier.predict_proba(splits.test.texts[:WARM_UP])
    began = time.perf_counter()
    fresh = Predictor(fitted.classifier)  # its cache is empty
    test = fresh.said(splits.test.texts, journal, "predicting test rows")
    spent = time.perf_counter() - began
    if test.truncation:
        journal.note(f"test: {test.truncation}")
    return Predicted(valid, test, len(splits.test) / spent)


def judge(
    config: Run, splits: Splits, fitted: Fitted, found: Predicted, folder: Path, *, name: str, journal: Journal
) -> RunRecord:
    """The record of the run, without explanations. The policy is fitted on validation rows, metrics on test rows."""
    journal.progress("judging", 0, 0)
    test = replace(predicted(splits.test, found.test), fold=splits.fold_of)
    raw = {"valid": predicted(splits.valid, found.valid), "test": test}
    policy, notes = fit_policy(config.decision, raw["valid"], seed=config.seed, above=splits.above)
    for sentence in notes:
        journal.note(sentence)
    parts = [(fold.policy, fold.raw) for fold in found.folds] or [(policy, raw["test"])]
    tested = [own.shipped(said) for own, said in parts]
    shipped = {
        "valid": raw["valid"],  # uncalibrated: the policy was fitted on these rows, its scores on them are optimistic
        "test": in_order(splits, tested) if found.folds else tested[0],
    }
    truncation = cost_of_truncation(shipped["test"], found.test.lost, seed=config.seed)
    for told in (
        silent(shipped["test"]),
        unjudged(shipped["test"]),
        None if truncation is None else truncation["told"],
    ):
        if told:
            journal.note(f"test: {told}")
    learnt = label_counts(splits.train.targets, len(splits.labels))
    more = problem_metrics(splits.labels, learnt, len(splits.train), splits.hierarchy)
    invalid = found.test.invalid
    measures = Metrics.model_validate(
        {
            "name": name,
            "method": config.method.method,
            "model": config.method.model_dump().get("model"),
            "end": {key: getattr(fitted.end, key) for key in ("how", "update", "score", "told")},
            "splits": {part: summarize(one, seed=config.seed, more=more) for part, one in shipped.items()},
            "raw": measured(raw["test"]),
            "brier": {of: one.to_dict() for of, one in brier(shipped["test"], seed=config.seed).items()},
            "guarantees": judged_parts(parts, config.decision),
            "truncation": truncation,
            "cost": cost_of(fitted, found.rows_per_second),
            "invalid_answers": None if invalid is None else float(invalid.mean()),
            "cross_validated": cross_validated(splits, found.folds) if found.folds else None,
        }
    )
    return RunRecord(
        folder,
        to_toml(config),
        environment(config, splits),
        splits.labels,
        logged(fitted, config),
        measures,
        shipped["test"],
        list(splits.test.texts),
        raw["test"].probs,
        policy,
        explained=[],
        valid=ValidationRows(shipped["valid"], splits.valid.texts, raw["valid"].probs),
    )


def predicted(data: Dataset, said: Said) -> Predictions:
    """Predictions of `data`."""
    return Predictions(data.ids, data.targets, said.probs, data.labels)


def cost_of(fitted: Fitted, rate: float) -> dict[str, Any]:
    """The cost of the run, for metrics.json. model_bytes is nan if unknown; `write_run` then takes the size on disk."""
    cost = fitted.cost
    return {
        "trainable_parameters": cost.trainable_parameters,
        "total_parameters": cost.total_parameters,
        "train_seconds": cost.seconds,
        "train_rows_per_second": cost.rows_per_second,
        "predict_rows_per_second": rate,
        "peak_memory_bytes": cost.peak_bytes,
        "peak_memory_kind": cost.peak_kind,
        "peak_reserved_bytes": cost.peak_reserved,
        "model_bytes": cost.model_bytes,
    }


def logged(fitted: Fitted, config: Run) -> list[LoggedStep]:
    """The training steps for steps.jsonl; validation scores are named by the metric that selected the weights."""
    metric = getattr(config.method, "train").metric if fitted.steps else ""  # noqa: B009 - methods without steps have none
    return [
        LoggedStep(
            update=step.number,
            loss=step.loss,
            lr=step.lr,
            grad_norm=step.grad_norm,
            rows=step.rows,
            seconds=step.seconds,
            valid=None if step.score is None else {metric: step.score},
        )
        for step in fitted.steps
    ]


def explain_mistakes(config: Run, splits: Splits, fitted: Fitted, record: RunRecord, journal: Journal) -> RunRecord:
    """The record with explanations of the most confident mistakes.

    If they cannot be explained, the record is returned unchanged with a note, so that the trained model is still saved.
    """
    place = {row: i for i, row in enumerate(splits.test.ids)}
    errors = [(one.id, splits.test.texts[place[one.id]], one.label) for one in mistakes(record, config.explained)]
    journal.progress("explaining mistakes", 0, 0)
    try:
        return replace(record, explained=explained(Predictor(fitted.classifier, record.policy), errors))
    except (UserError, MemoryError, RuntimeError) as error:  # RuntimeError: torch's, also when out of memory
        journal.note(f"mistakes are not explained: {first_line(error)}")
        return record


def write_run(record: RunRecord, splits: Splits, fitted: Fitted, journal: Journal) -> RunRecord:
    """Write the run folder: the model, the record and the page. Returns the record as it was written."""
    record = replace(record, folder=vacant(record.folder, journal))
    journal.progress("writing", 0, 0)
    with writing(record.folder) as part:
        fitted.classifier.save(part)
        measures = record.measures
        if np.isnan(measures.cost.model_bytes):
            size = sum((part / file).stat().st_size for file in files(part))
            measures = measures.model_copy(update={"cost": measures.cost.model_copy(update={"model_bytes": size})})
        used = read_json(part / SETTINGS)["config"].get("precision")
        made = record.environment.model_copy(update={"precision": used})
        measures = measures.model_copy(update={"notes": list(journal.notes)})
        record = replace(record, environment=made, measures=measures)
        write_record(record, part)
        write_splits(splits, part / "splits.parquet")
        write_page(render([record], None, title=title([record])), part / "report.html")
    return record


def vacant(folder: Path, journal: Journal) -> Path:
    """`folder`, or a free name beside it if another process wrote there while this run trained."""
    names = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(2))
    free = folder if not folder.exists() else next(path for path in names if not path.exists())
    if free != folder:
        journal.note(f"{folder} was written by another process meanwhile; this run is {free}")
    return free


def silent(test: Predictions) -> str | None:
    """A note if a multi-label run predicts no label on any test row although some rows have one; else None."""
    if not test.labels.multi or test.chosen.any() or not test.targets.any():
        return None
    most = figure(float(test.probs.max()))
    return (
        f"no row gets a label (the highest probability is {most}), so micro- and macro-F1 are 0; tuned thresholds need "
        "50 validation rows, decision.at_least_one gives every row its most probable label; AUROC needs no thresholds"
    )


def unjudged(test: Predictions) -> str | None:
    """A note on labels that no test row has, whose F1 counts as 0 in macro-F1; None if there are none."""
    rows = test.targets.sum(axis=0) if test.labels.multi else np.bincount(test.targets, minlength=len(test.labels))
    without = [quoted(name) for name, count in zip(test.labels.names, rows, strict=True) if not count]
    if not without:
        return None
    more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
    return f"no row has {', '.join(without[:SHOWN])}{more}: F1 counts as 0 there, in macro-F1 too; --folds 5 judges every row"


def cost_of_truncation(test: Predictions, lost: np.ndarray, *, seed: int) -> dict[str, Any] | None:
    """The score on truncated rows and on the others, for metrics.json; None with fewer than FEW of either.

    lost: tokens that truncation removed from each row, (N,); empty for a method without a limit. The two groups may
    differ in other ways: a lower score is a reason to try another `long.keep`, not an estimate of its gain.
    """
    if min((lost > 0).sum(), (lost == 0).sum()) < FEW:
        return None
    metric = METRICS["micro_f1" if test.labels.multi else "accuracy"]
    parts = {"cut": lost > 0, "whole": lost == 0}
    found = {name: interval_of(test.take(np.flatnonzero(rows)), metric, seed=seed) for name, rows in parts.items()}
    cut, whole = (f"{figure(one.estimate)} {span(one.low, one.high)}" for one in found.values())
    told = f"{metric.words} {cut} on the {int(parts['cut'].sum())} truncated rows, {whole} on the others"
    return {"rows": int(parts["cut"].sum()), "metric": metric.name, "told": told} | {
        name: one.to_dict() for name, one in found.items()
    }


def environment(config: Run, splits: Splits) -> Environment:
    """Versions, commit and data that the run was made with."""
    rows = {"train": len(splits.train), "valid": len(splits.valid), "test": len(splits.test)}
    return Environment.model_validate(
        {
            "lasttoken": version("lasttoken"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
            "device": describe_device(catalog.device_of(config.method.method, config.device)),
            "seed": config.seed,
            "git_commit": git_commit(),
            "data_digest": data_digest(splits),
            "data": {
                "source": config.data.source,
                "origin": splits.origin,
                "rows": rows,
                "doubts": list(splits.doubts),
            },
        }
    )


def git_commit() -> str | None:
    """The git commit of the working directory; None outside a repository or without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def finished(config: Run, splits: Splits, folder: Path) -> Outcome | None:
    """The finished run in `folder`; None if there is none. Raises ArtifactError if `folder` holds a different run.

    An interrupted run does not count as finished: it is renamed to FOLDER.interrupted.
    """
    if not folder.exists():
        return None
    verify(folder)
    check_same(config, splits, folder)
    measures = read_fact(folder / "metrics.json", Metrics)
    if measures.end.how == "interrupted":
        in_step(config.device)  # other processes may still be reading it
        if leads(config.device):
            aside = folder.with_name(f"{folder.name}{INTERRUPTED}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        return None
    return Outcome(folder, measures, None)


def in_step(device: str) -> None:
    """Barrier of all training processes, so that none looks for a folder before the first has written it."""
    if launched():
        join(choose_device(device)).wait()


def leads(device: str) -> bool:
    """Whether this process is the first of the training processes: the one that prints and writes."""
    return not launched() or join(choose_device(device)).rank == 0
