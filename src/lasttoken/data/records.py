"""Parse lines of CSV, TSV, JSONL or JSON into records, each with the line or row number that errors name.

A record holds the `wanted` columns; with `whole` it is a dict of all columns.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lasttoken.data.label_tools import as_flat_row
from lasttoken.errors import DataError, MissingColumn
from lasttoken.wording import closest, quoted

Bad = Callable[[int, str], None]  # takes the number of a record that cannot be read, and why
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
PLAIN = "if quotes are ordinary characters in this file, use --quoting none"


def check_columns(wanted: Sequence[str], found: Sequence[str], place: str, *, whole: bool = False) -> None:
    """Raise MissingColumn, with the closest name, when a column is missing; DataError when two columns share a name.

    Several columns without a name are allowed unless one is wanted or the table is `whole`.
    """
    twice = sorted(name for name, count in Counter(found).items() if count > 1 and (name or whole or name in wanted))
    if twice:
        raise DataError(f"{place}: two columns are named {twice[0]!r}; give every column its own name")
    for name in wanted:
        if name not in found:
            near = closest(name, found)
            hint = f"did you mean {near!r}? " if near else ""
            shown = ", ".join(map(quoted, found[:20])) + (", ..." if len(found) > 20 else "")
            raise MissingColumn(f"{place}: no column {name!r}; {hint}there are: {shown}", name, found)


# CSV and TSV


def delimited_records(
    lines: Iterator[str],
    name: str,
    wanted: Sequence[str],
    delimiter: str,
    *,
    quoting: str = "auto",
    whole: bool = False,
    told: list[str],
    bad: Bad | None = None,
) -> Iterator[tuple[int, list[str] | dict[str, str]]]:
    """Records of comma- or tab-separated lines, numbered by their first line. Empty lines are skipped.

    bad: is told of records that cannot be read, which are then left out; None raises DataError at the first.

    Quoting is strict, because an unclosed quote would otherwise swallow the rest of the file. Warnings, such as one about
    quoted cells whose lines could be rows, are appended to `told`. With quoting "none" a quote is an ordinary character.
    """
    first = list(itertools.islice(lines, 1))
    delimiter = delimiter_of("".join(first), wanted, delimiter, quoting)
    spaced = blank_follows("".join(first), delimiter)
    if spaced:
        told.append(
            f"{name}: every delimiter in the header is followed by a space; spaces after delimiters are removed"
        )
    read = numbered_fields(itertools.chain(first, lines), name, delimiter, quoting, spaced=spaced)
    header, places = list[str](), list[int]()
    swallowing: list[tuple[int, int]] = []  # (first line, lines) of records that may be several
    for begin, fields, taken in read:
        if not header:
            if fields:
                header = fields
                check_header(header, wanted, name, taken, whole=whole)
                places = [header.index(column) for column in wanted]
        elif fields or len(header) == 1:  # in a table of one column an empty line is an empty cell
            fields = fields or [""]
            if len(fields) != len(header):
                problem = f"{name}:{begin}: {ragged(fields, header, delimiter, taken)}"
                if bad is None:
                    raise DataError(problem)
                bad(begin, problem)
                continue
            if len(taken) > 1 and all(could_be_row(line, delimiter, len(header)) for line in taken):
                swallowing.append((begin, len(taken)))
            yield begin, dict(zip(header, fields, strict=True)) if whole else [fields[j] for j in places]
    if not header:
        raise DataError(f"{name}: the file is empty; it needs a header and rows")
    if swallowing:
        (begin, lines_of_it), more = swallowing[0], len(swallowing) - 1
        others = f", as do those of {more} more such cells" if more else ""
        told.append(
            f"{name}:{begin}: the quoted cell that begins here spans {lines_of_it} lines, which could be rows of their own"
            f"{others}; {PLAIN}"
        )


def blank_follows(header: str, delimiter: str) -> bool:
    """Whether a space follows each delimiter of a header, as in `id, text, label`."""
    names = next(csv.reader([header], delimiter=delimiter), [])[1:]
    plain = not header.startswith("{")  # a line of JSON is reported by check_header
    return plain and bool(names) and all(name.startswith(" ") for name in names)


def numbered_fields(
    lines: Iterator[str], name: str, delimiter: str, quoting: str, *, spaced: bool
) -> Iterator[tuple[int, list[str], list[str]]]:
    """(first line number, fields, lines) of each record. The list of lines is reused for the next record.

    spaced: drop spaces after a delimiter.
    """
    csv.field_size_limit(2**31 - 1)  # documents may be longer than csv's default of 131072 characters
    taken: list[str] = []
    reader, begin = reader_of(kept(lines, taken), delimiter, quoting, spaced=spaced), 1
    try:
        for fields in reader:
            yield begin, fields, taken
            begin = reader.line_num + 1
            taken.clear()
    except csv.Error as error:
        raise DataError(
            f"{name}:{begin}: {error}; a field that begins with a quote ends with one, and quotes inside it are doubled; "
            f"{PLAIN}"
        ) from error


def kept(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """Yield the lines and append each to `taken`."""
    for line in lines:
        taken.append(line)
        yield line


def reader_of(lines: Iterator[str] | list[str], delimiter: str, quoting: str, *, spaced: bool = False) -> Any:
    """A strict csv.reader; with quoting "none", quotes are ordinary characters."""
    way = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    return csv.reader(lines, delimiter=delimiter, quoting=way, strict=True, skipinitialspace=spaced)


def could_be_row(line: str, delimiter: str, width: int) -> bool:
    """Whether a line, quotes ignored, has `width` fields or is empty. A comma followed by a space counts as prose."""
    return (
        line.count(delimiter) == width - 1 and (delimiter == "\t" or f"{delimiter} " not in line)
    ) or not line.strip()


def ragged(fields: Sequence[str], header: Sequence[str], delimiter: str, lines: Sequence[str]) -> str:
    """Error text for a record, read from `lines`, whose number of fields differs from the header's."""
    problem = f"{len(fields)} fields, expected {len(header)}"
    mark, several = DELIMITERS[delimiter], len(lines) > 1 and could_be_row(lines[0], delimiter, len(header))
    if len(fields) > len(header) and not any(fields[len(header) :]):
        return f"{problem}; the line ends in {mark} that the header lacks; add it there or remove it here"
    if len(fields) < len(header) and not several:
        return f"{problem}; the row lacks some: add {mark} for each, or take it out"
    return f"{problem}; put quotes around a field that holds {mark}" + (f"; {PLAIN}" if several else "")


