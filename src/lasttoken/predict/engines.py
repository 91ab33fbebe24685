"""Where the workers of a job are: in this process, in processes of this machine (one a GPU), or on a cluster.

Whatever order parts are done in, the folder is the same, so an engine gives back whatever is done first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import Protocol

from lasttoken.errors import ArtifactError, UserError
from lasttoken.predict.job import Job
from lasttoken.predict.parts import Unit
from lasttoken.predict.worker import Done, GetPredictor, Worker

Place = Mapping[str, str]  # environment variables of a worker, set before torch is imported: its GPU, its threads
Taken = tuple[tuple[int, int], Iterable[Done]]  # (number of the file, order of its part) of a unit; its committed parts
MORE = 2  # units that are read ahead of the workers


class Engine(Protocol):
    """Workers that take units of a job and give back what is committed."""

    width: int  # workers
    ahead: int  # units that may wait or be at work when the next is read

    def start(self, job: Job, about: bytes | None) -> None:
        """Begin a job, once; later calls do nothing. about: what job.json is to hold; None: it is there."""
        ...

    def submit(self, unit: Unit) -> None:
        """Have a unit done."""
        ...

    def take(self) -> Taken:
        """A unit that is done; waits for one. Going through its parts raises the DataError that it ended with."""
        ...

    def close(self) -> None:
        """End the workers, whatever they do."""
        ...


class Here:
    """One worker, in this process."""

    width, ahead = 1, 0

    def __init__(self, predictor: GetPredictor):
        self.predictor = predictor
        self.worker: Worker | None = None
        self.unit: Unit | None = None

    def start(self, job: Job, about: bytes | None) -> None:
        """Load the predictor."""
        self.worker = self.worker or Worker(job, about, self.predictor())

    def submit(self, unit: Unit) -> None:
        """Keep the unit."""
        self.unit = unit

    def take(self) -> Taken:
        """Do the unit, part by part as they are asked for."""
        assert self.worker is not None
        assert self.unit is not None
        return (self.unit.number, self.unit.order), self.worker.work(self.unit)

    def close(self) -> None:
        """Nothing is left to end."""


@dataclass(frozen=True)
class Reply:
    """What a unit came to in another process."""

    unit: tuple[int, int]  # number of the file, order of the part
    done: list[Done]
    error: UserError | None = None

    def answers(self) -> Iterable[Done]:
        """The parts, then the error. Raises it."""
        yield from self.done
        if self.error is not None:
            raise self.error


class Remote:
    """A worker in another process. The predictor is loaded with the first unit, so that an error is told as any other."""

    def __init__(self, predictor: GetPredictor, job: Job, about: bytes | None):
        self.predictor, self.job, self.about = predictor, job, about
        self.worker: Worker | None = None

    def finished(self, unit: Unit) -> Reply:
        """Do all of a unit."""
        done, name = list[Done](), (unit.number, unit.order)
        try:
            if self.worker is None:
                self.worker = Worker(self.job, self.about, self.predictor())
            done.extend(self.worker.work(unit))
        except UserError as error:
            return Reply(name, done, error.with_traceback(None))
        return Reply(name, done)


class Processes:
    """Workers in processes of this machine, each with an environment of its own. They end with this process, however it ends."""

    def __init__(self, predictor: GetPredictor, places: Sequence[Place]):
        """predictor: is sent to every process."""
        self.predictor, self.places = predictor, places
        self.width, self.ahead = len(places), len(places) + MORE
        self.pool: ProcessPoolExecutor | None = None
        self.life: Connection | None = None
        self.job: Job | None = None
        self.waiting = set[Future[Reply]]()

    def start(self, job: Job, about: bytes | None) -> None:
        """Start the processes."""
        if self.pool is not None:
            return
        context = get_context("spawn")  # a process that has used CUDA cannot be forked
        places: SimpleQueue[Place] = context.SimpleQueue()
        for place in self.places:
            places.put(place)
        end, self.life = context.Pipe(duplex=False)
        given = (places, end, Remote(self.predictor, job, about))
        self.pool, self.job = ProcessPoolExecutor(self.width, context, initializer=begin, initargs=given), job

    def submit(self, unit: Unit) -> None:
        """Send the unit to whoever is free first."""
        assert self.pool is not None
        try:
            self.waiting.add(self.pool.submit(finished, unit))
        except BrokenProcessPool as error:
            raise ended() from error

    def take(self) -> Taken:
        """What is done first. Raises ArtifactError where a process was ended."""
        done = wait(self.waiting, return_when=FIRST_COMPLETED).done.pop()
        try:
            found = done.result()
        except BrokenProcessPool as error:
            if error.__cause__ is not None:  # a reply that cannot be read: a mistake of this program
                raise
            raise ended() from error
        self.waiting.remove(done)
        return found.unit, found.answers()

    def close(self) -> None:
        """End the processes: what they were at is done again by the same command."""
        if self.pool is None or self.life is None or self.job is None:
            return
        hurried = bool(self.waiting)
        if hurried:
            self.life.close()
        self.pool.shutdown(cancel_futures=True)
        self.life.close()
        if hurried:
            self.job.out.sweep()


def ended() -> ArtifactError:
    """The error where a process is gone."""
    return ArtifactError(
        "a worker process was ended, probably out of memory; what was committed is kept, and the same command goes on "
        "(--workers 1 needs least memory)"
    )


_remote: Remote | None = None  # the worker of this process, where it is one: a pool's initializer can hand over nothing


def begin(places: SimpleQueue[Place], life: Connection, remote: Remote) -> None:
    """Begin a worker process: take an environment, and end when the other end of `life` is closed."""
    global _remote
    os.environ.update(places.get())
    # Ctrl-C goes to all processes of a terminal; the first one closes `life`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=outlived, args=(life,), daemon=True).start()
    _remote = remote


def outlived(life: Connection) -> None:
    """End this process once nobody holds the other end."""
    life.poll(None)
    os._exit(1)


def finished(unit: Unit) -> Reply:
    """Do all of a unit, in a worker process."""
    assert _remote is not None
    return _remote.finished(unit)
