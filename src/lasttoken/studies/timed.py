"""`--time`: settings that let a fit end within a time limit, chosen from a short measurement on the user's own texts.

The chosen epochs, frozen blocks and training rows are stored as plain settings, so the run can be repeated without a
limit. A deadline stops training only if it is slower than measured.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken import catalog
from lasttoken.config.parse import read_run, seconds_in
from lasttoken.config.run import Run
from lasttoken.config.settings import epochs_of
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.subset import nested_order, with_fewer
from lasttoken.errors import ConfigError
from lasttoken.evaluation.run_record import read_fact
from lasttoken.journal import Journal, unheard
from lasttoken.plan.within import Job, Speed, choose, seconds_after, told
from lasttoken.record.folder import MANIFEST, checkpoints_of, updates_in
from lasttoken.record.schema import Metrics
from lasttoken.studies.one import Until
from lasttoken.train.distributed import launched
from lasttoken.wording import duration

UPDATES = 4  # of the measurement; the first is warm-up
VALIDATED = 8  # validation rows of the measurement
PREDICTED = 32  # rows of the timed prediction
JUDGING = 5.0  # seconds from the last prediction to the written run, on a slow machine
# explaining one mistake takes as long as predicting this many rows, with 16 steps of gradients as with removals
WEIGHED = 100
EXPLAINING = 0.1  # share of the time that explaining mistakes may take


@dataclass(frozen=True)
class Limit:
    """The time that a command may take."""

    seconds: float
    asked: str  # as the user gave it: 10m
    began: float  # time of `clock` at the start of the command
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Seconds that are left."""
        return self.began + self.seconds - self.clock()


@dataclass(frozen=True, eq=False)
class Within:
    """A run whose settings fit a time limit, with its splits and deadlines."""

    run: Run
    splits: Splits
    until: Until = field(default_factory=Until)


def limited(asked: str | None, began: float) -> Limit | None:
    """The limit of `--time`, counted from `began`; None if the option is not given. Raises ConfigError."""
    if asked is None:
        return None
    if launched():
        raise ConfigError(["--time: works with one process only; leave it out of an accelerate launch"])
    return Limit(seconds_in(asked, "--time"), asked, began)


def measure(run: Run, splits: Splits, journal: Journal) -> tuple[Speed, int]:
    """(speeds of the method, number of blocks of its model), from UPDATES updates and a prediction of a few rows."""
    method: Any = run.method
    journal.progress(f"measuring the speed of {method.model}", 0, 0)
    quiet = Journal(tell=unheard)
    catalog.method(method.method)  # imports
    few = brief(method)
    size = few.train.batch * UPDATES if trains(method) else PREDICTED
    train, valid = spread(splits.train, size), spread(splits.valid, VALIDATED)
    began = time.perf_counter()
    fitted = catalog.fit(few, train, valid, seed=run.seed, device=run.device, journal=quiet)
    spent = time.perf_counter() - began
    texts = spread(splits.test, PREDICTED).texts
    if zero_shot(method):
        fitted.classifier.predict_proba(texts[:VALIDATED])  # the first texts that the model reads
    began = time.perf_counter()
    fitted.classifier.predict_proba(texts)
    row = (time.perf_counter() - began) / len(texts)
    updates = [step.seconds for step in fitted.steps]
    if not zero_shot(method):  # which has read nothing so far
        read = len(valid) if updates else len(train) + len(valid)
        spent -= sum(updates) + read * row
    start = max(0.0, spent)
    classifier: Any = fitted.classifier
    depth = classifier.backbone.depth
    del fitted, classifier
    gc.collect()
    update = statistics.median(updates[1:] or updates or [0.0])
    frozen = getattr(method, "trunk", 0)
    update *= depth / (depth - frozen)
    return Speed(start, update, row, JUDGING), depth


def brief(method: Any) -> Any:
    """The method's settings for the measurement: one epoch, a randomly initialised head."""
    update: dict[str, Any] = {}
    if trains(method):
        update["train"] = method.train.model_copy(update={"epochs": 1.0, "evaluations": 1, "patience": 1})
    if "head_init" in type(method).model_fields:
        update["head_init"] = "random"
    return method.model_copy(update=update)


