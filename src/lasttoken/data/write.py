"""Files of rows, written as they were read: CSV, TSV, JSONL and Parquet, from the records of a `Table` and what is added.

Whatever goes wrong, nothing half-written is left.
"""

# pyarrow has no type stubs, so whatever it returns is unknown here
# pyright: basic

from __future__ import annotations

import csv
import datetime
import decimal
import itertools
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

from lasttoken.data.label_cells import is_missing
from lasttoken.data.tables import Table
from lasttoken.errors import ArtifactError, DataError
from lasttoken.paths import local
from lasttoken.record.atomic import claimed, writing_file
from lasttoken.record.folder import plain

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]  # column -> cell
Write = Callable[[Sequence[str], Sequence[Row]], None]  # takes all columns of the output, and some rows of it
Place = str | os.PathLike[str] | IO[Any]  # a path, "-" for standard input or output, or an open binary file


def is_standard(place: Place) -> bool:
    """Whether a place is "-", standard input or output."""
    return isinstance(place, str | os.PathLike) and os.fspath(place) == "-"


def chunks(table: Table, size: int) -> Iterator[list[tuple[int, Row]]]:
    """The records in their order, `size` at a time, the last ones fewer. Raises DataError where there are none."""
    records = list(itertools.islice(table.records, size))
    if not records:
        raise table.no_rows()
    while records:
        yield records
        records = list(itertools.islice(table.records, size))


def header_of(table: Table, records: Sequence[tuple[int, Row]], *, added: Sequence[str] = ()) -> list[str]:
    """The columns of the output: those of the input as its types or its first rows name them, then the added ones."""
    found = dict.fromkeys(name for _, row in records for name in row) if table.schema is None else table.schema.names
    return [*(name for name in found if name not in added), *added]


@contextmanager
def opened(target: Place, overwrite: bool) -> Iterator[IO[bytes]]:
    """The stream to write to. A file is there when the block has ended well, and as before when it has not.

    Raises ArtifactError where it cannot be written. A pipe whose reader has gone is a BrokenPipeError, as everywhere.
    """
    if isinstance(target, str | os.PathLike) and not is_standard(target):
        with opened_file(local(target), overwrite) as stream:
            yield stream
        return
    stream = sys.stdout.buffer if isinstance(target, str | os.PathLike) else target
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ArtifactError(f"the output could not be written whole ({error.strerror or error}); run again") from error


@contextmanager
def opened_file(path: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """A stream whose bytes are the file `path` once the block has ended well. No other process can have the name meanwhile.

    Raises ArtifactError where the file cannot be written, or another process is writing it.
    """
    check_target(path, overwrite)
    try:
        with claimed(path), writing_file(path, replace=overwrite) as stream:
            yield stream
    except BrokenPipeError:  # of standard output, not of this file
        raise
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be written ({error.strerror or error}); nothing was kept of it"
        ) from error


def check_target(path: Path, overwrite: bool) -> None:
    """Raise ArtifactError where a file cannot be written: before hours of predicting, not after."""
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path}: is a folder or a device; name a file, or - for standard output")
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; name another file, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise ArtifactError(f"{path}: no folder {path.parent}; make it first, or check the path")


@contextmanager
def writer(
    format: str, stream: IO[bytes], *, table: Table, lists: Mapping[str, bool] = MappingProxyType({})
) -> Iterator[Write]:
    """The function that writes rows to a stream.

    lists: of columns with text whether a cell is a list of it, for Parquet, where the first rows may leave that open.
    """
    if format == "parquet":
        with parquet_writer(stream, table, lists=lists) as write:
            yield write
    elif format == "jsonl":
        yield json_writer(stream, table)
    else:
        yield delimited_writer(stream, table, delimiter="," if format == "csv" else "\t")


