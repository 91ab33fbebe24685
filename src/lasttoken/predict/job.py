"""Predictions for any number of files, in parts that are each committed whole: a job that is killed goes on where it was.

A part is a pure function of its file: a slice of a run of row groups of Parquet, or PART rows of text in the order in
which the parser finds them, with the columns of the first. Its file appears by a rename, so its name is the commit;
job.json says what the parts were made by, and a job of other settings is refused there. Nothing written depends on the
time of day, so that a job gone on with is, byte for byte, the one that was not disturbed.
"""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lasttoken.config.parse import flat
from lasttoken.data.lines import decoded_lines
from lasttoken.data.records import Bad
from lasttoken.data.tables import FORMATS, Table, known_formats, parquet_table, text_table
from lasttoken.data.write import Row, header_of, writer
from lasttoken.errors import ArtifactError, DataError
from lasttoken.predict.file import (
    LABEL,
    SET,
    Input,
    Output,
    added_names,
    cells_of,
    check_names,
    check_words,
    has_word,
    texts_of,
)
from lasttoken.predict.places import InputFile, OutputFolder, format_name
from lasttoken.predictor import Predictor
from lasttoken.record.folder import json_bytes

PART = 20_000  # rows of a part of a text file; at least as many of a Parquet file
CHUNK = 4096  # rows predicted at once
FORMAT = 1  # of job.json
JOB, DONE, ERRORS = "job.json", "done.json", "errors"

Records = Sequence[tuple[int, Row]]


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


@dataclass(frozen=True, eq=False)
class Job:
    """What a job reads, writes and predicts with."""

    predictor: Predictor
    files: Sequence[InputFile]
    out: OutputFolder
    reads: Input
    writes: Output
    made_by: dict[str, Any]  # what the output depends on beside the inputs: digest of the run, settings
    strict: bool = False  # a row that cannot be read ends the job
    part: int = PART


@dataclass
class Part:
    """A part that is to be written."""

    file: InputFile
    name: str  # of the output file
    table: Table
    records: Records
    bad: list[dict[str, Any]] = field(default_factory=list)  # file, row and error of rows that cannot be read
    header_from: Records = ()  # records that settle the columns of the output


def run_job(job: Job, *, progress: Callable[[int], None] | None = None) -> JobSummary:
    """Predict every part that is not committed yet.

    progress: is told the rows done, of parts that were there before too. Raises DataError on a file that cannot be read,
    and with `strict` on the first such row; ArtifactError where the folder holds another job or cannot be written.
    """
    began, told, unread = time.monotonic(), dict[str, None](), list[str]()
    about = description(job)
    there = committed(job, about)
    rows = bad = parts = kept = 0

    def commit(name: str, content: bytes) -> None:
        if JOB not in there:  # not before: a mistake that shows in the first part leaves nothing behind
            job.out.commit(JOB, json_bytes(about, indent=1))
            there.add(JOB)
        job.out.commit(name, content)

    for number, file in enumerate(job.files):
        try:
            for part in parts_of(job, number, file, there):
                if isinstance(part, str):
                    found, kept = counts(job, part, there), kept + 1
                else:
                    content, found = predicted(job, part)
                    told |= dict.fromkeys(part.table.told)
                    for name, written in content.items():
                        commit(name, written)
                rows, bad, parts = rows + found[0], bad + found[1], parts + 1
                if progress is not None:
                    progress(rows)
        except DataError as error:
            unread.append(str(error))
            if job.strict or len(unread) == len(job.files):  # a mistake of the command, most likely
                raise
            commit(f"{ERRORS}/{number:05d}-{file.stem}.jsonl", json_bytes({"file": file.name, "error": str(error)}))
    total = {"files": len(job.files), "unread": len(unread), "parts": parts, "rows": rows, "bad": bad}
    commit(DONE, json_bytes(total, indent=1))
    return JobSummary(len(job.files), parts, rows, bad, kept, time.monotonic() - began, tuple(told), tuple(unread))


def description(job: Job) -> dict[str, Any]:
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
        raise ArtifactError(
            f"{job.out.name}: holds a job that differs in {', '.join(others[:5])}; give its command again, or name "
            "another folder"
        )
    return there


def parts_of(job: Job, number: int, file: InputFile, there: set[str]) -> Iterator[Part | str]:
    """The parts of a file in order; of those that are committed the name."""
    format = job.reads.format or format_name(file.name)
    if format is None:
        raise DataError(
            f"{file.name}: its ending names no format; name it: --format {', --format '.join(known_formats())}"
        )
    ending = job.writes.format or format
    if ending == "parquet" and format != "parquet":
        raise DataError(
            f"{file.name}: parts of Parquet made from text could differ in the types of their columns; leave --out-format out"
        )

    def named(part: int) -> str:
        return f"{number:05d}-{file.stem}-{part:06d}.{ending}"

    make = parquet_parts if format == "parquet" else text_parts
    yield from make(job, file, named, there, format)


def text_parts(
    job: Job, file: InputFile, named: Callable[[int], str], there: set[str], format: str
) -> Iterator[Part | str]:
    """Every `job.part` rows of a text file, which is parsed from its beginning."""
    bad, first, columns = list[dict[str, Any]](), list[tuple[int, Row]](), job.reads.columns.text
    with file.opened() as stream:
        lines = decoded_lines(stream, file.name, job.reads.encoding)
        note = None if job.strict else noted(bad, file, max(job.part, CHUNK))
        table = text_table(lines, file.name, columns, format, quoting=job.reads.quoting, whole=True, bad=note)
        for number in itertools.count():
            records = list(itertools.islice(table.records, job.part))
            if not records and not bad:
                return
            first = first or records[:CHUNK]
            if not first:
                raise DataError(f"{file.name}: no row can be read; the first: {bad[0]['error']}")
            name = named(number)
            yield name if name in there else Part(file, name, table, records, list(bad), first)
            bad.clear()


