"""Convert texts and labels passed from Python: lists, arrays, data frames, Arrow arrays, sparse matrices.

Texts become a list of strings, labels an array of targets. Anything else is an error before fitting begins. A table of
one column is used as that column. pandas, polars and pyarrow are recognised by their attributes, never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from lasttoken.data.dataset import Dataset
from lasttoken.data.label_cells import shortened
from lasttoken.data.split import shared_out
from lasttoken.errors import DataError
from lasttoken.labels import LabelSpace
from lasttoken.seed import generator

LISTS = (list, tuple, set, frozenset)


def as_texts(texts: Any) -> list[str]:
    """The texts as a list of strings. Raises DataError on a single string, or on an element that is not a string."""
    if sparse.issparse(texts):
        raise DataError("texts must be strings, got a sparse matrix; give the texts themselves, not their features")
    columns = width(texts)
    if columns is not None and columns != 1:  # iterating a data frame would give its column names
        raise DataError(f"texts must be one column, got {columns}; pass one, or join them into one first")
    found = [str(text) if isinstance(text, str) else text for text in listed(texts, "texts")]
    for i, text in enumerate(found):
        if not isinstance(text, str):
            hint = "decode it first: text.decode()" if isinstance(text, bytes) else "drop or fill such rows"
            raise DataError(f"text {i} is {shortened(text)}, not a string; {hint}")
        check_characters(text, f"text {i}")
    return found


def encoded(labels: Any, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Classes (C,) and targets: (N,) int64 with one label per text, (N, C) bool with any number.

    The classes of an indicator matrix are the column names of a data frame, else 0, 1, ..., C - 1. With `classes`
    given, the labels must be among them. Raises DataError.
    """
    if sparse.issparse(labels):
        return indicated(labels.toarray(), None, classes)
    columns = width(labels)
    if columns is not None and columns != 1:
        names = getattr(labels, "columns", None)  # a data frame's
        return indicated(np.asarray(labels, dtype=object), None if names is None else list(names), classes)
    found = listed(labels, "labels")
    if any(isinstance(row, LISTS) for row in found):
        return from_flags(found, classes) if are_flags(found) else from_sets(found, classes)
    return from_names(found, classes)


