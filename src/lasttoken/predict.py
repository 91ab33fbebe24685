"""Predictions for a file: every row as it was, followed by what a classifier says of it.

Rows are read, predicted and written `chunk` at a time, so that memory does not grow with the file. A target file is
written as NAME.part and renamed when it is whole; whatever goes wrong, nothing half-written is left.
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
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from lasttoken.data.read import Columns, composer
from lasttoken.data.tables import FORMATS, Table, file_table, format_of, known_formats, stream_table
from lasttoken.data.truth import is_missing
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Classifier
from lasttoken.run import plain

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, PROBABILITY = "predicted_label", "predicted_probability"
ABSTAINED, SET = "abstained", "predicted_set"
Row = dict[str, Any]  # column -> cell
Write = Callable[[Sequence[str], Sequence[Row]], None]  # takes all columns of the output, and some rows of it
Place = str | os.PathLike[str] | IO[Any]  # a path, "-" for standard input or output, or an open binary file


@dataclass(frozen=True)
class Summary:
    """What was predicted."""

    rows: int
    empty: int  # of them, rows whose text is empty or white space alone
    truncated: str | None  # what the length limit cut off, in a sentence
    seconds: float
    abstained: int = 0  # rows that were left to a person


def predict_file(
    classifier: Classifier,
    source: Place,
    target: Place,
    *,
    columns: Columns,
    policy: Policy | None = None,
    encoding: str = "utf-8",
    format_in: str | None = None,
    format_out: str | None = None,
    probs: bool = False,
    separator: str | None = None,
    overwrite: bool = False,
    chunk: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """The count of rows of `source` that went to `target` with their prediction, in their order.

    policy: how probabilities are calibrated and decided on (`read_policy(run)`); None takes them as they are.

    All columns pass through; added are `predicted_label`, `predicted_probability` of that label, and with `probs` one
    `p(NAME)` for each label. Where the policy may abstain, `abstained` says so of a row, which then has no label; where it
    makes sets of labels they are `predicted_set`. With a multi-label classifier `predicted_label` is a list, in csv and tsv joined by
    `separator` (";" where it is None), and there is no `predicted_probability`. Formats (csv, tsv, jsonl, parquet) go
    by the ending where they are not named; standard output has that of the input. Text files are written in UTF-8.
    `columns` tells text, template and id; what it says of labels and splits is not looked at. `progress` is told the
    number of rows that are done, after each chunk. Raises DataError on the first row that cannot be read or written,
    ArtifactError where the target exists or cannot be written.
    """
    started = time.monotonic()
    multi = classifier.labels.multi
    table = table_of(source, columns, format=format_in, encoding=encoding)
    format = output_format(source, target, format_in=format_in, format_out=format_out)
    joined = (separator or ";") if format in ("csv", "tsv") else None
    policy = policy or Policy()
    added = added_names(classifier.labels, policy.rule, probs=probs, joined=joined)
    header, done, empty, left, journal = list[str](), 0, 0, 0, Journal()
    with opened(target, overwrite) as stream, writer(format, stream, table=table, multi=multi) as write:
        for records in chunks(table, chunk):
            header = header or header_of(table, records, added=added)
            check_names(table, records, header=header, added=added, fixed=format != "jsonl")
            texts = texts_of(records, columns, table=table)
            said = predicted(classifier, policy, texts, journal, table=table, probs=probs, joined=joined)
            write(header, [row | more for (_, row), more in zip(records, said, strict=True)])
            done, empty = done + len(texts), empty + sum(not text.strip() for text in texts)
            left += sum(more.get(ABSTAINED, False) for more in said)
            if progress:
                progress(done)
    truncated = str(journal.truncation) if journal.truncation else None
    return Summary(done, empty, truncated, time.monotonic() - started, left)


# Reading


def table_of(source: Place, columns: Columns, *, format: str | None, encoding: str) -> Table:
    """All columns of a file or stream, which has those of the text and the id."""
    needed = [*columns.text, *([] if columns.id is None else [columns.id])]
    if is_standard(source):
        return stream_table(sys.stdin.buffer, needed, format=format, encoding=encoding, whole=True)
    if isinstance(source, str | os.PathLike):
        return file_table(Path(source), needed, format=format, encoding=encoding, whole=True)
    return stream_table(source, needed, format=format, encoding=encoding, whole=True)


def is_standard(place: Place) -> bool:
    """Whether a place is "-", standard input or output."""
    return isinstance(place, str | os.PathLike) and os.fspath(place) == "-"


def output_format(source: Place, target: Place, *, format_in: str | None, format_out: str | None) -> str:
    """The format to write: as named, else by the ending of the target, else that of the input."""
    if format_out is not None:
        if format_out not in known_formats():
            raise DataError(f"no writer of format {format_out!r}; known are {', '.join(known_formats())}")
        return format_out
    if isinstance(target, str | os.PathLike) and not is_standard(target):
        ending = Path(target).suffix.lower()
        if ending not in FORMATS:
            raise DataError(
                f"{target}: its ending names no format to write; end the name in one of {', '.join(FORMATS)}, "
                "or name the format: --out-format csv"
            )
        return FORMATS[ending]
    if format_in is not None:
        return format_in
    assert isinstance(source, str | os.PathLike)  # a stream without a format was refused when it was opened
    return format_of(Path(source))


def chunks(table: Table, size: int) -> Iterator[list[tuple[int, Row]]]:
    """The records in their order, `size` at a time, the last ones fewer. Raises DataError where there are none."""
    records = list(itertools.islice(table.records, size))
    if not records:
        raise table.no_rows()
    while records:
        yield records
        records = list(itertools.islice(table.records, size))


def texts_of(records: Sequence[tuple[int, Row]], columns: Columns, *, table: Table) -> list[str]:
    """The texts (N,) of some rows. Raises DataError, naming the row, where a cell is no text."""
    compose, texts = composer(columns), list[str]()
    for number, row in records:
        try:
            texts.append(compose([row[column] for column in columns.text]))
        except DataError as error:
            raise DataError(f"{table.at(number)}: {error}") from error
    return texts


# What is added


def added_names(labels: LabelSpace, rule: Rule, *, probs: bool, joined: str | None) -> list[str]:
    """The columns that are added, in their order. Raises DataError on a label that `joined` would tear in two."""
    sets = rule.coverage > 0
    torn = [name for name in labels.names if (labels.multi or sets) and joined and joined in name]
    if torn:
        raise DataError(
            f"label {torn[0]!r} holds {joined!r}, which is to stand between labels; "
            "name another separator, or write .jsonl, which keeps lists"
        )
    own = [LABEL, *([] if labels.multi else [PROBABILITY])]
    own += [ABSTAINED] if rule.abstain_below else []
    own += [SET] if sets else []
    return [*own, *(map(column_of, labels.names) if probs else ())]


def column_of(label: str) -> str:
    """The name of the column that holds a label's probability."""
    return f"p({label})"


