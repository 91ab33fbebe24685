"""Read rows from a file, a stream, a dataset of the Hugging Face Hub or a data frame.

The caller names the columns; they are never guessed. `read_rows` returns Rows or raises DataError, and never repairs.
A row without text, or without its label, is an error. `keep_empty` keeps such rows; `without_empty` then drops and
counts them.
"""

from __future__ import annotations

import io
import os
import string
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from lasttoken.data.dataset import Rows
from lasttoken.data.hub import dataset_table, hub_table, parts_table
from lasttoken.data.label_cells import Places, is_missing, label_names, name_of, present
from lasttoken.data.split import canonical
from lasttoken.data.tables import Table, file_table, frame_table, stream_table
from lasttoken.data.wipo import PREFIX, wipo_table
from lasttoken.errors import DataError
from lasttoken.paths import local
from lasttoken.wording import counted

if TYPE_CHECKING:
    import datasets
    import pandas

    Source = str | os.PathLike[str] | IO[Any] | pandas.DataFrame | datasets.Dataset | datasets.DatasetDict


@dataclass(frozen=True)
class Columns:
    """What each column of a source means."""

    text: tuple[str, ...]  # several are joined by a blank line, or put into the template
    template: str | None = None  # such as "{title}. {body}"
    label: tuple[str, ...] | None = None  # several are 0/1 indicators; None: labels are not read
    separator: str | None = None  # between the names in a label cell such as "A;C"
    id: str | None = None  # None: the row's number from 0
    group: str | None = None  # rows of one group stay in one part
    split: str | None = None  # names each row's part: train, valid or test

    def __post_init__(self) -> None:
        for name in ("text", "label"):  # iterating a string would give its letters
            if isinstance(given := getattr(self, name), str):
                raise DataError(f"{name} takes a tuple of column names, got {given!r}; write ({given!r},)")
        problem = self.problem()
        if problem:
            raise DataError(problem)

    def problem(self) -> str | None:
        """What is wrong with the columns, in one sentence; None if nothing is."""
        labels = self.label or ()
        if not self.text or self.label == ():
            return (
                "no text column is named"
                if not self.text
                else "no label column is named; leave label out to read rows without labels"
            )
        if len(set(self.text)) < len(self.text) or len(set(labels)) < len(labels):
            return f"a column is named twice among text {list(self.text)} or label {list(labels)}; name each once"
        both = sorted(set(self.text) & set(labels))
        if both:
            return f"column {both[0]!r} is both text and label, so each text would contain its label; use two columns"
        if self.separator == "" or (self.separator and len(labels) != 1):
            return f"separator {self.separator!r}: it splits the cells of one label column; name both, or leave it out"
        return None if self.template is None else self.template_problem(self.template)

    def template_problem(self, template: str) -> str | None:
        """What is wrong with the template, in one sentence; None if it fits the text columns."""
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            return f"template {template!r}: {error}; write a literal brace twice"
        fields = {piece[1] for piece in pieces if piece[1] is not None}
        if any(piece[2] or piece[3] for piece in pieces):
            return f"template {template!r}: only plain {{column}} fields are filled in, without ':' or '!'"
        if fields != set(self.text):
            return (
                f"template {template!r} fills in {sorted(fields)}, text names {sorted(self.text)}; make them the same"
            )
        return None

    @property
    def wanted(self) -> list[str]:
        """The named columns, in the order text, label, id, group, split. A column with two uses is listed twice."""
        return [*self.text, *(self.label or ()), *(column for _, column in self.keys)]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(use, column) of the id, group and split columns that are named."""
        uses = (("id", self.id), ("group", self.group), ("split", self.split))
        return [(use, column) for use, column in uses if column is not None]


def check_header(
    source: Source,
    columns: Columns,
    *,
    encoding: str = "utf-8",
    format: str | None = None,
    quoting: str = "auto",
    keep_empty: bool = False,
) -> None:
    """Raise DataError if a file lacks one of the columns. Reads its first record; other sources are not checked."""
    optional = {*columns.text, *(columns.label or ())} if keep_empty else set[str]()
    if isinstance(source, str | os.PathLike) and not str(source).startswith(("hub:", PREFIX)):
        table = table_of(source, columns.wanted, format=format, encoding=encoding, quoting=quoting, optional=optional)
        next(table.records, None)


def read_rows(
    source: Source,
    *,
    columns: Columns,
    encoding: str = "utf-8",
    quoting: str = "auto",
    format: str | None = None,
    prefix: str = "",
    keep_empty: bool = False,
) -> Rows:
    """The rows of a path, `hub:owner/name[:config]`, `wipo:FOLDER`, stream, DataFrame, Dataset or DatasetDict.

    - `format`: csv, tsv, jsonl or parquet. It overrides the file's ending, and is required for a stream.
    - `quoting`: "none" reads quotation marks in CSV and TSV as plain characters.
    - `prefix` goes before row numbers that serve as ids, so that ids of several files differ ("test:17").
    - `keep_empty` keeps rows without text or label. A missing label is () in single-label rows, `UNLABELLED` in
      multi-label rows.

    Rows keep their order. The splits of a Hub dataset become `Rows.splits` unless `columns.split` is named. Raises
    DataError.
    """
    optional = {*columns.text, *(columns.label or ())} if keep_empty else set[str]()
    table = table_of(source, columns.wanted, format=format, encoding=encoding, quoting=quoting, optional=optional)
    rows = gathered(table, columns, prefix, keep_empty=keep_empty)
    if not keep_empty:
        try:
            check_texts(rows)
        except DataError as error:
            raise DataError(f"{table.name}: {error}") from error
    return rows


def read_parts(
    train: Source,
    valid: Source | None,
    test: Source | None,
    *,
    columns: Columns,
    encoding: str = "utf-8",
    quoting: str = "auto",
    keep_empty: bool = False,
) -> dict[str, Rows]:
    """Part name -> rows, for each part with a source. Row numbers as ids get a prefix ("test:17"), except in train."""
    given = {"train": train, "valid": valid, "test": test}
    return {
        name: read_rows(
            source,
            columns=columns,
            encoding=encoding,
            quoting=quoting,
            prefix="" if name == "train" else f"{name}:",
            keep_empty=keep_empty,
        )
        for name, source in given.items()
        if source is not None
    }


def without_empty(rows: Rows, source: str) -> tuple[Rows, str]:
    """The rows that have text and label, and the number of dropped rows in words ("" if none).

    Ids do not change. `source` names the data in errors. Raises DataError if no row is left.
    """
    dropped, whole = [], len(rows)
    for what, has in (("text", Rows.has_text), ("label", Rows.has_label)):
        kept = [i for i in range(len(rows)) if has(rows, i)]
        if not kept:
            both = f", not counting {dropped[0]}" if dropped else ""
            raise DataError(f"{source}: none of the {whole} rows has any {what}{both}; check which column holds it")
        if len(kept) < len(rows):
            dropped.append(f"{counted(len(rows) - len(kept), 'row', 'rows')} without {what}")
            rows = rows.take(kept)
    return rows, " and ".join(dropped)


def check_texts(rows: Rows) -> None:
    """Raise DataError if texts are empty or white space, with their number and the first ids."""
    empty = [row for i, row in enumerate(rows.ids) if not rows.has_text(i)]
    if empty:
        counted_from = ", counted from 0" if rows.ids == [str(i) for i in range(len(rows))] else ""
        shown = ", ".join(repr(row) for row in empty[:5]) + (", ..." if len(empty) > 5 else "")
        count = f"{len(empty)} rows have" if len(empty) > 1 else "1 row has"
        raise DataError(
            f"{count} an empty text, id {shown}{counted_from}; fill them in, or drop them with --drop-empty"
        )


def table_of(
    source: Source,
    wanted: Sequence[str],
    *,
    format: str | None,
    encoding: str,
    quoting: str = "auto",
    optional: Collection[str] = (),
) -> Table:
    """The records of a source of any kind."""
    if isinstance(source, str) and source.startswith("hub:"):
        return hub_table(source, wanted)
    if isinstance(source, str) and source.startswith(PREFIX):
        return wipo_table(source, wanted)
    if isinstance(source, str | os.PathLike):
        path = local(source)
        return file_table(path, wanted, format=format, encoding=encoding, quoting=quoting, optional=optional)
    if isinstance(source, io.IOBase):
        stream = cast("IO[Any]", source)
        return stream_table(stream, wanted, format=format, encoding=encoding, quoting=quoting, optional=optional)
    import pandas

    if isinstance(source, pandas.DataFrame):
        return frame_table(source, wanted)
    import datasets

    if isinstance(source, datasets.DatasetDict):
        return parts_table(source, wanted, "the data set")
    if isinstance(source, datasets.Dataset):
        return dataset_table(source, wanted)
    kind = type(source).__name__
    raise DataError(
        f"rows cannot be read from an object of type {kind}; give a path, a stream, a DataFrame or a Dataset"
    )


def gathered(table: Table, columns: Columns, prefix: str, *, keep_empty: bool) -> Rows:
    """The rows of a table, whose records are read one by one."""
    width, compose = len(columns.text), composer(columns)
    numbers, texts = array("q"), list[str]()
    stores: list[list[Any]] = [[] for _ in columns.wanted[width:]]
    memo: dict[str, str] = {}  # equal strings are stored once
    for number, record in table.records:
        try:
            texts.append(compose(record[:width]))
        except DataError as error:
            raise DataError(f"{table.at(number)}: {error}") from error
        numbers.append(number)
        for store, cell in zip(stores, record[width:], strict=True):
            store.append(memo.setdefault(cell, cell) if type(cell) is str else cell)
    if not texts:
        raise table.no_rows()

    def places(rows: list[int]) -> str:
        return table.some([numbers[i] for i in rows[:6]])

    labels, multi = None, False
    if columns.label is not None:
        count = len(columns.label)
        labels, multi = label_names(
            columns.label, stores[:count], columns.separator, places=places, keep_empty=keep_empty
        )
        stores = stores[count:]
    keys = {  # the remaining columns, in the order of `columns.keys`
        use: named(store, column, places) for (use, column), store in zip(columns.keys, stores, strict=True)
    }
    ids = keys.get("id") or table.row_names(len(texts), prefix)
    check_ids(ids, table.name)
    splits = parts_named(keys["split"], table.name) if "split" in keys else table.part_of_rows()
    return Rows(ids, texts, labels, multi, keys.get("group"), splits, tuple(table.told))


def composer(columns: Columns) -> Callable[[Sequence[Any]], str]:
    """The function from a row's text cells to its text. Without a template, empty cells are left out."""
    if columns.template is None:
        if len(columns.text) == 1:
            return lambda cells: as_text(cells[0])
        return lambda cells: "\n\n".join(text for text in map(as_text, cells) if text.strip())
    pieces = [(literal, name) for literal, name, _, _ in string.Formatter().parse(columns.template)]

    def filled(cells: Sequence[Any]) -> str:
        texts = dict(zip(columns.text, map(as_text, cells), strict=True))
        if not any(text.strip() for text in texts.values()):
            return ""  # a template filled with empty cells is not a text
        return "".join(literal + (texts[name] if name is not None else "") for literal, name in pieces)

    return filled


def as_text(cell: Any) -> str:
    """A cell as text; "" if it is empty."""
    if isinstance(cell, str):
        return cell
    return "" if is_missing(cell) else name_of(cell, "the text column")


def named(cells: Sequence[Any], column: str, places: Places) -> list[str]:
    """The cells of an id, group or split column as strings. Raises DataError on an empty cell."""
    return [name_of(cell, places([i])) for i, cell in enumerate(present(cells, column, places))]


def parts_named(names: Sequence[str], name: str) -> list[str]:
    """The cells of a split column as train, valid or test."""
    try:
        return canonical(names)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def check_ids(ids: Sequence[str], name: str) -> None:
    """Raise DataError if rows share an id, with the first such id and the number of others."""
    if len(set(ids)) == len(ids):
        return
    twice = {row: count for row, count in Counter(ids).items() if count > 1}
    first, count = next(iter(twice.items()))
    more = len(twice) - 1
    others = f", and {more} other id{'s' if more > 1 else ''} too" if more else ""
    raise DataError(f"{name}: id {first!r} occurs {count} times{others}; make ids unique, or name no id column")
