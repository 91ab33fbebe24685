"""A job on a Ray cluster: actors that hold a predictor each, read their parts, and commit them as a local worker does.

Ray schedules and restarts; what is done is what the job's folder holds. Its checkpoints are not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from lasttoken.cluster import Room, enter
from lasttoken.errors import ArtifactError, UserError
from lasttoken.predict.engines import Reply, reply
from lasttoken.predict.job import Job
from lasttoken.predict.parts import Unit
from lasttoken.predict.worker import Done, Load, Worker

RETRIES = 3  # times that an actor is started again, and a unit given to it again


class OnRay:
    """Actors on the cluster that was joined."""

    def __init__(self, load: Load, room: Room):
        """load: is sent to every actor."""
        self.load, self.room = load, room
        self.width, self.ahead = room.workers, 2 * room.workers
        self.pool: Any = None
        self.given: Any = None
        self.actors = list[Any]()

    def start(self, job: Job, about: bytes | None) -> None:
        """Start the actors."""
        if self.pool is not None:
            return
        import ray
        from ray.util import ActorPool

        actor: Any = ray.remote(
            max_restarts=RETRIES, max_task_retries=RETRIES, num_cpus=self.room.cpus, num_gpus=self.room.gpus
        )(Actor)
        self.given = ray.put((self.load, job, about))  # held, since an actor that is started again asks for it again
        self.actors = [actor.remote(self.given, os.getcwd()) for _ in range(self.width)]
        self.pool = ActorPool(self.actors)

    def submit(self, unit: Unit) -> None:
        """Send the unit to whoever is free first."""
        self.pool.submit(lambda actor, given: actor.finished.remote(given), unit)

    def take(self) -> tuple[int, Iterable[Done]]:
        """What is done first. Raises ArtifactError where an actor was ended again and again."""
        from ray.exceptions import RayError

        try:
            found: Reply = self.pool.get_next_unordered()
        except RayError as error:
            raise ArtifactError(
                f"a worker was ended {RETRIES + 1} times ({str(error).strip().splitlines()[0]}); what was committed is kept, "
                "and the same command goes on"
            ) from error
        return found.number, found.answers()

    def close(self) -> None:
        """End the actors: what they were at is done again by the same command."""
        import ray

        for actor in self.actors:
            ray.kill(actor)


class Actor:
    """A worker of a job, as Ray runs it."""

    def __init__(self, given: tuple[Load, Job, bytes | None], folder: str):
        """folder: that of the command, since paths are relative to it."""
        self.given, self.folder = given, folder
        self.worker: Worker | None = None

    def finished(self, unit: Unit) -> Reply:
        """Do all of a unit. The model is loaded with the first, so that an error is told as any other."""
        try:
            if self.worker is None:
                enter(self.folder)
                load, job, about = self.given
                self.worker = Worker(job, about, load())
        except UserError as error:
            return Reply(unit.number, [], error)
        return reply(self.worker, unit)
