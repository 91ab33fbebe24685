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
from lasttoken.predict.worker import Done, Load, Worker

Place = Mapping[str, str]  # environment variables of a worker, set before it imports anything: its GPU, its threads


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

    def take(self) -> tuple[int, Iterable[Done]]:
        """(number of the file, its committed parts) of a unit that is done; waits for one.

        Going through the parts raises the DataError that ended the unit.
        """
        ...

    def close(self) -> None:
        """End the workers, whatever they do."""
        ...


class Here:
    """One worker, in this process."""

    width, ahead = 1, 0

    def __init__(self, load: Load):
        self.load = load
        self.worker: Worker | None = None
        self.unit: Unit | None = None

    def start(self, job: Job, about: bytes | None) -> None:
        """Load the predictor."""
        self.worker = self.worker or Worker(job, about, self.load())

    def submit(self, unit: Unit) -> None:
        """Keep the unit."""
        self.unit = unit

    def take(self) -> tuple[int, Iterable[Done]]:
        """Do the unit, part by part as they are asked for."""
        assert self.worker is not None
        assert self.unit is not None
        return self.unit.number, self.worker.work(self.unit)

    def close(self) -> None:
        """Nothing is left to end."""


@dataclass(frozen=True)
class Reply:
    """What a unit came to in another process."""

    number: int  # of the file in the job
    done: list[Done]  # before the error, if there is one
    error: UserError | None = None

    def answers(self) -> Iterable[Done]:
        """The parts, then the error. Raises it."""
        yield from self.done
        if self.error is not None:
            raise self.error.with_traceback(None)


def reply(worker: Worker, unit: Unit) -> Reply:
    """Do all of a unit."""
    done = list[Done]()
    try:
        done.extend(worker.work(unit))
    except UserError as error:
        return Reply(unit.number, done, error)
    return Reply(unit.number, done)


class Processes:
    """Workers in processes of this machine, each with an environment of its own. They end with this process, however it ends."""

    def __init__(self, load: Load, places: Sequence[Place]):
        """load: is sent to every process."""
        self.load, self.places = load, places
        self.width, self.ahead = len(places), 2 * len(places)
        self.pool: ProcessPoolExecutor | None = None
        self.life: Connection | None = None
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
        given = (places, end, self.load, job, about)
        self.pool = ProcessPoolExecutor(self.width, context, initializer=begin, initargs=given)

    def submit(self, unit: Unit) -> None:
        """Send the unit to whoever is free first."""
        assert self.pool is not None
        try:
            self.waiting.add(self.pool.submit(finished, unit))
        except BrokenProcessPool as error:
            raise ended() from error

    def take(self) -> tuple[int, Iterable[Done]]:
        """What is done first. Raises ArtifactError where a process was ended."""
        done = wait(self.waiting, return_when=FIRST_COMPLETED).done.pop()
        self.waiting.remove(done)
        try:
            found = done.result()
        except BrokenProcessPool as error:
            raise ended() from error
        return found.number, found.answers()

    def close(self) -> None:
        """End the processes: what they were at is done again by the same command."""
        if self.pool is None or self.life is None:
            return
        if self.waiting:
            self.life.close()
        self.pool.shutdown(cancel_futures=True)
        self.life.close()


def ended() -> ArtifactError:
    """The error where a process is gone."""
    return ArtifactError(
        "a worker process was ended, for want of memory perhaps; what was committed is kept, and the same command goes on "
        "(--workers 1 needs least memory)"
    )


at_work: list[Worker] = []  # in a worker process: its worker, once it has a unit to do
to_be: list[tuple[Load, Job, bytes | None]] = []  # what that is made of


def begin(places: SimpleQueue[Place], life: Connection, load: Load, job: Job, about: bytes | None) -> None:
    """Begin a worker process: take an environment, and end when the other end of `life` is closed.

    The model is loaded with the first unit, since an error here would be reported as a broken pool.
    """
    os.environ.update(places.get())
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all processes of a terminal; the first one closes `life`
    threading.Thread(target=outlived, args=(life,), daemon=True).start()
    to_be.append((load, job, about))


def outlived(life: Connection) -> None:
    """End this process once nobody holds the other end."""
    life.poll(None)
    os._exit(1)


def finished(unit: Unit) -> Reply:
    """Do all of a unit, in a worker process."""
    if not at_work:
        load, job, about = to_be[0]
        try:
            at_work.append(Worker(job, about, load()))
        except UserError as error:
            return Reply(unit.number, [], error)
    return reply(at_work[0], unit)