def header_of(table: Table, records: Sequence[tuple[int, Row]], *, added: Sequence[str]) -> list[str]:
    """The columns of the output: those of the input as its types or its first rows name them, then the added ones."""
    found = dict.fromkeys(name for _, row in records for name in row) if table.schema is None else table.schema.names
    return [*(name for name in found if name not in added), *added]


def check_names(
    table: Table, records: Sequence[tuple[int, Row]], *, header: Sequence[str], added: Sequence[str], fixed: bool
) -> None:
    """Raise DataError on a column of the name of an added one, or, where columns are `fixed`, one outside `header`."""
    taken, known = set(added), set(header)
    for number, row in records:
        if not taken.isdisjoint(row):
            name = next(name for name in row if name in taken)
            raise DataError(f"{table.at(number)}: has a column {name!r} already; rename it, that name is to be added")
        if fixed and not row.keys() <= known:
            name = next(name for name in row if name not in known)
            raise DataError(
                f"{table.at(number)}: column {name!r} is not in the first rows, which settle the columns; "
                "write .jsonl, whose rows may differ"
            )


def predicted(
    classifier: Classifier,
    policy: Policy,
    texts: Sequence[str],
    journal: Journal,
    *,
    table: Table,
    probs: bool,
    joined: str | None,
) -> list[Row]:
    """What is added to each row. `joined` stands between the names of a row with several; None keeps them a list."""
    labels, rule = classifier.labels, policy.rule
    values = classifier.predict_proba(texts, journal)  # (N, C)
    if values.shape != (len(texts), len(labels)):
        raise ValueError(f"probabilities are {values.shape}, expected {(len(texts), len(labels))}")
    if not np.isfinite(values).all():
        raise ArtifactError(f"{table.name}: the model gives probabilities that are not finite; train it again")
    raw = values
    values, decisions = policy(raw, labels.multi)

    def written(chosen: np.ndarray) -> list[list[str] | str]:
        return [list(names) if joined is None else joined.join(names) for names in labels.decode_sets(chosen)]

    if labels.multi:
        rows: list[Row] = [{LABEL: names} for names in written(decisions)]
    else:
        highest = values[np.arange(len(texts)), decisions].tolist()
        rows = [{LABEL: name, PROBABILITY: p} for name, p in zip(labels.decode(decisions), highest, strict=True)]
    if rule.abstain_below:
        left = rule.abstains(values, labels.multi).tolist()
        rows = [
            row | {ABSTAINED: nothing} | ({LABEL: None} if nothing else {})
            for row, nothing in zip(rows, left, strict=True)
        ]
    if rule.coverage:
        rows = [row | {SET: names} for row, names in zip(rows, written(policy.sets(raw)), strict=True)]
    if probs:
        names = [column_of(name) for name in labels.names]
        rows = [row | dict(zip(names, line, strict=True)) for row, line in zip(rows, values.tolist(), strict=True)]
    return rows