def parquet_parts(
    job: Job, file: InputFile, named: Callable[[int], str], there: set[str], _: str
) -> Iterator[Part | str]:
    """Slices of `job.part` rows of runs of row groups; runs whose parts are all there are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.raw() as stream:
            meta = pq.ParquetFile(stream).metadata
            sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error
    begin = number = start = 0
    for last in bounds(sizes, job.part):
        groups, rows = range(begin, last + 1), sum(sizes[begin : last + 1])
        names = [named(number + i) for i in range(-(-rows // job.part))]
        if all(name in there for name in names):
            yield from names
        else:
            with file.raw() as stream:
                columns = job.reads.columns.text
                table = parquet_table(stream, file.name, columns, whole=True, groups=groups, start=start)
                for name in names:
                    records = list(itertools.islice(table.records, job.part))
                    yield name if name in there else Part(file, name, table, records, header_from=records[:1])
        begin, number, start = last + 1, number + len(names), start + rows


def bounds(sizes: Sequence[int], least: int) -> Iterator[int]:
    """The last row group of each run: a run ends once it has `least` rows."""
    rows = 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= least or group == len(sizes) - 1:
            yield group
            rows = 0


def noted(bad: list[dict[str, Any]], file: InputFile, most: int) -> Bad:
    """The function that keeps rows which cannot be read, `most` of them before the next that can."""

    def note(number: int, problem: str) -> None:
        if len(bad) >= most:
            raise DataError(f"{file.name}: {most} rows one after another cannot be read; the first: {bad[0]['error']}")
        bad.append({"file": file.name, "line": number, "error": problem})

    return note


def predicted(job: Job, part: Part) -> tuple[dict[str, bytes], tuple[int, int]]:
    """(files to commit, in this order: its errors, then the part itself; its rows and bad rows)."""
    rule, writes = job.predictor.policy.rule, job.writes
    format = part.name.rpartition(".")[2]
    joined = writes.separator if format in ("csv", "tsv") else None
    added = added_names(job.predictor.labels, rule, probs=writes.probs, joined=joined)
    if taken := set(added) & set(header_of(part.table, part.header_from[:1])):
        raise DataError(
            f"{part.file.name}: has a column {sorted(taken)[0]!r} already; rename it, that name is to be added"
        )
    header = header_of(part.table, part.header_from, added=added)
    records, texts = readable(job, part, header, added, fixed=format != "jsonl")
    content = io.BytesIO()
    lists = {LABEL: job.predictor.labels.multi, SET: True}
    with writer(format, content, table=part.table, lists=lists) as write:
        for start in range(0, max(1, len(records)), CHUNK):
            chunk, some = records[start : start + CHUNK], texts[start : start + CHUNK]
            words = [has_word(text) for text in some]
            said = cells_of(job.predictor(some), words, rule, writes, joined=joined) if some else []
            write(header, [row | more for (_, row), more in zip(chunk, said, strict=True)])
    errors = {errors_of(part.name): b"".join(json_bytes(row) for row in part.bad)} if part.bad else {}
    return errors | {part.name: content.getvalue()}, (len(records), len(part.bad))


def readable(
    job: Job, part: Part, header: Sequence[str], added: Sequence[str], *, fixed: bool
) -> tuple[Records, list[str]]:
    """(records, their texts) of those that have a text and fit the output; the others join `part.bad`.

    Raises DataError at the first of those with `strict`.
    """

    def texts_in(records: Records) -> list[str]:
        check_names(part.table, records, header=header, added=added, fixed=fixed)
        texts = texts_of(records, job.reads.columns, table=part.table)
        if job.writes.empty == "refuse":
            check_words(records, texts, part.table)
        return texts

    good, texts = list[tuple[int, Row]](), list[str]()
    for start in range(0, len(part.records), CHUNK):
        chunk = part.records[start : start + CHUNK]
        try:
            texts += texts_in(chunk)
            good += chunk
        except DataError:
            if job.strict:
                raise
            for record in chunk:  # one by one: which of them it is
                try:
                    texts += texts_in([record])
                    good.append(record)
                except DataError as error:
                    part.bad.append({"file": part.file.name, part.table.unit: record[0], "error": str(error)})
    part.bad.sort(key=lambda row: row[part.table.unit])
    return good, texts


def errors_of(part: str) -> str:
    """The file with the rows of a part that cannot be read."""
    return f"{ERRORS}/{part.rpartition('.')[0]}.jsonl"


def counts(job: Job, name: str, there: set[str]) -> tuple[int, int]:
    """(rows, bad rows) of a part that is committed."""
    bad = job.out.read(errors_of(name)).count(b"\n") if errors_of(name) in there else 0
    return rows_in(job.out.read(name), name), bad


def rows_in(content: bytes, name: str) -> int:
    """The number of rows in a written part."""
    format = FORMATS[f".{name.rpartition('.')[2]}"]
    if format == "parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
    if format == "jsonl":
        return content.count(b"\n")
    import csv

    csv.field_size_limit(2**31 - 1)
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    return sum(1 for _ in csv.reader(lines, delimiter="," if format == "csv" else "\t")) - 1