def delimited_writer(stream: IO[bytes], table: Table, *, delimiter: str) -> Write:
    """Rows as comma- or tab-separated lines, after the header."""
    lines: list[str] = []
    # csv puts quotes around "\n" or "\r" only where its own line end has them, so that is "\r\n" until it is written
    pen = csv.writer(cast("Any", SimpleNamespace(write=lines.append)), delimiter=delimiter, lineterminator="\r\n")
    begun = False

    def write(header: Sequence[str], rows: Sequence[Row]) -> None:
        nonlocal begun
        if not begun:
            pen.writerow(header)
            begun = True
        pen.writerows([field(row.get(name), table) for name in header] for row in rows)
        stream.write("".join(line.removesuffix("\r\n") + "\n" for line in lines).encode())
        lines.clear()

    return write


def field(cell: Any, table: Table) -> str:
    """A cell as it stands in a line: its text, nothing where it is missing, JSON where it is a list or an object."""
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        return ""
    return json_text(cell, table) if isinstance(cell, dict | list | tuple) else str(simple(cell, table))


def json_writer(stream: IO[bytes], table: Table) -> Write:
    """Rows as one JSON object a line, each with its own columns; what JSON cannot hold, such as NaN, is null."""

    def write(header: Sequence[str], rows: Sequence[Row]) -> None:
        stream.write(b"".join(json_line(row, table) for row in rows))

    return write


def json_line(row: Row, table: Table) -> bytes:
    """A row as a line of JSON; most rows need nothing that JSON itself lacks."""
    try:
        return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError):
        return (json_text(row, table) + "\n").encode()


def json_text(value: Any, table: Table) -> str:
    """A value on one line of JSON."""
    return json.dumps(plain(value), default=lambda cell: simple(cell, table), ensure_ascii=False, allow_nan=False)


def simple(cell: Any, table: Table) -> str | int | float:
    """A single cell as text or a number; dates and times as ISO 8601. Raises DataError on bytes, which are no text."""
    if isinstance(cell, int | float):
        return cell
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(cell)
    raise DataError(f"{table.name}: a cell is of type {type(cell).__name__}, which is no text; write .parquet")


@contextmanager
def parquet_writer(stream: IO[bytes], table: Table, *, lists: Mapping[str, bool]) -> Iterator[Write]:
    """Rows as row groups of Parquet, one for each call. Types are those of the input, or of the first rows.

    Cells come as Python's values, whose times of day end at the microsecond: nanoseconds below that are cut off.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file: pq.ParquetWriter | None = None
    types = {} if table.schema is None else {name: table.schema.field(name) for name in table.schema.names}
    types |= {name: pa.field(name, pa.list_(pa.string()) if listed else pa.string()) for name, listed in lists.items()}

    def write(header: Sequence[str], rows: Sequence[Row]) -> None:
        nonlocal file
        columns = []
        for name in header:
            columns.append(arrow(name, [row.get(name) for row in rows], known=types.get(name), table=table))
            types.setdefault(name, pa.field(name, columns[-1].type))
        if file is None:
            described = None if table.schema is None else table.schema.metadata
            file = pq.ParquetWriter(stream, pa.schema([types[name] for name in header], metadata=described))
        file.write_table(pa.table(columns, schema=file.schema))

    try:
        yield write
    finally:
        if file is not None:
            file.close()


def arrow(name: str, cells: Sequence[Any], *, known: pa.Field | None, table: Table) -> pa.Array:
    """The cells of a column as one array (N,), of the known type. Raises DataError where they do not fit it whole."""
    import pyarrow as pa

    try:
        if known is not None and table.schema is not None:
            return pa.array(cells, type=known.type)
        found = pa.array(cells)
        if known is None or known.type == found.type:
            return found
        # pa.array drops what a type has no room for, as the half of 1.5 or a new field, so both types are merged first
        both = [pa.schema([known]), pa.schema([pa.field(name, found.type)])]
        if pa.unify_schemas(both, promote_options="permissive").field(name).type == known.type:
            return pa.array(cells, type=known.type)
        reason = f"{found.type} after {known.type}"
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).partition("\n")[0]
    raise DataError(
        f"{table.name}: column {name!r} is not of one type ({reason}); write .jsonl, which keeps each cell as it is"
    )