def from_names(found: list[Any], classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes and targets (N,) int64 from one label per text."""
    if any(missing(label) for label in found):
        raise DataError("some labels are None or NaN; drop or fill such rows")
    kinds = {"text" if isinstance(label, str) else "bytes" if isinstance(label, bytes) else "other" for label in found}
    if "bytes" in kinds:
        raise DataError("some labels are bytes; decode them first: label.decode()")
    if len(kinds) > 1:
        raise DataError("some labels are text and some are not; write all of them as text, or none")
    values = np.empty(len(found), dtype=object)
    try:
        values = np.asarray(found)
        known = np.unique(values) if classes is None else classes
        column = {name: j for j, name in enumerate(known)}
        targets = [column.get(value) for value in values]
    except (TypeError, ValueError) as error:
        raise DataError(f"labels such as {shortened(found[0])} are neither names nor numbers; give text") from error
    check_classes(known)
    unknown = {str(value) for value, target in zip(values, targets, strict=True) if target is None}
    if unknown:
        raise DataError(f"validation labels {sorted(unknown)[:5]} are not among the training labels")
    return known, np.array(targets, dtype=np.int64)


def from_sets(found: list[Any], classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sorted classes and targets (N, C) bool from a list of names per text."""
    for number, row in enumerate(found):
        if not isinstance(row, LISTS) or not all(isinstance(name, str) and name for name in row):
            raise DataError(
                f"the labels of text {number} are {row!r}, but other texts have lists of names; give a list of names, "
                "[] for a text without labels"
            )
    known = np.array(sorted({name for row in found for name in row})) if classes is None else classes
    check_classes(known)
    return known, LabelSpace(tuple(known.tolist()), multi=True).encode_sets(found)


def are_flags(found: list[Any]) -> bool:
    """Whether rows form an indicator matrix: lists of equal length, without text or missing values."""
    if not all(isinstance(row, list | tuple) for row in found) or len({len(row) for row in found}) > 1:
        return False
    return any(found) and not any(isinstance(value, str) or missing(value) for row in found for value in row)


def from_flags(found: list[Any], classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Classes and targets from rows of numbers: an indicator matrix, or labels if each row has one number."""
    if len(found[0]) == 1:
        return from_names([row[0] for row in found], classes)
    return indicated(np.array(found, dtype=object), None, classes)


def indicated(values: np.ndarray, names: list[Any] | None, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Classes and targets (N, C) bool from an indicator matrix (N, C). names: of its columns, if they have any."""
    if any(missing(value) for value in values.ravel()):
        raise DataError("some labels are None or NaN; drop or fill such rows")
    if values.ndim != 2 or not np.isin(values, (0, 1)).all():
        raise DataError("labels with two dimensions must be 0 or 1, one column per label")
    if values.shape[1] == 1:
        return from_names(values[:, 0].tolist(), classes)
    targets = values.astype(bool)
    if names is None:
        return np.arange(values.shape[1]) if classes is None else classes, targets
    if classes is None:
        known = np.array(names if all(isinstance(name, str) for name in names) else [str(name) for name in names])
        check_classes(known)
        return known, targets
    place = {str(name): j for j, name in enumerate(names)}
    wanted = [str(name) for name in classes]
    if place.keys() == set(wanted):
        return classes, targets[:, [place[name] for name in wanted]]
    if wanted == [str(j) for j in range(len(names))]:  # the training columns had no names
        return classes, targets
    raise DataError(
        f"the label columns are {list(place)[:5]}, but those of training were {wanted[:5]}; give the same columns"
    )


def check_classes(known: Collection[Any]) -> None:
    """Raise DataError unless there are two classes or more, with different names that UTF-8 can encode."""
    names = [str(name) for name in known]
    if len(names) < 2:
        raise DataError(f"labels hold {len(names)} class(es): {names}; two or more are needed")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two classes are named {twice!r}; give every class its own name")
    for name in names:
        check_characters(name, f"label {name!r}")


def check_characters(text: str, what: str) -> None:
    """Raise DataError if text has a lone surrogate: half a character, which tokenizers and UTF-8 cannot encode."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise DataError(f"{what} holds \\u{half:x}, which is half a character; write the pair or remove it") from error


def listed(values: Any, what: str) -> list[Any]:
    """The values of a list, array, series, Arrow array, iterator or one-column table, as a list.

    Raises DataError on a single value, a mapping or a set.
    """
    if isinstance(values, str | bytes):
        raise DataError(f"{what} must be a list of strings, got one string; put it into a list")
    if isinstance(values, Mapping | set | frozenset):
        raise DataError(f"{what} must be a list, got a {type(values).__name__}; put its values into a list, in order")
    if width(values) == 1:
        values = np.asarray(values, dtype=object)[:, 0]
    as_list: Callable[[], list[Any]] | None = getattr(values, "to_pylist", None)  # Arrow's
    try:
        found = list(values) if as_list is None else as_list()
    except TypeError as error:
        raise DataError(f"{what} must be a list, got {shortened(values)}; put it into a list") from error
    return [plain(value) for value in found]


def plain(value: Any) -> Any:
    """An array as a list, or as a number if it has no dimensions; any other value unchanged."""
    if isinstance(value, np.ndarray) or (getattr(value, "shape", None) == () and not isinstance(value, np.generic)):
        return value.tolist()
    return value


def width(values: Any) -> int | None:
    """The number of columns of a table; None for one-dimensional values. Raises DataError on other dimensions."""
    shape = getattr(values, "shape", None)
    if not isinstance(shape, tuple) or len(shape) == 1:
        return None
    if len(shape) != 2:
        raise DataError(f"an array of {len(shape)} dimensions is not a list; give one value per row")
    return shape[1]


def missing(value: Any) -> bool:
    """Whether a label is missing: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)  # true of NaN and NaT; NA raises TypeError
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def dataset(texts: list[str], targets: np.ndarray, space: LabelSpace) -> Dataset:
    """The rows as a Dataset, with ids from 0. Raises DataError if the numbers of texts and labels differ."""
    if len(texts) != len(targets):
        raise DataError(f"{len(texts)} texts and {len(targets)} labels; give one label, or one row of labels, per text")
    return Dataset([str(i) for i in range(len(texts))], texts, targets, space)


def held_out(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (N,) bool of the validation rows, stratified by label. Raises DataError if there are too few rows."""
    names = [tuple(map(str, np.flatnonzero(row))) if targets.ndim == 2 else (str(row),) for row in targets]
    parts = shared_out(names, None, (1 - share, share), multi=targets.ndim == 2, rng=generator(seed, "split"))
    if not (parts == 1).any():
        raise DataError(
            f"{len(targets)} rows are too few to hold out {share:.0%} for validation; give valid=(texts, labels)"
        )
    return parts == 1
