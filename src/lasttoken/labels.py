"""The label space: which names exist, and which column each one owns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken.errors import DataError
from lasttoken.wording import closest

NOTHING = -1  # column of a single-label decision whose answer is no label


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of label names. Column j of every (N, C) array in this package is `names[j]`.

    With `multi=False` a text has exactly one label and its probabilities sum to one.
    With `multi=True` it has any number of labels and each column stands alone.
    """

    names: tuple[str, ...]
    multi: bool = False

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise DataError(f"a label space needs two names or more, got {list(self.names)}")
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise DataError(f"label names must differ; given twice: {twice}")

    @classmethod
    def of(cls, labels: Iterable[str], multi: bool = False) -> LabelSpace:
        """The space of the names seen in `labels`, in sorted order, so that a shuffle changes nothing."""
        return cls(tuple(sorted(set(labels))), multi)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Sequence[str]) -> np.ndarray:
        """Names (N,) -> columns (N,) int64. Raises DataError on a name outside the space."""
        column = {name: j for j, name in enumerate(self.names)}
        unknown = sorted(set(labels) - column.keys())
        if unknown:
            raise DataError(self.outside(unknown))
        return np.array([column[name] for name in labels], dtype=np.int64)

    def encode_sets(self, labels: Sequence[Iterable[str]]) -> np.ndarray:
        """Sets of names, one per row -> indicator (N, C) bool. Raises DataError on a name outside the space."""
        column = {name: j for j, name in enumerate(self.names)}
        unknown = sorted({name for row in labels for name in row} - column.keys())
        if unknown:
            raise DataError(self.outside(unknown))
        targets = np.zeros((len(labels), len(self)), dtype=bool)
        for i, row in enumerate(labels):
            for name in row:
                targets[i, column[name]] = True
        return targets

    def decode(self, columns: np.ndarray) -> list[str]:
        """Columns (N,) -> names (N,), "" for NOTHING. The inverse of `encode`."""
        return ["" if j == NOTHING else self.names[j] for j in columns]

    def decode_sets(self, targets: np.ndarray) -> list[tuple[str, ...]]:
        """Indicator (N, C) bool -> names per row, in column order. The inverse of `encode_sets`."""
        return [tuple(self.names[j] for j in np.flatnonzero(row)) for row in targets]

    def outside(self, unknown: Sequence[str]) -> str:
        """Error text for labels outside this space, with the closest known name."""
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(repr(name) for name in self.names[:10]) + (", ..." if len(self) > 10 else "")
        meant = closest(unknown[0], self.names)
        hint = f"; did you mean {meant!r} for {unknown[0]!r}?" if meant else ""
        return f"{len(unknown)} unknown label(s) {shown}; known are {known}{hint}"


def is_indicator(targets: np.ndarray) -> bool:
    """Whether targets are of rows with any number of labels, (N, C) bool. Shares of labels, (N, C) float, are not."""
    return targets.ndim == 2 and targets.dtype == bool
