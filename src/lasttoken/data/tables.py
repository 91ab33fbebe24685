"""Read CSV, TSV, JSON, JSONL, Parquet or a data frame as a `Table`: a stream of numbered records.

Nothing here knows what a text or a label is. A file is read once, and only the requested columns are kept, so that
memory is that of the result. A `whole` table gives each record as a dict of all columns instead. Every error names the
file and the line, row or byte.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lasttoken.data.lines import PACKED, Measured, decoded_lines, file_lines, is_utf_8, whole_lines
from lasttoken.data.records import Bad, check_columns, delimited_records, document_records, json_records
from lasttoken.errors import DataError
from lasttoken.wording import closest

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
READ = {**FORMATS, ".json": "jsonl"}  # .json may be one list of objects, or one object per line


@dataclass(frozen=True)
class Table:
    """A named source and its records: (number, cells in the order of the requested columns).

    The records of a whole table are (number, {column: cell}), with columns in the order of the source.
    """

    name: str  # as the user wrote it
    unit: str  # what record numbers count: "line" of the file, from 1, or "row", from 0
    records: Iterator[tuple[int, Any]]
    parts: tuple[tuple[str, int], ...] = ()  # (name, number of rows) of parts that follow one another
    empty: str = "there are no rows; check that the file is complete"  # the error of a table without records
    schema: pyarrow.Schema | None = None  # column types; Parquet only
    told: list[str] = field(default_factory=list)  # warnings; complete once all records are read
    expect: Callable[[int], int] | None = None  # (records taken so far) -> records in all, estimated; None: not known

    def at(self, number: int) -> str:
        """The place of one record, as errors name it: 'reviews.csv:17', 'reviews.parquet: row 15'."""
        if self.unit == "line":
            return f"{self.name}:{number}"
        part, row = self.within(number)
        return f"{self.name}: {part} row {row}" if part else f"{self.name}: row {row}"

    def some(self, numbers: Sequence[int]) -> str:
        """The place of one or more records, at most five: 'reviews.csv: lines 4, 9, 17'."""
        if len(numbers) == 1:
            return self.at(numbers[0])
        shown = ", ".join(f"{part} {row}".lstrip() for part, row in map(self.within, numbers[:5]))
        return f"{self.name}: {self.unit}s {shown}" + (", ..." if len(numbers) > 5 else "")

    def within(self, number: int) -> tuple[str, int]:
        """The part of a record ("" without parts) and its number within the part."""
        for part, rows in self.parts:
            if number < rows:
                return part, number
            number -= rows
        return "", number

    def no_rows(self) -> DataError:
        """The error to raise if there are no records."""
        return DataError(f"{self.name}: {self.empty}")

    def row_names(self, count: int, prefix: str) -> list[str]:
        """Ids for rows without an id column: their number from 0, within their part if there are parts ('test:17')."""
        if self.parts:
            return [f"{prefix}{part}:{i}" for part, rows in self.parts for i in range(rows)]
        return [f"{prefix}{i}" for i in range(count)]

    def part_of_rows(self) -> list[str] | None:
        """The part of each row; None without parts."""
        return [part for part, rows in self.parts for _ in range(rows)] or None


def file_table(
    path: Path,
    wanted: Sequence[str],
    *,
    format: str | None,
    encoding: str,
    quoting: str = "auto",
    whole: bool = False,
    optional: Collection[str] = (),
) -> Table:
    """The records of a file. Its ending tells the format unless `format` is named. `whole` gives every column.

    quoting: of CSV and TSV; "none" reads quotation marks as plain characters. optional: columns that a JSON object may
    lack; the cell is then None.
    """
    check_file(path)
    format = format or format_of(path)
    if format == "parquet":
        return parquet_table(path, str(path), wanted, whole=whole)
    lines, size = Measured(file_lines(path, encoding)), path.stat().st_size
    table = text_table(lines, str(path), wanted, format, quoting=quoting, whole=whole, optional=optional)
    # of a packed file, a pipe, or lines that are not in UTF-8, bytes say nothing; a list of JSON is read at once
    known = path.is_file() and path.suffix.lower() not in PACKED and table.unit == "line" and is_utf_8(encoding)
    return replace(table, expect=lambda taken: round(taken * max(1.0, size / max(1, lines.size)))) if known else table


def stream_table(
    stream: IO[Any],
    wanted: Sequence[str],
    *,
    format: str | None,
    encoding: str,
    quoting: str = "auto",
    whole: bool = False,
    optional: Collection[str] = (),
) -> Table:
    """The records of an open file such as standard input. `format` is required; otherwise as `file_table`."""
    name = getattr(stream, "name", None)
    name = name if isinstance(name, str) else "<stream>"
    if format is None:
        raise DataError(
            f"{name}: a stream has no file ending; name its format with --format: {', '.join(known_formats())}"
        )
    binary = stream.buffer if isinstance(stream, io.TextIOWrapper) else stream
    if isinstance(binary, io.TextIOBase):
        lines = whole_lines(binary, name)
    elif format == "parquet":
        return parquet_table(io.BytesIO(binary.read()), name, wanted, whole=whole)
    else:
        lines = decoded_lines(binary, name, encoding)
    return text_table(lines, name, wanted, format, quoting=quoting, whole=whole, optional=optional)


def text_table(
    lines: Iterator[str],
    name: str,
    wanted: Sequence[str],
    format: str,
    *,
    quoting: str = "auto",
    whole: bool = False,
    optional: Collection[str] = (),
    bad: Bad | None = None,
) -> Table:
    """The records of the lines of a CSV, TSV, JSON or JSONL file. bad: is told of those that cannot be read, see records.py."""
    if format in ("csv", "tsv"):
        if quoting not in ("auto", "none"):
            raise DataError(f"{name}: quoting {quoting!r} is unknown; use auto or none")
        delimiter = "," if format == "csv" else "\t"
        told: list[str] = []
        records = delimited_records(lines, name, wanted, delimiter, quoting=quoting, whole=whole, told=told, bad=bad)
        empty = "there are no rows, only column names; check that the file is complete"
        return Table(name, "line", records, empty=empty, told=told)
    if format == "jsonl":
        begins, lines = peeked(lines)
        if begins == "[":
            return Table(name, "row", document_records(lines, name, wanted, whole=whole, optional=optional, bad=bad))
        return Table(name, "line", json_records(lines, name, wanted, whole=whole, optional=optional, bad=bad))
    raise DataError(f"{name}: format {format!r} cannot be read as text; known formats are {', '.join(known_formats())}")


def peeked(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first character that is not white space ("" if there is none), and all the lines."""
    seen: list[str] = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    return (seen[-1].lstrip()[:1] if seen else ""), itertools.chain(seen, lines)


