"""A job on a Ray cluster: actors that hold a predictor each, read their parts, and commit them as a local worker does.

The job's folder records what is done; Ray's checkpoints and retries are not used.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from lasttoken.cluster import TRIES, Room, enter
from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.predict.engines import MORE, Remote, Reply, Taken
from lasttoken.predict.job import Job
from lasttoken.predict.parts import Unit
from lasttoken.predict.worker import GetPredictor
from lasttoken.wording import first_line


class OnRay:
    """Actors on the cluster that was joined. A lost one is replaced, and its unit is given to whoever is free first."""

    def __init__(self, predictor: GetPredictor, room: Room):
        """predictor: is sent to every actor."""
        self.predictor, self.room = predictor, room
        self.width, self.ahead = room.workers, room.workers + MORE
        self.given: Any = None  # what an actor is made of, in Ray's store
        self.unborn = 0  # actors that were ended before they were ready
        self.starting = dict[Any, Any]()  # ref of `ready` -> actor
        self.idle = list[Any]()  # actors
        self.queue = deque[tuple[Unit, int]]()  # units that wait, and how often they were begun
        self.busy = dict[Any, tuple[Any, Unit, int]]()  # ref of the reply -> actor, unit, how often it was begun

    def start(self, job: Job, about: bytes | None) -> None:
        """Start the actors."""
        if self.given is not None:
            return
        import ray

        self.given = ray.put(Remote(self.predictor, job, about))
        for _ in range(self.width):
            self.start_one()

    def start_one(self) -> None:
        """Have one more actor started, once there is room for it."""
        import ray

        kind: Any = ray.remote(num_cpus=self.room.cpus, num_gpus=self.room.gpus)(Actor)
        actor = kind.remote(self.given, os.getcwd())
        self.starting[actor.ready.remote()] = actor

    def submit(self, unit: Unit) -> None:
        """Send the unit to whoever is free first."""
        self.queue.append((unit, 0))
        self.give()

    def give(self) -> None:
        """Give what waits to those who are free."""
        while self.queue and self.idle:
            unit, tries = self.queue.popleft()
            actor = self.idle.pop()
            self.busy[actor.finished.remote(unit)] = actor, unit, tries + 1

    def take(self) -> Taken:
        """What is done first. Raises ArtifactError where the actors that do a unit are ended again and again."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        while True:
            ref = ray.wait([*self.busy, *self.starting])[0][0]
            try:
                if ref in self.starting:
                    actor, problem = self.starting.pop(ref), ray.get(ref)
                    if problem is not None:
                        raise problem
                    self.idle.append(actor)
                    self.give()
                    continue
                reply: Reply = ray.get(ref)
            except RayTaskError as error:  # raised by the worker: a mistake of this program
                raise error.cause from error
            except RayError as error:
                self.lost(ref, error)
                continue
            self.idle.append(self.busy.pop(ref)[0])
            self.give()
            return reply.unit, reply.answers()

    def lost(self, ref: Any, error: Exception) -> None:
        """Replace an actor that was ended. Raises ArtifactError where that is in vain."""
        if ref in self.busy:
            _, unit, tries = self.busy.pop(ref)
            if tries >= TRIES:
                raise ArtifactError(
                    f"a worker was ended {tries} times at the same part ({first_line(error)}); what was committed is kept, and "
                    "the same command goes on"
                ) from error
            self.queue.appendleft((unit, tries))
        else:
            self.unborn += 1
            if self.unborn >= TRIES * self.width:
                raise ArtifactError(
                    f"workers cannot be started on the cluster ({first_line(error)}); is lasttoken installed on every machine?"
                ) from error
        self.start_one()

    def close(self) -> None:
        """End the actors: what they were at is done again by the same command."""
        import ray

        for actor in (*self.idle, *self.starting.values(), *(busy[0] for busy in self.busy.values())):
            ray.kill(actor)


class Actor:
    """A worker of a job, as Ray runs it."""

    def __init__(self, remote: Remote, folder: str):
        """folder: that of the command, since paths are relative to it."""
        self.remote, self.problem = remote, None
        try:
            enter(folder)
        except ConfigError as error:
            self.problem = error.with_traceback(None)

    def ready(self) -> ConfigError | None:
        """What is wrong with this machine."""
        return self.problem

    def finished(self, unit: Unit) -> Reply:
        """Do all of a unit."""
        return self.remote.finished(unit)
