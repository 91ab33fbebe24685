"""Experiment trackers: the curve of a training as it happens, its settings, and its test scores at the end.

The trackers are accelerate's, so that their usual environment variables (WANDB_PROJECT, MLFLOW_TRACKING_URI) hold.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lasttoken.config.run import Run
from lasttoken.errors import ConfigError
from lasttoken.journal import Journal, unheard
from lasttoken.record.schema import Metrics
from lasttoken.train.outcome import Step
from lasttoken.wording import did_you_mean, first_line

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}
PROJECT = "lasttoken"  # what runs are grouped under, where the tracker's own variable does not say


def check_tracker(name: str | None) -> None:
    """Raises ConfigError on an unknown tracker, or one whose package is not installed."""
    if name is None:
        return
    if name not in PACKAGES:
        raise ConfigError([f"--track: {name!r} is not among {', '.join(PACKAGES)}{did_you_mean(name, PACKAGES)}"])
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise ConfigError([f"--track {name} needs the package {PACKAGES[name]}: pip install {PACKAGES[name]}"])


@contextmanager
def tracking(name: str | None, run: Run, folder: Path, journal: Journal) -> Iterator[Callable[[Metrics], None]]:
    """A function that takes the metrics of the finished run; inside, the journal's steps go to the tracker `name`.

    Every value is a number or a text; what is not finite is left out.
    """
    if name is None:
        yield unheard
        return
    try:
        tracker = started(name, folder)
        store_settings(tracker, name, dict(flat(run.model_dump(mode="json"))))
    except Exception as error:  # each tracker has errors of its own
        raise ConfigError(
            [f"--track {name}: it cannot be started ({first_line(error)}); mend that, or leave it out"]
        ) from error
    if name == "tensorboard":
        journal.note(f"tensorboard --logdir {tensorboard_folder(folder)} shows it as it trains")
    lost: list[str] = []

    def send(values: Mapping[str, float], step: int) -> None:
        """To the tracker, until it fails once: a training does not end for it."""
        if lost:
            return
        try:
            tracker.log(finite(values), step=step)
        except Exception as error:
            lost.append(first_line(error))
            journal.note(f"{name} does not answer ({lost[0]}); training goes on without it")

    def log(step: Step) -> None:
        values = {"loss": step.loss, "learning_rate": step.lr, "grad_norm": step.grad_norm, "rows": step.rows}
        if step.score is not None:
            values["validation"] = step.score
        send({f"train/{key}": value for key, value in values.items()}, step.number)

    def finish(measures: Metrics) -> None:
        scores = {f"test/{key}": one.estimate for key, one in measures.splits["test"].metrics.items()}
        cost = {
            f"cost/{key}": value for key, value in measures.cost.model_dump().items() if isinstance(value, float | int)
        }
        send(scores | cost, measures.end.update)

    before, journal.step = journal.step, log
    try:
        yield finish
    finally:
        journal.step = before
        if not lost:
            tracker.finish()


def started(name: str, folder: Path) -> Any:
    """accelerate's tracker of that name, for a run in `folder`."""
    from accelerate import PartialState, tracking

    PartialState()  # accelerate's trackers ask it which process they are in
    if name == "tensorboard":
        tracker: Any = tracking.TensorBoardTracker(folder.name, logging_dir=tensorboard_folder(folder))
    elif name == "mlflow":
        tracker = tracking.MLflowTracker(experiment_name=PROJECT, run_name=folder.name)
    elif name == "wandb":
        tracker = tracking.WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name)
    else:
        tracker = tracking.TrackioTracker(PROJECT, name=folder.name)
    tracker.start()
    return tracker


def store_settings(tracker: Any, name: str, settings: dict[str, Any]) -> None:
    """Send the settings; to TensorBoard as a text, since its hyperparameters become a run beside the run."""
    if name == "tensorboard":
        tracker.writer.add_text("settings", "\n".join(f"    {key} = {value}" for key, value in settings.items()))
    else:
        tracker.store_init_configuration(settings)


def tensorboard_folder(folder: Path) -> Path:
    """Where TensorBoard's files of a run are: beside it."""
    return folder.absolute().parent / "tensorboard"


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str | float | int | bool]:
    """Nested settings by dotted names; lists as text, None left out."""
    found: dict[str, str | float | int | bool] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif value is not None:
            found[f"{before}{key}"] = value if isinstance(value, str | float | int | bool) else str(value)
    return found


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are finite."""
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}