def known_formats() -> list[str]:
    """The values that `format` may have."""
    return list(dict.fromkeys(FORMATS.values()))


def format_of(path: Path, *, write: bool = False) -> str:
    """The format that the file's ending stands for. Raises DataError if it cannot be read, or with `write` written."""
    if not write and path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    known, ending = FORMATS if write else READ, path.suffix.lower()
    if ending not in known:
        shown = f"files ending in {ending!r}" if ending else "files without an ending"
        raise DataError(f"{path}: {shown} cannot be {'written' if write else 'read'}; use one of {', '.join(known)}")
    return known[ending]


def check_file(path: Path) -> None:
    """Raise DataError unless `path` is a file and not empty. The error suggests a similar name where there is one."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in READ)
        hint = f", such as {inside[0]}" if inside else f" of the kind {', '.join(READ)}"
        raise DataError(f"{path}: is a folder; name a file inside it{hint}")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"{path}: no such file, and no folder {path.parent}; check the path")
        near = closest(path.name, sorted(p.name for p in path.parent.iterdir()))
        hint = f"did you mean {near}?" if near else "check the path"
        raise DataError(f"{path}: no such file; {hint}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs a header and rows")


def parquet_table(
    source: Path | IO[bytes],
    name: str,
    wanted: Sequence[str],
    *,
    whole: bool = False,
    groups: Sequence[int] | None = None,
    start: int = 0,
    skip: int = 0,
) -> Table:
    """The records of a Parquet file.

    groups: the row groups to read, None for all; start: number of their first row; skip: rows of them to leave out first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = source.open("rb") if isinstance(source, Path) else source  # pyarrow would read a name such as a:1 as a URI
    try:
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        check_columns(wanted, schema.names, name, whole=whole)
    except (pa.ArrowException, OSError) as error:
        stream.close()
        raise DataError(damaged(name, error)) from error
    except DataError:
        stream.close()
        raise
    if whole:  # cells keep the types of the schema
        records = parquet_records(file, name, schema.names, groups, start=start, skip=skip)
        records = ((number, dict(zip(schema.names, cells, strict=True))) for number, cells in records)
        return Table(name, "row", records, schema=schema, expect=lambda taken: file.metadata.num_rows)
    decoders = [class_decoder(feature) for feature in features_of(schema, wanted)]
    records = parquet_records(file, name, wanted)
    if any(decoders):
        records = (
            (number, tuple(decode(cell) if decode else cell for decode, cell in zip(decoders, cells, strict=True)))
            for number, cells in records
        )
    return Table(name, "row", records, schema=schema)


