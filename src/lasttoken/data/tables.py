"""File formats and tables in memory, each as the same thing: a stream of numbered records of the columns asked for.

Nothing here knows what a text or a label is. Files are read once, from front to back, and only the columns asked for
are kept, so that memory is that of the result; a `whole` table gives each record as a dict of all columns instead.
Every complaint names the file and the line, row or byte.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lasttoken.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
BLOCK = 1 << 20  # bytes read at once
BINARY = {  # how files begin that are no text, whatever their name says
    b"PAR1": "a Parquet file; end its name in .parquet",
    b"PK\x03\x04": "a zip archive, as Excel workbooks are; save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed with gzip; unpack it first: gunzip",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
}


@dataclass(frozen=True)
class Table:
    """Where records come from, and the records: (number, cells in the order of the columns asked for).

    The records of a whole table are (number, {column: cell}) in the columns' own order; those of JSON may differ in it.
    """

    name: str  # as the user wrote it
    unit: str  # what the numbers count: "line", of the file from 1, or "row", from 0
    records: Iterator[tuple[int, Any]]
    parts: tuple[tuple[str, int], ...] = ()  # (name, rows) where the rows are those of several parts, one after another
    empty: str = "there are no rows; check that it was written whole"  # what to say of it where it has no record
    schema: pyarrow.Schema | None = None  # the types of all columns, where the source has types: Parquet

    def at(self, number: int) -> str:
        """The place of one record, as errors name it: 'reviews.csv:17', 'reviews.parquet: row 15'."""
        if self.unit == "line":
            return f"{self.name}:{number}"
        part, row = self.within(number)
        return f"{self.name}: {part} row {row}" if part else f"{self.name}: row {row}"

    def some(self, numbers: Sequence[int]) -> str:
        """The place of one record or of several: 'reviews.csv: lines 4, 9, 17', five at most."""
        if len(numbers) == 1:
            return self.at(numbers[0])
        shown = ", ".join(f"{part} {row}".lstrip() for part, row in map(self.within, numbers[:5]))
        return f"{self.name}: {self.unit}s {shown}" + (", ..." if len(numbers) > 5 else "")

    def within(self, number: int) -> tuple[str, int]:
        """The part that a record belongs to, '' without parts, and its number there."""
        for part, rows in self.parts:
            if number < rows:
                return part, number
            number -= rows
        return "", number

    def no_rows(self) -> DataError:
        """The error of a table whose records turned out to be none."""
        return DataError(f"{self.name}: {self.empty}")

    def row_names(self, count: int, prefix: str) -> list[str]:
        """Ids for rows that have none: their number from 0, after the part that they are in."""
        if self.parts:
            return [f"{prefix}{part}:{i}" for part, rows in self.parts for i in range(rows)]
        return [f"{prefix}{i}" for i in range(count)]

    def part_of_rows(self) -> list[str] | None:
        """The part of each row, None without parts."""
        return [part for part, rows in self.parts for _ in range(rows)] or None


def file_table(path: Path, wanted: Sequence[str], *, format: str | None, encoding: str, whole: bool = False) -> Table:
    """The records of a file. Its ending names the format unless `format` does. `whole` gives every column."""
    check_file(path)
    format = format or format_of(path)
    if format == "parquet":
        return parquet_table(path, str(path), wanted, whole=whole)
    return text_table(file_lines(path, encoding), str(path), wanted, format, whole=whole)


def stream_table(
    stream: IO[Any], wanted: Sequence[str], *, format: str | None, encoding: str, whole: bool = False
) -> Table:
    """The records of an open file such as standard input, whose format has to be named. `whole` gives every column."""
    name = getattr(stream, "name", None)
    name = name if isinstance(name, str) else "<stream>"
    if format is None:
        raise DataError(
            f"{name}: a stream has no ending that names its format; name it with --format: {', '.join(known_formats())}"
        )
    binary = stream.buffer if isinstance(stream, io.TextIOWrapper) else stream
    if isinstance(binary, io.TextIOBase):
        lines = whole_lines(binary, name)
    elif format == "parquet":
        return parquet_table(io.BytesIO(binary.read()), name, wanted, whole=whole)
    else:
        lines = decoded_lines(binary, name, encoding)
    return text_table(lines, name, wanted, format, whole=whole)


def text_table(lines: Iterator[str], name: str, wanted: Sequence[str], format: str, *, whole: bool = False) -> Table:
    """The records of lines in one of the formats that are text."""
    if format in ("csv", "tsv"):
        delimiter = "," if format == "csv" else "\t"
        empty = "there are no rows, only column names; check that it was written whole"
        return Table(name, "line", delimited_records(lines, name, wanted, delimiter, whole=whole), empty=empty)
    if format == "jsonl":
        return Table(name, "line", json_records(lines, name, wanted, whole=whole))
    raise DataError(f"{name}: no reader of format {format!r} for text; known are {', '.join(known_formats())}")


def known_formats() -> list[str]:
    """The names that `format` may have."""
    return list(dict.fromkeys(FORMATS.values()))


def format_of(path: Path) -> str:
    """The format that the file's ending names. Raises DataError on any other ending."""
    ending = path.suffix.lower()
    if ending == ".json":
        raise DataError(
            f"{path}: a JSON document cannot be read row by row; write one object a line and end the name in .jsonl: "
            f"jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    if ending not in FORMATS:
        shown = f"the ending {ending!r} is of no known format" if ending else "a name without an ending names no format"
        raise DataError(f"{path}: {shown}; read are {', '.join(FORMATS)}")
    return FORMATS[ending]


def check_file(path: Path) -> None:
    """Raise DataError unless `path` is a file that holds something; offer near names where there are any."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in FORMATS)
        hint = f", such as {inside[0]}" if inside else f" of the kind {', '.join(FORMATS)}"
        raise DataError(f"{path}: is a folder; name a file inside it{hint}")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"{path}: no such file, and no folder {path.parent}; check the path")
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the path"
        raise DataError(f"{path}: no such file; {hint}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it needs a header and rows")


def check_columns(wanted: Sequence[str], found: Sequence[str], place: str, *, whole: bool = False) -> None:
    """Raise DataError when a column is missing, naming what may have been meant, or when two share a name.

    Columns that are not named at all may be several, unless they are asked for or the table is to be `whole`.
    """
    twice = sorted(name for name, count in Counter(found).items() if count > 1 and (name or whole or name in wanted))
    if twice:
        raise DataError(f"{place}: two columns are named {twice[0]!r}; give every column its own name")
    for name in wanted:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
            raise DataError(f"{place}: no column {name!r}; {hint}there are: {shown}")


def file_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file, ends kept."""
    try:
        with path.open("rb") as stream:
            begins = stream.peek(4)[:4]
            for magic, kind in BINARY.items():
                if begins.startswith(magic):
                    raise DataError(f"{path}: no text but {kind}")
            yield from decoded_lines(stream, str(path), encoding)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def decoded_lines(stream: IO[bytes], name: str, encoding: str) -> Iterator[str]:
    """The lines of a binary stream, ends kept, decoded block by block. A wrong byte is named by its offset."""
    try:
        "a".encode(encoding)  # refuses what is no encoding of text
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(
            f"{name}: {encoding!r} is no encoding that Python knows; try utf-8, latin-1 or utf-16"
        ) from error
    decoder = codecs.getincrementaldecoder("utf-8-sig" if codec == "utf-8" else codec)()
    done, number, more, pieces = 0, 0, True, list[str]()  # pieces: of a line that goes on in the next block
    while more:
        block = stream.read(BLOCK)
        done, more = done + len(block), bool(block)
        try:
            pieces.append(decoder.decode(block, final=not more))
        except UnicodeDecodeError as error:
            raise DataError(wrong_byte(name, encoding, error, done - len(error.object) + error.start)) from error
        except UnicodeError as error:
            raise DataError(f"{name}: {error}; name another encoding: --encoding utf-16-le") from error
        if more and "\n" not in pieces[-1] and "\r" not in pieces[-1]:
            continue
        lines = io.StringIO("".join(pieces), newline="").readlines()
        pieces = [lines.pop()] if more and lines and not lines[-1].endswith("\n") else []  # "\r" may be half a line end
        yield from without_nul(lines, name, number)
        number += len(lines)


def wrong_byte(name: str, encoding: str, error: UnicodeDecodeError, offset: int) -> str:
    """The sentence about the first byte that is not of the encoding, `offset` bytes into the file."""
    byte = error.object[error.start]
    other = "utf-16" if offset == 0 and byte in (0xFE, 0xFF) else "latin-1"
    return (
        f"{name}: byte {byte:#04x} at offset {offset} is not {encoding.upper()}; "
        f"if the file is in another encoding, name it: --encoding {other}"
    )


def whole_lines(stream: io.TextIOBase, name: str) -> Iterator[str]:
    """The lines of a stream that is text already."""
    for number, line in enumerate(stream):
        yield from without_nul([line], name, number)


def without_nul(lines: list[str], name: str, before: int) -> Iterator[str]:
    """The lines, `before` lines into the file. Raises DataError on one with a NUL byte."""
    for number, line in enumerate(lines, before + 1):
        if "\0" in line:
            raise DataError(
                f"{name}:{number}: a NUL byte, so the file is damaged or no text; "
                "if it is UTF-16, name it: --encoding utf-16-le"
            )
        yield line


def delimited_records(
    lines: Iterator[str], name: str, wanted: Sequence[str], delimiter: str, *, whole: bool = False
) -> Iterator[tuple[int, list[str] | dict[str, str]]]:
    """Records of comma- or tab-separated lines, numbered by the line on which each begins. Empty lines are skipped.

    Quoting is checked strictly: a quote that is never closed would otherwise swallow the rest of the file.
    """
    csv.field_size_limit(2**31 - 1)  # documents may be longer than csv's default of 131072 characters
    first = list(itertools.islice(lines, 1))
    delimiter = delimiter_of("".join(first), wanted, delimiter)
    reader = csv.reader(itertools.chain(first, lines), delimiter=delimiter, strict=True)
    header, begin = None, 1
    places: list[int] = []
    try:
        for fields in reader:
            if header is None:
                if fields:
                    header = fields
                    check_columns(wanted, header, name, whole=whole)
                    places = [header.index(column) for column in wanted]
            elif fields or len(header) == 1:  # in a table of one column an empty line is an empty cell
                fields = fields or [""]
                if len(fields) != len(header):
                    raise DataError(
                        f"{name}:{begin}: {len(fields)} fields, expected {len(header)}; "
                        f"put quotes around a field that holds {DELIMITERS[delimiter]}"
                    )
                yield begin, dict(zip(header, fields, strict=True)) if whole else [fields[j] for j in places]
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}:{begin}: {error}; a field that begins with a quote ends with one, and quotes inside it are doubled"
        ) from error
    if header is None:
        raise DataError(f"{name}: the file is empty; it needs a header and rows")


