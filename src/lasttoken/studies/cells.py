"""The runs of a study, each fitted in its turn, or found finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lasttoken.config.parse import settings_line
from lasttoken.config.run import Run
from lasttoken.data.dataset import Splits
from lasttoken.errors import UserError
from lasttoken.journal import Journal
from lasttoken.record.atomic import claimed
from lasttoken.record.folder import checkpoints_of
from lasttoken.studies.kept import Keeping
from lasttoken.studies.one import Outcome, finished, in_step, leads, run_method
from lasttoken.studies.timed import Limit, Within, gone_on, within
from lasttoken.track import tracking


@dataclass(frozen=True)
class Cell:
    """One run of a study: a named method at one training size and one seed."""

    name: str
    run: Run
    optional: bool = False  # skipped, without counting as failed, if its model is not on this machine

    def folder(self, first_seed: int) -> str:
        """The run folder's name: embedding; embedding-200 with 200 training rows; embedding-seed1 of a later seed."""
        rows, seed = self.run.data.train_rows, self.run.seed
        return self.name + (f"-{rows}" if rows else "") + (f"-seed{seed}" if seed != first_seed else "")


@dataclass(frozen=True, eq=False)
class Task:
    """A cell with its rows and its place."""

    cell: Cell
    folder: Path
    splits: Splits  # the rows of the run
    whole: Splits  # with all training rows
    known: Run  # the run with the settings that an earlier command chose for its --time; without one, that of the cell
    known_splits: Splits


@dataclass(frozen=True)
class Watcher:
    """Who is told of a study."""

    journal: Callable[[str], Journal]  # of a run, by its name
    note: Callable[[str], None]  # takes sentences on the whole
    track: str | None = None  # name of an experiment tracker


@dataclass(frozen=True)
class Ended:
    """How a run of a study ended."""

    folder: Path
    how: str  # as in metrics.json
    told: str


def fitted(task: Task, plan: Callable[[Journal], Within], watcher: Watcher, keeping: Keeping | None) -> Ended:
    """Fit a cell, or find it finished. plan: what is fitted, asked for once it is known that it must be. Raises UserError."""
    name, folder, config = task.folder.name, task.folder, task.cell.run
    journal = watcher.journal(name)
    with claimed(folder, here=leads(config.device)):
        known = kept(task, journal)
        if known is not None:
            return known
        made = plan(journal)
        watcher.note(f"{name}: {settings_line(made.run)}")  # kept in config.toml
        track = watcher.track if leads(config.device) else None
        with tracking(track, made.run, folder, journal) as tracked:
            outcome = run_method(
                made.run,
                made.splits,
                folder,
                name=task.cell.name,
                journal=journal,
                until=made.until,
                keeping=keeping,
            )
            tracked(outcome.measures)
    return ended(outcome)


def kept(task: Task, journal: Journal) -> Ended | None:
    """The finished run of a task; None where there is none. Raises ArtifactError where its folder holds another."""
    outcome = finished(task.known, task.known_splits, task.folder)
    in_step(task.cell.run.device)
    if outcome is None:
        return None
    journal.note(f"kept from before, {task.folder}")
    shutil.rmtree(checkpoints_of(task.folder), ignore_errors=True)
    return ended(outcome)


def ended(outcome: Outcome) -> Ended:
    """How a run ended, without its model."""
    end = outcome.measures.end
    return Ended(outcome.folder, end.how, end.told or "")


def planned(tasks: Sequence[Task], number: int, limit: Limit | None, keeping: bool, journal: Journal) -> Within:
    """What is fitted of a task. limit: for all tasks; each gets an equal share of the time left."""
    task = tasks[number]
    config, folder = task.cell.run, task.folder
    if limit is None:
        return Within(config, task.splits)
    fits = sum(not later.folder.exists() for later in tasks[number:])
    made = gone_on(config, task.whole, folder, limit) if keeping else None
    first = folder.with_name(task.cell.folder(config.seed))  # the same cell of the first seed
    return made or within(config, task.whole, limit, fits=fits, journal=journal, like=first)


def one_by_one(
    tasks: Sequence[Task], *, limit: Limit | None, watcher: Watcher, keeping: Keeping | None = None
) -> Iterator[tuple[int, Ended | UserError]]:
    """(number, how it ended) of each task, in this process."""
    for number, task in enumerate(tasks):
        plan = partial(planned, tasks, number, limit, keeping is not None)
        try:
            yield number, fitted(task, plan, watcher, keeping)
        except UserError as error:
            yield number, freed(error)


def freed(error: UserError) -> UserError:
    """The error without its frames, which would keep the model in memory."""
    error = error.with_traceback(None)
    error.__cause__ = error.__context__ = None
    return error
