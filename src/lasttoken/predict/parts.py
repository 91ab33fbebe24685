"""The parts of a job that are not committed yet, as units of work for one worker each.

A part is a pure function of its file: PART rows of text in the order in which the parser finds them, with the columns of
the first, or a slice of consecutive row groups of Parquet. Text is parsed here, since where a row begins only a parser
knows; a worker gets its rows. Of Parquet it gets the numbers of row groups, and reads them itself.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lasttoken.data.lines import Measured, decoded_lines, unreadable
from lasttoken.data.records import Bad
from lasttoken.data.tables import Table, known_formats, parquet_table, text_table
from lasttoken.data.write import Row, header_of
from lasttoken.errors import DataError
from lasttoken.predict.job import Job
from lasttoken.predict.places import InputFile, format_name

CHUNK = 4096  # rows predicted at once

Records = Sequence[tuple[int, Row]]


@dataclass(frozen=True)
class Kept:
    """A part that is committed."""

    name: str
    rows: int  # read for it, those that cannot be read among them
    size: int  # bytes of the file that it is made from


@dataclass(frozen=True, eq=False)
class Part:
    """A part whose rows are read."""

    number: int  # of the file in the job
    order: int  # of the part in its file
    file: InputFile
    name: str  # of the output file
    table: Table  # what the file is called and holds; it has no records left
    records: Records
    columns: Sequence[str]  # of the input, as its first rows name them
    size: int = 0  # bytes of the file that it is made from
    bad: list[dict[str, Any]] = field(default_factory=list)  # file, row and error of rows that cannot be read

    count = 1  # of its parts

    def parts(self, job: Job) -> Iterator[Part]:
        """Itself."""
        yield self


@dataclass(frozen=True, eq=False)
class Groups:
    """Parts of consecutive row groups of a Parquet file; the worker reads them itself."""

    number: int  # of the file in the job
    file: InputFile
    groups: range
    start: int  # number of the first row of these groups in the file
    order: int  # of the first wanted part in the file
    names: Sequence[str | None]  # of each `job.part` rows in turn; None: not wanted
    size: int = 0  # bytes of the file that the wanted parts are made from

    @property
    def count(self) -> int:
        """How many parts are wanted."""
        return sum(name is not None for name in self.names)

    def parts(self, job: Job) -> Iterator[Part]:
        """The parts, read one after another. Raises DataError where the file cannot be read."""
        first, columns = next(i for i, name in enumerate(self.names) if name is not None), job.reads.columns.text
        where = {"groups": self.groups, "start": self.start, "skip": first * job.part}
        try:
            with self.file.raw() as stream:
                table = parquet_table(stream, self.file.name, columns, whole=True, **where)
                for order, name in enumerate(self.names[first:], self.order):
                    records = list(itertools.islice(table.records, job.part))
                    if name is not None:
                        header = header_of(table, records[:1])
                        yield Part(self.number, order, self.file, name, bare(table), records, header)
        except OSError as error:
            raise DataError(unreadable(self.file.name, error)) from error


Unit = Part | Groups


def units_of(job: Job, number: int, there: set[str], *, width: int, told: list[str]) -> Iterator[Unit | Kept]:
    """What is to be done of the job's file of this number, in order, and what is done.

    there: files that are committed. width: workers that share long row groups. told: gets warnings about the file.
    Raises DataError where the file cannot be read.
    """
    file = job.files[number]
    format = format_of(job, file)
    if format is None:
        raise DataError(
            f"{file.name}: its ending names no format; name it: --format {', --format '.join(known_formats())}"
        )
    ending = job.writes.format or format

    def named(part: int) -> str:
        return f"{number:05d}-{file.stem}-{part:06d}.{ending}"

    if format == "parquet":
        yield from parquet_units(job, number, named, there, width)
    else:
        yield from text_units(job, number, named, there, format, told)


def format_of(job: Job, file: InputFile) -> str | None:
    """The format of a file: as named, or by the ending of its name."""
    return job.reads.format or format_name(file.name)


def text_units(
    job: Job, number: int, named: Callable[[int], str], there: set[str], format: str, told: list[str]
) -> Iterator[Part | Kept]:
    """Every `job.part` rows of a text file, which is parsed from its beginning."""
    file = job.files[number]
    bad, header, columns = list[dict[str, Any]](), list[str](), job.reads.columns.text
    with file.opened() as (stream, packed):
        lines = Measured(decoded_lines(stream, file.name, job.reads.encoding))
        note = None if job.strict else noted(bad, file, max(job.part, CHUNK))
        table = text_table(lines, file.name, columns, format, quoting=job.reads.quoting, whole=True, bad=note)
        try:
            end = 0
            for part in itertools.count():
                records = list(itertools.islice(table.records, job.part))
                begin, end = end, lines.size if packed is None else packed()
                if not records and not bad:
                    return
                header = header or header_of(table, records[:CHUNK])
                if not header:
                    raise DataError(f"{file.name}: no row can be read; the first: {bad[0]['error']}")
                name = named(part)
                if name in there:
                    yield Kept(name, len(records) + len(bad), end - begin)
                else:
                    yield Part(number, part, file, name, bare(table), records, header, end - begin, list(bad))
                bad.clear()
        finally:
            told += table.told


def bare(table: Table) -> Table:
    """The table without its records, which can be sent to another process."""
    return replace(table, records=iter(()), expect=None)


def parquet_units(
    job: Job, number: int, named: Callable[[int], str], there: set[str], width: int
) -> Iterator[Groups | Kept]:
    """The missing slices of `job.part` rows of consecutive row groups, for `width` workers at most."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = job.files[number]
    try:
        with file.raw() as stream:
            meta = pq.ParquetFile(stream).metadata
            sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            a_row = stream.seek(0, os.SEEK_END) / max(1, sum(sizes))  # bytes
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error
    begin = part = start = 0
    for last in bounds(sizes, job.part):
        groups, rows = range(begin, last + 1), sum(sizes[begin : last + 1])
        lengths = [min(job.part, rows - before) for before in range(0, rows, job.part)]
        names = [named(part + i) for i in range(len(lengths))]
        for name, length in zip(names, lengths, strict=True):
            if name in there:
                yield Kept(name, length, round(length * a_row))
        missing = [i for i, name in enumerate(names) if name not in there]
        share = max(1, -(-len(missing) // width))
        for at in range(0, len(missing), share):
            mine = {*missing[at : at + share]}
            wanted = [name if i in mine else None for i, name in enumerate(names[: max(mine) + 1])]
            size = round(sum(lengths[i] for i in mine) * a_row)
            yield Groups(number, file, groups, start, part + min(mine), wanted, size)
        begin, part, start = last + 1, part + len(names), start + rows


def bounds(sizes: Sequence[int], least: int) -> Iterator[int]:
    """The last row group of each stretch that is cut into parts: it ends once it has `least` rows."""
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
