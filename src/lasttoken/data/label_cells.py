"""Turn the cells of label columns into the label names of each row.

Labels come in four forms. The caller names two of them: several 0/1 columns, or a separator within cells. The cells
show the other two: lists, or single values. Names are kept as written, without white space around separators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lasttoken.data.dataset import UNLABELLED
from lasttoken.data.label_tools import unwrapped
from lasttoken.errors import DataError

LISTS = (list, tuple, set, frozenset, np.ndarray)
Places = Callable[[list[int]], str]  # row indices -> how errors name these rows
SEPARATORS = (";", "|", ",", "#", " / ")  # between several labels in a cell, as people write them
YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}  # 1.0: pandas turns 1 into it when a column has gaps


def label_names(
    columns: Sequence[str],
    cells: Sequence[Sequence[Any]],
    separator: str | None,
    *,
    places: Places,
    keep_empty: bool = False,
) -> tuple[list[tuple[str, ...]], bool]:
    """The sorted label names of each row, and whether rows are multi-label.

    `cells` holds one sequence (N,) for each of `columns`. Equal rows share one tuple. Raises DataError on a missing
    label, an indicator that is not 0 or 1, and lists mixed with single values. With `keep_empty` a missing label is no
    error: it is () in single-label rows, `UNLABELLED` in multi-label rows.
    """
    if len(columns) > 1:
        return indicated(columns, cells, places), True
    column, values = columns[0], unwrapped(cells[0])
    if separator is not None:
        return delimited(column, values, separator, places, keep_empty=keep_empty), True
    listed = [isinstance(value, LISTS) for value in values]
    if not any(listed):
        try:
            present([] if keep_empty else values, column, places)
        except DataError as error:
            mark = next(
                (mark for mark in SEPARATORS if any(mark in value for value in values if isinstance(value, str))), None
            )
            hint = f"; if a row may have several labels joined by {mark!r}, or none: --separator {mark!r}"
            raise DataError(f"{error} (--drop-empty){hint if mark else ''}") from error
        return shared([only_name(value, i, places) for i, value in enumerate(values)]), False
    return from_lists(column, values, listed, places, keep_empty=keep_empty), True


def only_name(value: Any, i: int, places: Places) -> tuple[str, ...]:
    """The label of row i as a tuple of one name; () if the cell is empty."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return () if is_missing(value) else (name_of(value, places([i])),)


def indicated(columns: Sequence[str], cells: Sequence[Sequence[Any]], places: Places) -> list[tuple[str, ...]]:
    """The names of the columns that hold 1, per row."""
    flags = np.zeros((len(cells[0]), len(columns)), dtype=bool)  # (N, C)
    for j, (column, values) in enumerate(zip(columns, cells, strict=True)):
        meaning: dict[str, bool | None] = {}  # distinct value -> what it indicates
        for i, value in enumerate(values):
            word = str(value)
            if word not in meaning:
                meaning[word] = indicates(word)
            if meaning[word] is None:
                raise DataError(
                    f"{places([i])}: label column {column!r} holds {shortened(value)}; write 0 or 1 in each of its cells"
                )
            flags[i, j] = meaning[word]
    order: list[int] = np.argsort(np.array(columns)).tolist()
    names = [str(columns[j]) for j in order]
    return shared([tuple(names[j] for j in np.flatnonzero(row)) for row in flags[:, order]])


def indicates(word: str) -> bool | None:
    """Whether a cell holds 1 (True) or 0 (False); None if it is neither."""
    said = word.strip().lower()
    return True if said in YES else False if said in NO else None


def delimited(
    column: str, values: Sequence[Any], separator: str, places: Places, *, keep_empty: bool
) -> list[tuple[str, ...]]:
    """The names between separators, per row. An empty string means no labels.

    A missing cell is an error; with `keep_empty` it is `UNLABELLED`.
    """
    rows: list[tuple[str, ...]] = []
    for i, value in enumerate(values if keep_empty else present(values, column, places, empty=True)):
        if not isinstance(value, str) and is_missing(value):
            rows.append(UNLABELLED)
            continue
        names = [name.strip() for name in str(value).split(separator)] if str(value).strip() else []
        if isinstance(value, (dict, *LISTS)) or "" in names:
            raise DataError(
                f"{places([i])}: label column {column!r} holds {shortened(value)}; "
                f"write names joined by {separator!r}, none of them empty"
            )
        rows.append(tuple(sorted(set(names))))
    return shared(rows)


def from_lists(
    column: str, values: Sequence[Any], listed: list[bool], places: Places, *, keep_empty: bool
) -> list[tuple[str, ...]]:
    """The names in the list of each row. An empty list means no labels.

    A missing cell is an error; with `keep_empty` it is `UNLABELLED`.
    """
    if not keep_empty:
        present(values, column, places)
    absent = [not is_list and is_missing(value) for is_list, value in zip(listed, values, strict=True)]
    wrong = [i for i in range(len(values)) if not listed[i] and not absent[i]]
    if wrong:
        i = wrong[0]
        raise DataError(
            f"{places([i])}: label column {column!r} holds {shortened(values[i])} where other rows hold lists; "
            "write a list"
        )
    rows: list[tuple[str, ...]] = []
    for i, value in enumerate(values):
        if absent[i]:
            rows.append(UNLABELLED)
            continue
        if any(is_missing(name) for name in value):
            raise DataError(
                f"{places([i])}: label column {column!r} holds an empty name in {shortened(list(value))}; remove it"
            )
        rows.append(tuple(sorted({name_of(name, places([i])) for name in value})))
    return shared(rows)


def present(values: Sequence[Any], column: str, places: Places, *, empty: bool = False) -> Sequence[Any]:
    """The values unchanged. Raises DataError if some are missing, with their number and places. `empty` allows ""."""
    absent = [i for i, value in enumerate(values) if is_missing(value) and not (empty and isinstance(value, str))]
    if absent:
        count = f"{len(absent)} rows have" if len(absent) > 1 else "the row has"
        raise DataError(f"{places(absent)}: {count} nothing in column {column!r}; fill it in or remove the row")
    return values


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or a string without anything but white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def name_of(value: Any, place: str) -> str:
    """A cell as a string: 5 -> '5', 5.0 -> '5.0', True -> 'True'. Raises DataError on a list, dict or bytes."""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, bytes, *LISTS)):
        remedy = "cast the column to string" if isinstance(value, bytes) else "give text or a number"
        kind = "bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
        raise DataError(f"{place} holds {shortened(value)}, {kind}; {remedy}")
    return str(value)


def shortened(value: Any) -> str:
    """The cell as errors show it, cut to 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def shared(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The same rows, with equal ones as one object: a million labels then take little memory."""
    memo: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [memo.setdefault(row, row) for row in rows]
