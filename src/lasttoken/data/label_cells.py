"""From the cells of a table to the label names of each row.

Which of four shapes the truth has is told by the caller where it can be (several columns; a separator) and by the
cells where they leave no doubt (lists, or single values). Names stay as they are, but for white space around separators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lasttoken.data.dataset import UNLABELLED
from lasttoken.data.label_tools import unwrapped
from lasttoken.errors import DataError

LISTS = (list, tuple, set, frozenset, np.ndarray)
Places = Callable[[list[int]], str]  # indices of rows -> how errors name them
SEPARATORS = (";", "|", ",", "#", " / ")  # between several labels in a cell, as people write them
YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}  # 1.0 is what a merge makes of a 1


def label_names(
    columns: Sequence[str],
    cells: Sequence[Sequence[Any]],
    separator: str | None,
    *,
    places: Places,
    keep_empty: bool = False,
) -> tuple[list[tuple[str, ...]], bool]:
    """The names of each row, sorted, and whether a row may hold any number of them.

    `cells` holds one sequence (N,) for each of `columns`. Equal rows share one tuple. Raises DataError on a missing
    label, an indicator that is not 0 or 1, and lists mixed with single values. `keep_empty` gives a row that lacks its
    only label an empty tuple instead, and one whose cell of several is missing `UNLABELLED`.
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
            hint = f"; if {mark!r} stands between several labels of a row, which may have none: --separator {mark!r}"
            raise DataError(f"{error} (--drop-empty){hint if mark else ''}") from error
        return shared([only_name(value, i, places) for i, value in enumerate(values)]), False
    return from_lists(column, values, listed, places, keep_empty=keep_empty), True


def only_name(value: Any, i: int, places: Places) -> tuple[str, ...]:
    """The name in a cell of row i, or none."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return () if is_missing(value) else (name_of(value, places([i])),)


def indicated(columns: Sequence[str], cells: Sequence[Sequence[Any]], places: Places) -> list[tuple[str, ...]]:
    """Names of the columns that hold 1, per row."""
    flags = np.zeros((len(cells[0]), len(columns)), dtype=bool)  # (N, C)
    for j, (column, values) in enumerate(zip(columns, cells, strict=True)):
        meaning: dict[str, bool | None] = {}  # of what the cells hold, which is little however many they are
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
    """What a cell says of its column's label: yes, no, or None where it is no indicator."""
    said = word.strip().lower()
    return True if said in YES else False if said in NO else None


def delimited(
    column: str, values: Sequence[Any], separator: str, places: Places, *, keep_empty: bool
) -> list[tuple[str, ...]]:
    """Names between separators, per row. A string without a name is the empty set; a missing cell is an error."""
    rows: list[tuple[str, ...]] = []
    for i, value in enumerate(values if keep_empty else present(values, column, places, empty=True)):
        if not isinstance(value, str) and is_missing(value):
            rows.append(UNLABELLED)
            continue
        names = [name.strip() for name in str(value).split(separator)] if str(value).strip() else []
        if isinstance(value, (dict, *LISTS)) or "" in names:
            raise DataError(
                f"{places([i])}: label column {column!r} holds {shortened(value)}; "
                f"names are joined by {separator!r} and none is empty"
            )
        rows.append(tuple(sorted(set(names))))
    return shared(rows)


def from_lists(
    column: str, values: Sequence[Any], listed: list[bool], places: Places, *, keep_empty: bool
) -> list[tuple[str, ...]]:
    """Names in lists, per row. An empty list is the empty set; a missing cell is an error."""
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
                f"{places([i])}: label column {column!r} holds an empty name in {shortened(list(value))}; take it out"
            )
        rows.append(tuple(sorted({name_of(name, places([i])) for name in value})))
    return shared(rows)


def present(values: Sequence[Any], column: str, places: Places, *, empty: bool = False) -> Sequence[Any]:
    """The same values. Raises DataError where some are missing, naming how many and the first; `empty` allows ''."""
    absent = [i for i, value in enumerate(values) if is_missing(value) and not (empty and isinstance(value, str))]
    if absent:
        count = f"{len(absent)} rows have" if len(absent) > 1 else "the row has"
        raise DataError(f"{places(absent)}: {count} nothing in column {column!r}; fill it in or remove the row")
    return values


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or a string that is empty or white space alone."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def name_of(value: Any, place: str) -> str:
    """A cell as a name: 5 -> '5', 5.0 -> '5.0', True -> 'True'. Raises DataError on what is no single value."""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, bytes, *LISTS)):
        raise DataError(f"{place} holds {shortened(value)}, a {type(value).__name__}; give text or a number")
    return str(value)


def shortened(value: Any) -> str:
    """The cell as an error shows it, at most some 60 characters of it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def shared(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The same rows, where equal ones are one object, so that a million labels cost little."""
    memo: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [memo.setdefault(row, row) for row in rows]