# Writing


@contextmanager
def opened(target: Place, overwrite: bool) -> Iterator[IO[bytes]]:
    """The stream to write to. A file is there when the block has ended well, and as before when it has not.

    Raises ArtifactError where it cannot be written. A pipe whose reader has gone is a BrokenPipeError, as everywhere.
    """
    if isinstance(target, str | os.PathLike) and not is_standard(target):
        with opened_file(Path(target), overwrite) as stream:
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
    """The stream of PATH.part, which is flushed to disk and renamed at the end, or deleted."""
    check_target(path, overwrite)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path} could not be written ({error.strerror or error}); nothing was kept of it"
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_target(path: Path, overwrite: bool) -> None:
    """Raise ArtifactError where a file cannot be written: before hours of predicting, not after."""
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path}: is a folder or a device; name a file, or - for standard output")
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; name another file, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise ArtifactError(f"{path}: no folder {path.parent}; make it first, or check the path")


@contextmanager
def writer(format: str, stream: IO[bytes], *, table: Table, multi: bool) -> Iterator[Write]:
    """The function that writes rows to a stream."""
    if format == "parquet":
        with parquet_writer(stream, table, multi=multi) as write:
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
        stream.write("".join(json_text(row, table) + "\n" for row in rows).encode())

    return write


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
def parquet_writer(stream: IO[bytes], table: Table, *, multi: bool) -> Iterator[Write]:
    """Rows as row groups of Parquet, one for each call. Types are those of the input, or of the first rows.

    Cells come as Python's values, whose times of day end at the microsecond: nanoseconds below that are cut off.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file: pq.ParquetWriter | None = None
    types = {} if table.schema is None else {name: table.schema.field(name) for name in table.schema.names}
    types[LABEL] = pa.field(LABEL, pa.list_(pa.string()) if multi else pa.string())  # first rows may all be []
    types[SET] = pa.field(SET, pa.list_(pa.string()))

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
