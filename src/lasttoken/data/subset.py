"""Fewer training rows, for learning curves: every label kept, shares of labels kept, and a smaller set inside each larger one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.errors import DataError
from lasttoken.seed import generator


def with_fewer(splits: Splits, rows: int, *, seed: int) -> Splits:
    """`splits` with `rows` of its training rows; validation and test rows stay. Raises DataError on too many or too few."""
    if splits.folds:
        raise DataError("a cross-validation trains on all rows; leave the number of training rows out, or the folds")
    train = splits.train
    if rows > len(train):
        raise DataError(f"{rows:,} training rows are asked for, there are {len(train):,}; ask for fewer")
    order, needed = nested_order(train, seed=seed)
    if rows < needed:
        raise DataError(
            f"{rows:,} training rows are asked for, but {needed:,} are needed for each of the {len(train.labels)} labels "
            "to have one; ask for more"
        )
    kept = train.take(np.sort(order[:rows]))
    return replace(splits, train=kept, origin=f"{splits.origin}; {rows:,} of {len(train):,} training rows, seed {seed}")


def nested_order(train: Dataset, *, seed: int) -> tuple[np.ndarray, int]:
    """(rows (N,) in the order in which they join, how many it takes until every label is there).

    First come rows that cover the labels, in any order; then the others, so that at every size each label has
    about its share. A row of several labels counts for its rarest.
    """
    rng = generator(seed, "order of growing training sets")
    shuffled = rng.permutation(len(train))
    member = (
        train.targets[shuffled]
        if train.labels.multi
        else np.eye(len(train.labels), dtype=bool)[train.targets[shuffled]]
    )
    counts = member.sum(axis=0)
    chosen: list[int] = []
    covered = counts == 0  # a label without rows asks for none
    for label in np.argsort(counts, kind="stable").tolist():
        if not covered[label]:
            row = int(np.flatnonzero(member[:, label])[0])
            chosen.append(row)
            covered |= member[row]
    rarest = np.where(member, counts, len(train) + 1).argmin(axis=1)  # rows without a label fall to label 0
    place = np.empty(len(train))
    for label in np.unique(rarest):
        rows = np.flatnonzero(rarest == label)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    place[chosen] = -1
    return shuffled[np.argsort(place, kind="stable")], len(chosen)