def features_of(schema: pyarrow.Schema, wanted: Sequence[str]) -> list[Any]:
    """The `datasets` feature of each column, from the metadata of a Parquet file; None where there is none."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described["info"]["features"]
        return [features.get(column) for column in wanted]
    except (ValueError, KeyError, TypeError, AttributeError):  # no metadata, or not of `datasets`
        return [None] * len(wanted)


def class_decoder(feature: Any) -> Callable[[Any], Any] | None:
    """The function from class numbers to names, for a ClassLabel feature or a list of them; None for other features."""
    if isinstance(feature, list) and len(feature) == 1:  # a list as older versions of `datasets` write it
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        return lambda cell: names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None  # -1: no label
    if feature.get("_type") in ("List", "LargeList", "Sequence"):
        one = class_decoder(feature.get("feature"))
        return None if one is None else lambda cell: None if cell is None else [one(item) for item in cell]
    return None


def parquet_records(
    file: pyarrow.parquet.ParquetFile,
    name: str,
    wanted: Sequence[str],
    groups: Sequence[int] | None = None,
    *,
    start: int = 0,
    skip: int = 0,
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Records of an open Parquet file, one batch in memory at a time. start, skip: as of `parquet_table`."""
    import pyarrow as pa

    number = start
    try:
        columns = list(dict.fromkeys(wanted))
        for batch in file.iter_batches(batch_size=8192, row_groups=groups, columns=columns):
            left_out = min(len(batch), start + skip - number) if number < start + skip else 0
            number, batch = number + left_out, batch.slice(left_out)
            for cells in zip(*(batch.column(column).to_pylist() for column in wanted), strict=True):
                yield number, cells
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(damaged(name, error)) from error
    finally:
        file.close(force=True)


def damaged(name: str, error: Exception) -> str:
    """The error text for a Parquet file that cannot be read."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return f"{name}: not a Parquet file, or truncated ({reason}); write or copy it again"


def frame_table(frame: pandas.DataFrame, wanted: Sequence[str]) -> Table:
    """The records of a pandas DataFrame, numbered by position. Missing values become None."""
    found = [str(column) for column in frame.columns]
    check_columns(wanted, found, "the data frame")
    cells: list[list[Any]] = []
    for column in wanted:
        values = frame.iloc[:, found.index(column)]
        cells.append(values.astype(object).where(values.notna(), None).tolist())
    return Table("the data frame", "row", enumerate(zip(*cells, strict=True)))
