"""Texts with their targets: what methods train on and metrics compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken.hierarchy import Above, Hierarchy
from lasttoken.labels import LabelSpace


@dataclass(frozen=True, eq=False)
class Dataset:
    """N texts with their targets in one label space. Row order never changes."""

    ids: Sequence[str]  # (N,), unique
    texts: Sequence[str]  # (N,)
    targets: np.ndarray  # (N,) int64 columns when single-label, (N, C) bool when multi-label
    labels: LabelSpace

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Dataset:
        """The dataset of the rows (M,) int, in that order."""
        chosen: list[int] = rows.tolist()
        ids, texts = [self.ids[i] for i in chosen], [self.texts[i] for i in chosen]
        return Dataset(ids, texts, self.targets[rows], self.labels)


UNLABELLED = ("",)  # labels of a multi-label row whose cell is missing (an empty set is ())


@dataclass(frozen=True, eq=False)
class Rows:
    """What a source holds, before it is split and before a label space exists."""

    ids: list[str]  # (N,), unique; the row's number from 0 where no id column is named
    texts: list[str]  # (N,)
    labels: list[tuple[str, ...]] | None  # (N,) names of each row; one name each when single-label; None: not asked for
    multi: bool  # a row may hold any number of labels
    groups: list[str] | None = None  # (N,) rows of one group never cross a split
    splits: list[str] | None = None  # (N,) "train", "valid" or "test", from a split column
    told: tuple[str, ...] = ()  # warnings from reading the source

    def __len__(self) -> int:
        return len(self.ids)

    def has_text(self, i: int) -> bool:
        """Whether row i holds more than white space."""
        return bool(self.texts[i].strip())

    def has_label(self, i: int) -> bool:
        """Whether row i is labelled. A multi-label row may have the empty set, but not a missing cell."""
        if self.labels is None:
            return True
        return self.labels[i] != UNLABELLED if self.multi else bool(self.labels[i])

    def take(self, kept: Sequence[int]) -> Rows:
        """The rows at these places, in that order."""

        def of(values: list[Any]) -> list[Any]:
            return [values[i] for i in kept]

        columns = (self.labels, self.groups, self.splits)
        labels, groups, splits = (None if column is None else of(column) for column in columns)
        return Rows(of(self.ids), of(self.texts), labels, self.multi, groups, splits, self.told)


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a problem. The label space is that of train; valid and test live inside it.

    With folds (data/folds.py) train and valid are all rows, and test are those that the folds judge, one fold each.
    """

    train: Dataset
    valid: Dataset
    test: Dataset
    origin: str  # one sentence: how the parts were made, seed included
    doubts: tuple[str, ...] = ()  # warnings of quick_checks
    hierarchy: Hierarchy | None = None  # of the labels
    folds: tuple[Splits, ...] = ()  # of a cross-validation; empty where test is a part of its own

    @property
    def fold_of(self) -> np.ndarray | None:
        """The fold that judges each row of test, from 0: (N,) int64; None without folds."""
        place = {row: number for number, fold in enumerate(self.folds) for row in fold.test.ids}
        return np.array([place[row] for row in self.test.ids], dtype=np.int64) if self.folds else None

    @property
    def labels(self) -> LabelSpace:
        return self.train.labels

    @property
    def above(self) -> Above:
        """The columns above each label, where rows may hold several; none where there is no hierarchy."""
        return self.hierarchy.columns(self.labels) if self.hierarchy and self.labels.multi else ()

    @property
    def summary(self) -> str:
        """Rows of each part and how the parts were made, in a sentence."""
        if self.folds:
            return f"{len(self.test)} rows, each judged once; {self.origin}"
        return f"{len(self.train)} train, {len(self.valid)} valid, {len(self.test)} test rows; {self.origin}"