def delimiter_of(header: str, wanted: Sequence[str], usual: str) -> str:
    """What separates the columns: the usual delimiter, unless all that are wanted stand in the header under another one.

    Spreadsheets write semicolons into a .csv where the comma is the decimal point.
    """
    for delimiter in (usual, *DELIMITERS):
        if set(wanted) <= set(next(csv.reader([header], delimiter=delimiter), [])):
            return delimiter
    return usual


def json_records(
    lines: Iterator[str], name: str, wanted: Sequence[str], *, whole: bool = False
) -> Iterator[tuple[int, list[Any] | dict[str, Any]]]:
    """Records of one JSON object a line. Empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: not JSON ({error.msg} at column {error.colno}); each line is one object"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON that can be read ({error}); each line is one object") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{place}: a {type(row).__name__}, expected an object such as {{{json.dumps(wanted[0])}: ...}}"
            )
        if not row.keys() >= set(wanted):
            check_columns(wanted, list(row), place)
        cells = row if whole else [row[column] for column in wanted]
        if "\\u" in line:
            check_unicode(cells, place)
        yield number, cells


def check_unicode(cells: list[Any] | dict[str, Any], place: str) -> None:
    """Raise DataError when an escape stands for half a character, which no tokenizer and no file can hold."""
    try:
        json.dumps(cells, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(
            f"{place}: the escape \\u{ord(half):x} is half a character; write the pair or take it out"
        ) from error


def parquet_table(source: Path | io.BytesIO, name: str, wanted: Sequence[str], *, whole: bool = False) -> Table:
    """The records of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(damaged(name, error)) from error
    schema = file.schema_arrow
    check_columns(wanted, schema.names, name, whole=whole)
    records = parquet_records(file, name, schema.names if whole else wanted)
    if whole:
        records = ((number, dict(zip(schema.names, cells, strict=True))) for number, cells in records)
    return Table(name, "row", records, schema=schema)


def parquet_records(
    file: pyarrow.parquet.ParquetFile, name: str, wanted: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Records of an open Parquet file, one batch in memory at a time."""
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(batch_size=8192, columns=list(dict.fromkeys(wanted))):
            for cells in zip(*(batch.column(column).to_pylist() for column in wanted), strict=True):
                yield number, cells
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(damaged(name, error)) from error


def damaged(name: str, error: Exception) -> str:
    """The sentence about a Parquet file that cannot be read."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return f"{name}: not a Parquet file, or cut short ({reason}); write or copy it again"


def frame_table(frame: pandas.DataFrame, wanted: Sequence[str]) -> Table:
    """The records of a pandas DataFrame, by position; what pandas counts as missing is None."""
    found = [str(column) for column in frame.columns]
    check_columns(wanted, found, "the data frame")
    cells: list[list[Any]] = []
    for column in wanted:
        values = frame.iloc[:, found.index(column)]
        cells.append(values.astype(object).where(values.notna(), None).tolist())
    return Table("the data frame", "row", enumerate(zip(*cells, strict=True)))
