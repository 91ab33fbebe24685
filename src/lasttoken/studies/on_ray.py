"""The runs of a study as tasks on a Ray cluster, as many at a time as it has room for; each is finished in its folder or not.

All machines see the study's folder under one name. A task whose machine is lost is begun again, and its training goes on
from its checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lasttoken.cluster import TRIES, Room, enter, joined, room
from lasttoken.data.dataset import Splits
from lasttoken.errors import ArtifactError, Claimed, UserError
from lasttoken.journal import Journal
from lasttoken.record.atomic import claimed
from lasttoken.record.folder import MANIFEST
from lasttoken.studies.cells import Cell, Ended, Task, Watcher, fitted, freed, kept
from lasttoken.studies.kept import Keeping
from lasttoken.studies.timed import Within
from lasttoken.wording import first_line

WAIT = 300.0  # seconds for which a task waits until a lost one lets go of its folder; a network disk may take minutes
AGAIN = 5.0  # seconds between looks


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended on another machine."""

    ended: Ended | UserError
    machine: str
    told: list[str]  # its notes


def on_cluster(
    tasks: Sequence[Task], *, gpus: float, watcher: Watcher, every: float
) -> Iterator[tuple[int, Ended | UserError]]:
    """(number, how it ended) of each task, as they end; those that are finished are found here.

    gpus: share of a GPU for each. every: seconds between checkpoints of a training. Raises ConfigError without a cluster.
    """
    missing = dict[int, Task]()
    for number, task in enumerate(tasks):
        if not task.folder.exists():
            missing[number] = task
            continue
        try:
            with claimed(task.folder):
                known = kept(task, watcher.journal(task.folder.name))
        except UserError as error:
            yield number, freed(error)
            continue
        if known is None:
            missing[number] = task
        else:
            yield number, known
    if missing:
        watcher.journal("compare").progress("joining the cluster", 0, 0)
        with joined():
            yield from as_tasks(missing, room(None, gpus=gpus, cpus=None), watcher, every)


def as_tasks(
    tasks: Mapping[int, Task], room: Room, watcher: Watcher, every: float
) -> Iterator[tuple[int, Ended | UserError]]:
    """(number, how it ended) of each task by its number, as they end on the cluster that was joined."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    # rows are sent once, however many runs they are for
    stored = {
        id(splits): ray.put(splits) for splits in {id(task.splits): task.splits for task in tasks.values()}.values()
    }
    remote = ray.remote(max_retries=TRIES - 1, num_cpus=room.cpus, num_gpus=room.gpus)(fit_there)
    given = {number: (task.cell, task.folder, stored[id(task.splits)]) for number, task in tasks.items()}
    refs = {remote.remote(*one, every, watcher.track, os.getcwd()): number for number, one in given.items()}
    total, progress = len(refs), watcher.journal("compare").progress
    progress(f"fitting, {room.workers} at a time", 0, total)
    while refs:
        ref = ray.wait(list(refs))[0][0]
        number = refs.pop(ref)
        task = tasks[number]
        try:
            end: TaskEnd = ray.get(ref)
        except RayTaskError as error:  # raised by the task: a mistake of this program
            raise error.cause from error
        except RayError as error:
            lost = f"its process was ended {TRIES} times ({first_line(error)}); give the command again"
            end = TaskEnd(ArtifactError(lost), "the cluster", [])
        for sentence in end.told:
            watcher.note(f"{task.folder.name}: {sentence}")
        watcher.note(f"{task.folder.name}: ended on {end.machine}, {total - len(refs)} of {total}")
        progress(f"fitting, {room.workers} at a time", total - len(refs), total)
        if isinstance(end.ended, Ended) and not (end.ended.folder / MANIFEST).is_file():
            where = f"{end.ended.folder} of {end.machine} is not on this disk; give all machines the same one"
            yield number, ArtifactError(where)
        else:
            yield number, end.ended


def fit_there(cell: Cell, place: Path, splits: Splits, every: float, track: str | None, folder: str) -> TaskEnd:
    """Fit a cell in the process of a worker. folder: that of the command, since paths are relative to it."""
    told = list[str]()
    journal = Journal(tell=told.append)
    watcher = Watcher(lambda _: journal, lambda sentence: told.append(sentence.removeprefix(f"{place.name}: ")), track)
    task = Task(cell, place, splits, splits, cell.run, splits)
    try:
        enter(folder)
        ended: Ended | UserError = once_free(task, watcher, Keeping(resume=True, every=every))
    except UserError as error:
        ended = freed(error)
    return TaskEnd(ended, socket.gethostname(), told)


def once_free(task: Task, watcher: Watcher, keeping: Keeping) -> Ended:
    """Fit the task as soon as nobody else has its folder. Raises UserError."""
    until = time.monotonic() + WAIT
    while True:
        try:
            return fitted(task, lambda _: Within(task.cell.run, task.splits), watcher, keeping)
        except Claimed:
            if time.monotonic() > until:
                raise
            time.sleep(AGAIN)
