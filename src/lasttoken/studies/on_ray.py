"""The runs of a study as tasks on a Ray cluster, as many at a time as it has room for; each is finished in its folder or not.

All machines see the study's folder under one name. A task whose machine is lost is started again, and its training goes
on from its checkpoint.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lasttoken.cluster import Room, enter
from lasttoken.errors import ArtifactError, UserError
from lasttoken.journal import Journal
from lasttoken.studies.cells import Ended, Task, Watcher, fitted, freed
from lasttoken.studies.kept import Keeping
from lasttoken.studies.timed import Within

RETRIES = 3  # times that a task is started again


@dataclass(frozen=True)
class Reply:
    """How a task ended on another machine."""

    ended: Ended | UserError
    machine: str
    told: list[str] = field(default_factory=list)  # its notes


def on_cluster(
    tasks: Sequence[Task], *, room: Room, watcher: Watcher, every: float
) -> Iterator[tuple[int, Ended | UserError]]:
    """(number, how it ended) of each task, as they end. every: seconds between checkpoints of a training."""
    import ray
    from ray.exceptions import RayError

    remote = ray.remote(max_retries=RETRIES, num_cpus=room.cpus, num_gpus=room.gpus)(fit_there)
    refs = {remote.remote(task, every, watcher.track, os.getcwd()): number for number, task in enumerate(tasks)}
    total, progress = len(refs), watcher.journal("compare").progress
    progress(f"fitting, {room.workers} at a time", 0, total)
    while refs:
        ref = ray.wait(list(refs))[0][0]
        number = refs.pop(ref)
        try:
            reply: Reply = ray.get(ref)
        except RayError as error:
            lost = f"its process was ended {RETRIES + 1} times ({str(error).strip().splitlines()[0]}); give the command again"
            reply = Reply(ArtifactError(lost), "the cluster")
        name = tasks[number].folder.name
        for sentence in reply.told:
            watcher.note(f"{name}: {sentence}")
        watcher.note(f"{name}: ended on {reply.machine}, {total - len(refs)} of {total}")
        progress(f"fitting, {room.workers} at a time", total - len(refs), total)
        yield number, reply.ended


def fit_there(task: Task, every: float, track: str | None, folder: str) -> Reply:
    """Fit a task in the process of a worker. folder: that of the command, since paths are relative to it."""
    told = list[str]()
    journal = Journal(tell=told.append)
    keeping = Keeping(resume=True, every=every)
    try:
        enter(folder)
        watcher = Watcher(lambda _: journal, told.append, track)
        ended: Ended | UserError = fitted(task, lambda _: Within(task.cell.run, task.splits), watcher, keeping)
    except UserError as error:
        ended = freed(error)
    return Reply(ended, socket.gethostname(), told)
