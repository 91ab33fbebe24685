"""A job: what is read, where its parts go and what they depend on; job.json in its folder refuses any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lasttoken.config.parse import flat
from lasttoken.errors import ArtifactError, DataError
from lasttoken.predict.options import Input, Output
from lasttoken.predict.places import InputFile, OutputFolder
from lasttoken.record.folder import json_bytes
from lasttoken.wording import there_and_here

PART = 20_000  # rows of a part
FORMAT = 1  # of job.json
SETTINGS = "settings."  # of the command, beside the run's digest
TEMPLATE = "settings.template"  # the run's, which no option gives
JOB, DONE, ERRORS = "job.json", "done.json", "errors"


class WholeFile(DataError):
    """A mistake that holds for a whole file, not for one of its parts."""


@dataclass(frozen=True, eq=False)
class Job:
    """What a job reads and writes; it is sent to every worker."""

    files: Sequence[InputFile]
    out: OutputFolder
    reads: Input
    writes: Output
    made_by: dict[str, Any]  # what the output depends on beside the inputs: digest of the run, settings
    strict: bool = False  # a row that cannot be read ends the job
    part: int = PART


@dataclass(frozen=True)
class JobSummary:
    """Counts of a job."""

    files: int
    parts: int
    rows: int  # in the output, of all parts
    bad: int  # that could not be read, in the files of errors
    kept: int  # parts that were there before
    seconds: float
    told: tuple[str, ...] = ()  # warnings about the files
    unread: tuple[str, ...] = ()  # a sentence for each file that could not be read, or not to its end


def described(job: Job) -> dict[str, Any]:
    """What job.json holds: all that the output depends on."""
    about = {"format": FORMAT, "inputs": [file.identity() for file in job.files], "part": job.part, **job.made_by}
    return json.loads(json_bytes(about))


def committed(job: Job, about: dict[str, Any]) -> set[str]:
    """The files that are there. Raises ArtifactError where they are not of this job."""
    there = job.out.names()
    if JOB in there and any(file.name == "-" for file in job.files):
        raise ArtifactError(f"{job.out.name}: holds a job; standard input cannot be gone on with, so name a new folder")
    if JOB not in there:
        if there:
            raise ArtifactError(f"{job.out.name}: holds {sorted(there)[0]!r} and no {JOB}; name an empty or new folder")
        return there
    try:
        before, now = (dict(flat(each)) for each in (json.loads(job.out.read(JOB)), about))
    except ValueError as error:
        raise ArtifactError(f"{job.out.path(JOB)}: damaged; name another folder") from error
    others = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if others:
        shown = ", ".join(difference(name, before.get(name), now.get(name)) for name in others[:5])
        raise ArtifactError(
            f"{job.out.name}: holds a job that differs in {shown}; give its command again, or name another folder"
        )
    return there


def difference(name: str, there: Any, here: Any) -> str:
    """A setting that differs, called as its option where it has one, with both values where they are short."""
    if name == "part" or (name.startswith(SETTINGS) and name != TEMPLATE):
        name = "--" + name.removeprefix(SETTINGS).replace("_", "-")
    flags = {False: "not given", True: "given"}
    before, now = (flags[value] if isinstance(value, bool) else value for value in (there, here))
    return there_and_here(name, before, now)


def errors_of(part: str) -> str:
    """The file with the rows of a part that cannot be read."""
    return f"{ERRORS}/{part.rpartition('.')[0]}.jsonl"
