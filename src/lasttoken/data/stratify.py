"""Rows into parts so that every part resembles the whole: which row goes where, and nothing about files or errors.

Three ways, by what the rows are. Without groups, one label each: every class is shared out by itself and is at most
one row per part off its share. Without groups, any number of labels: iterative stratification. With groups: whole
groups, large ones first, each to the part that lacks most of what it holds. All give part numbers (N,). Part 0 is
train, and every label that any row has is found in it; with train=False all parts are alike (folds.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

Memberships = Sequence[Sequence[int]]  # (N,) the label columns of each row


def stratified(
    columns: np.ndarray, shares: Sequence[float], rng: np.random.Generator, *, train: bool = True
) -> np.ndarray:
    """Parts (N,) for rows of one class each, `columns` (N,): each class holds floor or ceil of its share in each part.

    What rounding leaves over goes where the parts so far are furthest below their shares, so that sizes come out too.
    """
    share = np.asarray(shares)
    parts = np.zeros(len(columns), dtype=np.int64)
    lacking = np.zeros(len(share))  # rows that each part is still owed by the classes shared out so far
    for column in np.unique(columns):
        rows = rng.permutation(np.flatnonzero(columns == column))
        owed = share * len(rows)
        counts = np.floor(owed + 1e-9).astype(np.int64)  # .7 * 10 is 6.999...: a whole share is whole
        lacking += owed - counts
        spare = len(rows) - counts.sum()
        for part in np.argsort(-lacking, kind="stable"):
            if spare and owed[part] > counts[part] + 1e-9:
                counts[part] += 1
                lacking[part] -= 1
                spare -= 1
        if train and counts[0] == 0:
            giver = int(counts.argmax())
            counts[[0, giver]] += 1, -1
            lacking[[0, giver]] += -1, 1
        parts[rows] = np.repeat(np.arange(len(share)), counts)
    return parts


def iterative(
    memberships: Memberships, shares: Sequence[float], rng: np.random.Generator, *, train: bool = True
) -> np.ndarray:
    """Parts (N,) for rows of any number of labels: the rarest label first, each row to the part that lacks it most.

    Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-label Data", algorithm 1. Rows that hold no
    label come last and go where rows are lacking. A label that train was not given is moved there afterwards.
    """
    order = rng.permutation(len(memberships)).tolist()
    holders = rows_of_labels(memberships, order)
    left = np.array([len(rows) for rows in holders])  # (C,) rows not yet placed that hold the label
    lacking = [[share * len(rows) for share in shares] for rows in holders]  # (C, parts)
    rows_lacking = [share * len(memberships) for share in shares]  # (parts,)
    parts = np.full(len(memberships), -1)

    def place(row: int, of_label: Sequence[float]) -> None:
        draws = rng.random(len(shares)).tolist()  # decides where all else is equal
        part = max(range(len(shares)), key=lambda p: (of_label[p], rows_lacking[p], draws[p]))
        parts[row] = part
        rows_lacking[part] -= 1
        for column in memberships[row]:
            lacking[column][part] -= 1
            left[column] -= 1

    while left.any():
        rarest = int(np.where(left > 0, left, len(memberships) + 1).argmin())
        for row in holders[rarest]:
            if parts[row] < 0:
                place(row, lacking[rarest])
    for row in order:
        if parts[row] < 0:
            place(row, rows_lacking)
    return labels_in_train(memberships, np.arange(len(memberships)), parts) if train else parts


def grouped(
    memberships: Memberships,
    groups: np.ndarray,
    shares: Sequence[float],
    rng: np.random.Generator,
    *,
    train: bool = True,
) -> np.ndarray:
    """Parts (N,) for rows in `groups` (N,) int from 0, of any number of labels: no group is in two parts.

    Each group goes where sum(held * lacking / total) is largest, over its labels and over all rows as one label more:
    the part whose squared distance to its share, per total, falls most. No part stays empty while groups are left.
    """
    sizes = np.bincount(groups)  # (G,)
    everything = 1 + max((column for row in memberships for column in row), default=-1)  # column of "any row"
    held = [Counter({everything: int(size)}) for size in sizes]
    for group, row in zip(groups.tolist(), memberships, strict=True):
        held[group].update(row)
    share = np.asarray(shares)
    totals = np.zeros(everything + 1)
    for counts in held:
        totals[list(counts)] += list(counts.values())
    lacking = totals[:, None] * share  # (C + 1, parts)

    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    part_of, used = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(share), dtype=bool)
    for done, group in enumerate(order):
        columns, counts = list(held[group]), np.array(list(held[group].values()))[:, None]
        gain = (counts * lacking[columns] / totals[columns][:, None]).sum(axis=0)  # (parts,)
        if (~used).sum() >= len(order) - done:
            gain[used] = -np.inf
        part_of[group] = part = int(gain.argmax())
        used[part] = True
        lacking[columns, part] -= counts[:, 0]
    parts = part_of[groups]
    return labels_in_train(memberships, groups, parts) if train else parts


def rows_of_labels(memberships: Memberships, order: Sequence[int]) -> list[list[int]]:
    """The rows that hold each label column, in `order`."""
    holders: list[list[int]] = [
        [] for _ in range(1 + max((column for row in memberships for column in row), default=-1))
    ]
    for row in order:
        for column in memberships[row]:
            holders[column].append(row)
    return holders


def labels_in_train(memberships: Memberships, groups: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The same parts, after the smallest group that holds a label which train (part 0) lacks has moved there."""
    sizes = np.bincount(groups)
    for rows in rows_of_labels(memberships, range(len(memberships))):
        if rows and (parts[rows] != 0).all():
            smallest = min((int(groups[row]) for row in rows), key=lambda group: (sizes[group], group))
            parts[groups == smallest] = 0
    return parts