def check_header(header: Sequence[str], wanted: Sequence[str], name: str, lines: Sequence[str], *, whole: bool) -> None:
    """Raise DataError if a header, read from `lines`, lacks a wanted column or is not a header."""
    if not set(wanted) <= set(header):
        if header[0].lstrip()[:1] in ("{", "["):
            raise DataError(f"{name}: its first line is JSON, not column names; end the file's name in .jsonl")
        if header[0].startswith("sep="):
            raise DataError(f"{name}: its first line, {lines[0].strip()}, is for Excel alone; remove it")
        if len(lines) > 1 and any("\n" in column for column in header):
            raise DataError(f"{name}:1: a quoted column name spans several lines; {PLAIN}")
    check_columns(wanted, header, name, whole=whole)


def delimiter_of(header: str, wanted: Sequence[str], usual: str, quoting: str = "auto") -> str:
    """What separates the columns: the usual delimiter, unless all that are wanted stand in the header under another one.

    Spreadsheets write semicolons into a .csv where the comma is the decimal point. Where no delimiter gives what is
    wanted and the usual one gives a single column, it is the one that gives most.
    """
    try:
        found = {mark: next(reader_of([header], mark, quoting), []) for mark in (usual, *DELIMITERS)}
    except csv.Error:  # quotes that span lines, or are ordinary characters: reported when it is parsed
        return usual
    for mark, columns in found.items():
        if set(wanted) <= set(columns):
            return mark
    return usual if len(found[usual]) > 1 else max(found, key=lambda mark: len(found[mark]))


