"""Predictions for any number of files, in parts that are each committed whole: a job that is killed goes on where it was.

A job gone on with is, byte for byte, the one that was not disturbed, whoever its workers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lasttoken.errors import DataError
from lasttoken.predict.engines import Engine
from lasttoken.predict.job import DONE, ERRORS, JOB, Job, JobSummary, committed, described, errors_of
from lasttoken.predict.parts import Kept, units_of
from lasttoken.record.folder import json_bytes


def run_job(job: Job, engine: Engine, *, progress: Callable[[int], None] | None = None) -> JobSummary:
    """Predict every part that is not committed yet. The engine is started if there are any, and closed.

    progress: is told the rows done, of parts that were there before too. Raises DataError on a file that cannot be read,
    and with `strict` on the first such row; ArtifactError where the folder holds another job or cannot be written.
    """
    began, told, unread = time.monotonic(), list[str](), dict[int, str]()
    description = described(job)
    there, about = committed(job, description), json_bytes(description, indent=1)
    rows = bad = parts = kept = waiting = 0

    def commit(name: str, content: bytes) -> None:
        if JOB not in there:
            job.out.commit(JOB, about)
            there.add(JOB)
        job.out.commit(name, content)

    def counted(more: int, wrong: int) -> None:
        nonlocal rows, bad, parts
        rows, bad, parts = rows + more, bad + wrong, parts + 1
        if progress is not None:
            progress(rows)

    def failed(number: int, error: DataError) -> None:
        if number in unread:  # a later part of the same file
            return
        unread[number] = str(error)
        if job.strict or len(unread) == len(job.files):  # a mistake of the command, most likely
            raise error
        file = job.files[number]
        commit(f"{ERRORS}/{number:05d}-{file.stem}.jsonl", json_bytes({"file": file.name, "error": str(error)}))

    def take() -> None:
        nonlocal waiting
        number, answers = engine.take()
        waiting -= 1
        try:
            for done in answers:
                counted(done.rows, done.bad)
        except DataError as error:
            failed(number, error)

    try:
        for number in range(len(job.files)):
            units = units_of(job, number, there, width=engine.width, told=told)
            while number not in unread:
                try:
                    unit = next(units, None)
                except DataError as error:
                    failed(number, error)
                    break
                if unit is None:
                    break
                if isinstance(unit, Kept):
                    errors = errors_of(unit.name)
                    wrong = job.out.read(errors).count(b"\n") if errors in there else 0
                    kept += 1
                    counted(unit.rows - wrong, wrong)
                    continue
                engine.start(job, None if JOB in there else about)
                engine.submit(unit)
                waiting += 1
                while waiting > engine.ahead:
                    take()
        while waiting:
            take()
    finally:
        engine.close()
    total = {"files": len(job.files), "unread": len(unread), "parts": parts, "rows": rows, "bad": bad}
    commit(DONE, json_bytes(total, indent=1))
    sentences = tuple(unread[number] for number in sorted(unread))
    told = tuple(dict.fromkeys(told))
    return JobSummary(len(job.files), parts, rows, bad, kept, time.monotonic() - began, told, sentences)
