"""Predictions for any number of files, in parts that are each committed whole: a job that is killed goes on where it was.

A job gone on with is, byte for byte, the one that was not disturbed, however many workers it has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from lasttoken.errors import ArtifactError, DataError, MissingColumn
from lasttoken.predict.engines import Engine
from lasttoken.predict.job import DONE, ERRORS, JOB, Job, JobSummary, WholeFile, committed, described, errors_of
from lasttoken.predict.parts import Kept, Unit, format_of, units_of
from lasttoken.record.folder import json_bytes
from lasttoken.wording import counted


@dataclass
class Tally:
    """What a job has come to."""

    progress: Callable[[float], None] | None
    rows: int = 0
    size: float = 0.0  # bytes of the inputs that are done with
    bad: int = 0
    kept: int = 0
    names: list[str] = field(default_factory=list)  # of the parts that are committed
    # number of a file -> its first failed part, and why
    failed: dict[int, tuple[int, DataError]] = field(default_factory=dict)

    def add(self, name: str, rows: int, bad: int, size: float) -> None:
        """Count a part. size: bytes of the input that it is made from."""
        self.names.append(name)
        self.rows, self.bad, self.size = self.rows + rows, self.bad + bad, self.size + size

    def tell(self) -> None:
        """Tell what is done."""
        if self.progress is not None:
            self.progress(self.size)

    def fail(self, number: int, order: int, error: DataError) -> None:
        """Note what is wrong with a file. order: of the part, since they are not done in order."""
        known = self.failed.get(number)
        if known is None or order < known[0]:
            self.failed[number] = (order, error)

    def first(self) -> DataError:
        """The first error of the first file that failed."""
        return self.failed[min(self.failed)][1]

    def ends(self, number: int) -> bool:
        """Whether nothing more of a file can be predicted."""
        return number in self.failed and isinstance(self.failed[number][1], WholeFile | MissingColumn)


def run_job(
    job: Job,
    engines: Callable[[], AbstractContextManager[Engine]],
    *,
    progress: Callable[[int, int, int], None] | None = None,
) -> JobSummary:
    """Predict every part that is not committed yet. engines: gives the workers, once it is known that they may begin.

    progress: is told the rows done, those of parts that were there before too, the bytes of the inputs that are done with,
    and the bytes of all inputs (0: not known). Raises DataError where nothing can be read, and with `strict` where a row or
    a file cannot; ArtifactError where the folder holds another job or cannot be written.
    """
    began, told = time.monotonic(), list[str]()
    check_formats(job)
    description = described(job)
    sizes = [one.get("size") for one in description["inputs"]]
    whole = 0 if None in sizes else sum(sizes)
    tally = Tally(None if progress is None else lambda size: progress(tally.rows, min(int(size), whole), whole))
    there, about = committed(job, description), json_bytes(description, indent=1)
    with engines() as engine:
        predict_parts(job, engine, there, about, tally, told, sizes if whole else [0] * len(sizes))
    if tally.failed and (job.strict or not tally.names):  # where nothing can be read: a mistake of the command
        raise tally.first()
    if JOB not in there:
        job.out.commit(JOB, about)
    for number, (_, error) in sorted(tally.failed.items()):
        file = job.files[number]
        content = json_bytes({"file": file.name, "error": str(error)})
        job.out.commit(f"{ERRORS}/{number:05d}-{file.stem}.jsonl", content)
    check_there(job, tally.names)
    unread = tuple(str(tally.failed[number][1]) for number in sorted(tally.failed))
    total = {"files": len(job.files), "unread": len(unread), "parts": len(tally.names), "rows": tally.rows}
    job.out.commit(DONE, json_bytes(total | {"bad": tally.bad}, indent=1))
    seconds, sentences = time.monotonic() - began, tuple(dict.fromkeys(told))
    parts = len(tally.names)
    return JobSummary(len(job.files), parts, tally.rows, tally.bad, tally.kept, seconds, sentences, unread)


def predict_parts(
    job: Job, engine: Engine, there: set[str], about: bytes, tally: Tally, told: list[str], sizes: list[int]
) -> None:
    """Have all parts done, a few units ahead of the workers; files that fail are noted, with `strict` the first ends it.

    sizes: bytes of the files.
    """
    waiting = dict[tuple[int, int], Unit]()

    def take() -> None:
        (number, order), answers = engine.take()
        unit = waiting.pop((number, order))
        left = unit.size
        try:
            for done in answers:
                tally.add(done.name, done.rows, done.bad, unit.size / unit.count)
                left -= unit.size / unit.count
                tally.tell()
        except DataError as error:
            tally.fail(number, order, error)
            tally.size += left

    for number in range(len(job.files)):
        rest = sizes[number]  # bytes that are in no unit
        try:
            for unit in units_of(job, number, there, width=engine.width, told=told):
                rest -= unit.size
                if isinstance(unit, Kept):
                    errors = errors_of(unit.name)
                    wrong = job.out.read(errors).count(b"\n") if errors in there else 0
                    tally.kept += 1
                    tally.add(unit.name, unit.rows - wrong, wrong, unit.size)
                    continue
                engine.start(job, None if JOB in there else about)
                engine.submit(unit)
                waiting[unit.number, unit.order] = unit
                while len(waiting) > engine.ahead:
                    take()
                if tally.ends(number) or (job.strict and tally.failed):
                    break
        except DataError as error:
            tally.fail(number, sys.maxsize, error)
        tally.size += max(0, rest)
        if job.strict and tally.failed:
            break
    while waiting:  # what is at work is finished, whatever has failed
        take()


def check_formats(job: Job) -> None:
    """Raises DataError where a file's parts cannot be written in the format that is asked for."""
    text = [file.name for file in job.files if format_of(job, file) not in (None, "parquet")]
    if job.writes.format == "parquet" and text:
        raise DataError(
            f"{text[0]}: parts of Parquet made from text could differ in the types of their columns; leave --out-format out"
        )


def check_there(job: Job, names: list[str]) -> None:
    """Raises ArtifactError where parts that workers have written are not in the folder: theirs is on another disk."""
    missing = sorted(set(names) - job.out.names())
    if missing:
        raise ArtifactError(
            f"{job.out.name}: {counted(len(missing), 'part', 'parts')} that workers have written are not there, such as "
            f"{missing[0]}; give all machines the same disk under the same name, or write to an object store"
        )