# JSON


def json_records(
    lines: Iterator[str],
    name: str,
    wanted: Sequence[str],
    *,
    whole: bool = False,
    optional: Collection[str] = (),
    bad: Bad | None = None,
) -> Iterator[tuple[int, list[Any] | dict[str, Any]]]:
    """Records of one JSON object a line, numbered by line. Empty lines are skipped.

    Columns that are `optional` may be absent from a row, which gives None, but not from all of them. bad: as of
    `delimited_records`.
    """
    return picked(json_values(lines, name, bad), name, wanted, whole=whole, optional=optional, bad=bad)


def json_values(lines: Iterator[str], name: str, bad: Bad | None) -> Iterator[tuple[int, str, Any, bool]]:
    """(number, place, value, whether its JSON has \\u escapes) of each line that is not empty."""
    form = "each line is one object, or the file one list of them"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            value = parsed(line.rstrip(), place, form)
        except DataError as error:
            if bad is None:
                raise
            bad(number, str(error))
            continue
        yield number, place, value, "\\u" in line


def document_records(
    lines: Iterator[str],
    name: str,
    wanted: Sequence[str],
    *,
    whole: bool = False,
    optional: Collection[str] = (),
    bad: Bad | None = None,
) -> Iterator[tuple[int, list[Any] | dict[str, Any]]]:
    """Records of one JSON list of objects, numbered from 0; otherwise as of `json_records`. All of it is read at once."""
    text = "".join(lines)
    values = parsed(text, name, "it should be a list of objects, or one object a line")
    rows = ((number, f"{name}: row {number}", value, "\\u" in text) for number, value in enumerate(values))
    return picked(rows, name, wanted, whole=whole, optional=optional, bad=bad)


def picked(
    rows: Iterable[tuple[int, str, Any, bool]],
    name: str,
    wanted: Sequence[str],
    *,
    whole: bool,
    optional: Collection[str],
    bad: Bad | None = None,
) -> Iterator[tuple[int, list[Any] | dict[str, Any]]]:
    """(number, record) of each row, given as (number, place, value, whether its JSON has \\u escapes)."""
    required = [column for column in wanted if column not in optional]
    unseen = set(wanted) - set(required)
    found: list[str] = []
    for number, place, row, escaped in rows:
        try:
            if not isinstance(row, dict):
                raise DataError(
                    f"{place}: a {type(row).__name__}, expected an object such as {{{json.dumps(wanted[0])}: ...}}"
                )
            if not row.keys() >= set(wanted):
                row = as_flat_row(row, place)
                check_required(required, row, place, first=[] if whole else found)
            cells = row if whole else [row.get(column) for column in wanted]
            if escaped:
                check_unicode(cells, place)
        except DataError as error:
            if bad is None:
                raise
            bad(number, str(error))
            continue
        unseen -= row.keys()
        found = found or list(row)
        yield number, cells
    if found:
        check_columns(sorted(unseen), found, name)


def check_required(required: Sequence[str], row: Mapping[str, Any], place: str, *, first: Sequence[str]) -> None:
    """Raise DataError if a row lacks a column; if the first row had them all, suggest --drop-empty."""
    try:
        check_columns(required, list(row), place)
    except DataError as error:
        if not set(required) <= set(first):
            raise
        raise DataError(f"{error}; rows without text or label can be left out: --drop-empty") from error


def parsed(text: str, place: str, form: str) -> Any:
    """The value of JSON text. Raises DataError that states the expected `form`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataError(f"{place}: not JSON ({error.msg} at {where}); {form}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON that can be read ({error}); {form}") from error


def check_unicode(cells: list[Any] | dict[str, Any], place: str) -> None:
    """Raise DataError on a lone surrogate escape, which cannot be encoded as UTF-8."""
    try:
        json.dumps(cells, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(
            f"{place}: the escape \\u{ord(half):x} is half a character; write the pair or take it out"
        ) from error