def within(
    run: Run,
    whole: Splits,
    limit: Limit | None,
    *,
    fits: int = 1,
    journal: Journal,
    like: Path | None = None,
    measured: Callable[[Run, Splits, Journal], tuple[Speed, int]] = measure,
) -> Within:
    """The run with the most epochs, trained blocks and rows that fit the time limit, with its splits and deadlines.

    whole: splits with all training rows; without a limit, those of the run, returned unchanged. fits: runs still to do,
    including this one; they share the time left equally. like: folder of the first seed's run, whose settings are
    reused if it exists. measured: returns the speeds and the number of blocks. The journal gets a note on what was
    reduced. A method without a model is not changed. Raises ConfigError if none fits.
    """
    method: Any = run.method
    if limit is None:
        return Within(run, whole)
    if whole.folds:
        raise ConfigError(
            ["--time: may reduce the training rows, but folds train on all of them; leave out one of the two"]
        )
    given = of_rows(whole, run)
    if "model" not in type(method).model_fields:
        return Within(run, given)
    seconds = limit.left() / fits
    ends, share = limit.clock() + seconds, f"--time {limit.asked}"
    share = share if fits == 1 else f"{duration(seconds)} of {share}"
    if like is not None and (like / MANIFEST).is_file():
        journal.note(f"{share}: same settings as {like.name}")
        same = as_kept(run, like, limit)
        return Within(same, of_rows(whole, same), Until(ends - after_training(given, like), ends))
    speed, depth = measured(run, given, journal)
    explained = min(run.explained, int(EXPLAINING * seconds / (WEIGHED * speed.row)))
    speed = replace(speed, end=speed.end + explained * WEIGHED * speed.row)
    job = job_of(run, given, depth)
    chosen = choose(job, speed, ends - limit.clock(), time=limit.asked)
    fitting = chosen_run(run, job, chosen).model_copy(update={"explained": explained})
    training = ends - seconds_after(chosen, speed) - chosen.valid * speed.row  # the last weights are validated
    fewer = (
        f"; in the report {explained} of {run.explained} mistakes will be explained"
        if explained < run.explained
        else ""
    )
    journal.note(told(job, chosen, speed, time=share) + fewer)
    return Within(fitting, of_rows(whole, fitting), Until(training, ends - explained * WEIGHED * speed.row))


def gone_on(run: Run, whole: Splits, folder: Path, limit: Limit | None) -> Within | None:
    """The run whose training was stopped, as --time chose it then, with a new deadline; None without a limit or checkpoint."""
    place = checkpoints_of(folder)
    if limit is None or not updates_in(place):
        return None
    same = as_kept(run, place, limit)
    ends = limit.began + limit.seconds
    return Within(same, of_rows(whole, same), Until(ends - JUDGING, ends))


def after_training(splits: Splits, kept: Path) -> float:
    """Seconds from the end of training to the written run, at the prediction speed of the run in `kept`."""
    rate = read_fact(kept / "metrics.json", Metrics).cost.predict_rows_per_second
    rows = 2 * len(splits.valid) + len(splits.test)  # the last weights are validated first
    return JUDGING + (rows / rate if rate > 0 else 0.0)


def of_rows(whole: Splits, run: Run) -> Splits:
    """The splits of the run: `whole`, its training rows reduced to train_rows."""
    rows = run.data.train_rows
    return whole if rows is None else with_fewer(whole, rows, seed=run.seed)


def job_of(run: Run, splits: Splits, depth: int) -> Job:
    """What the run would do without a limit. depth: blocks of the model."""
    method: Any = run.method
    rows, valid, test = len(splits.train), len(splits.valid), len(splits.test)
    fewest = nested_order(splits.train, seed=run.seed)[1]
    if not trains(method):
        return Job(rows, valid, test, epochs=0, fewest=fewest, untrained=zero_shot(method))
    can_freeze, settings = "trunk" in type(method).model_fields, method.train
    return Job(
        rows,
        valid,
        test,
        epochs=epochs_of(settings.epochs, settings.batch, rows),
        batch=settings.batch,
        evaluations=settings.evaluations,
        trunk=method.trunk if can_freeze else 0,
        depth=depth if can_freeze else 0,
        head_first=method.footprint().head_first,
        fewest=fewest,
    )


def trains(method: Any) -> bool:
    """Whether the method's model is trained, by updates."""
    return "train" in type(method).model_fields and method.footprint().trains != "nothing"


def zero_shot(method: Any) -> bool:
    """Whether the method's model could be trained, and is used as it is."""
    return "train" in type(method).model_fields and not trains(method)


def spread(data: Dataset, count: int) -> Dataset:
    """At most `count` rows, evenly spaced in the order of text length."""
    order = np.argsort([len(text) for text in data.texts], kind="stable")
    places = (np.arange(min(count, len(data))) + 0.5) * len(data) / min(count, len(data))
    return data.take(order[places.astype(np.int64)])


def chosen_run(run: Run, job: Job, chosen: Job) -> Run:
    """The run with the epochs, frozen blocks and training rows of `chosen` as plain settings."""
    method: Any = run.method
    update: dict[str, Any] = {}
    if chosen.epochs != job.epochs:
        update["train"] = method.train.model_copy(update={"epochs": chosen.epochs})
    if chosen.trunk != job.trunk:
        update["trunk"] = chosen.trunk
    return with_settings(run, update, run.data.train_rows if chosen.rows == job.rows else chosen.rows)


def with_settings(run: Run, method: dict[str, Any], rows: int | None) -> Run:
    """The run with the settings in `method` and the training rows replaced."""
    data = run.data.model_copy(update={"train_rows": rows})
    return run.model_copy(update={"method": run.method.model_copy(update=method), "data": data})


def as_kept(run: Run, folder: Path, limit: Limit | None) -> Run:
    """The run with the settings that --time chose for the run in `folder`; unchanged without a limit or that run."""
    if limit is None or not (folder / "config.toml").is_file():
        return run
    kept = read_run(folder / "config.toml")
    mine: Any = run.method
    theirs: Any = kept.method
    if mine.method != theirs.method or "model" not in type(mine).model_fields:
        return run
    update: dict[str, Any] = {"trunk": theirs.trunk} if "trunk" in type(mine).model_fields else {}
    if trains(mine):
        update["train"] = mine.train.model_copy(update={"epochs": theirs.train.epochs})
    return with_settings(run, update, kept.data.train_rows).model_copy(update={"explained": kept.explained})
