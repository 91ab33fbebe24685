"""Cross-validation: rows into folds, each judged by a model that is trained and tuned on the other folds.

Folds are stratified and keep groups whole, as splits do. The rows outside a fold are divided once more into train and
valid, so that early stopping, calibration and thresholds never see the fold. A label that a single group of rows holds
cannot be both learnt and judged: that group is trained on in every fold and judged in none.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lasttoken.data.dataset import Rows, Splits
from lasttoken.data.split import (
    assembled,
    check_several_groups,
    check_singles,
    dataset_of,
    shared_out,
    too_few,
    truths,
    way_of,
)
from lasttoken.data.stratify import Memberships, rows_of_labels
from lasttoken.errors import DataError
from lasttoken.seed import generator
from lasttoken.wording import counted

PASSES = 20  # over the labels, in search of folds that leave every label to train on


def make_folds(rows: Rows, folds: int, *, seed: int, valid: float = 0.1) -> Splits:
    """All rows as train and valid of the final model; `test` holds the rows that `folds` judge, one Splits a fold.

    folds: how many, 2 or more. valid: share of all rows that chooses calibration, thresholds and early stopping, in
    every fold and of the final model. All folds share one label space. Raises DataError where too few rows or groups
    are there, or where the source names its parts.
    """
    if rows.splits is not None:
        raise DataError(
            "the source says which rows are train, valid or test, and cross-validation judges every row; leave folds "
            "out, or the split column"
        )
    if folds < 2 or not 0 < valid < 1 - 1 / folds:
        raise DataError(
            f"{folds} folds and valid {valid:g}: two folds or more, and a share that leaves rows to train on"
        )
    check_singles(rows, truths(rows), np.full(len(rows), "train"))
    check_several_groups(rows.groups)
    fold = fold_numbers(rows, folds, seed)
    origin = f"{folds}-fold cross-validation, {way_of(rows)}, seed {seed}"
    made = []
    for number in range(folds):
        parts = np.where(fold == number, "test", "train")
        parts = with_valid(rows, parts, valid, rng=generator(seed, f"validation of fold {number}"))
        made.append(assembled(rows, parts, f"fold {number + 1} of {folds}-fold cross-validation"))
    final = with_valid(rows, np.full(len(rows), "train"), valid, rng=generator(seed, "validation of the final model"))
    whole = assembled(rows, final, origin)
    if (fold < 0).any():
        other = "row" if rows.groups is None else "group"
        told = counted(int((fold < 0).sum()), "row is", "rows are")
        origin += f"; {told} trained on and never judged, since no other {other} has a label of theirs"
    judged = dataset_of(rows, np.flatnonzero(fold >= 0).tolist(), whole.labels)
    return replace(whole, test=judged, origin=origin, folds=tuple(made))


def fold_numbers(rows: Rows, folds: int, seed: int) -> np.ndarray:
    """The fold that judges each row, from 0; -1 for rows that are judged in none. (N,) int64. Raises DataError."""
    named = truths(rows)
    column = {name: j for j, name in enumerate(sorted({name for names in named for name in names}))}
    memberships = [[column[name] for name in names] for names in named]
    number = {group: i for i, group in enumerate(dict.fromkeys(rows.groups or rows.ids))}
    groups = np.array([number[group] for group in rows.groups or rows.ids])
    pinned = [int(groups[held[0]]) for held in held_by(memberships) if (groups[held] == groups[held[0]]).all()]
    fold = np.full(len(rows), -1)
    pool = np.flatnonzero(~np.isin(groups, pinned))
    if len(set(groups[pool])) < folds:
        raise DataError(f"{too_few_groups(rows, pool)} cannot be divided into {folds} folds; ask for fewer folds")
    fold[pool] = shared_out(
        [named[i] for i in pool],
        None if rows.groups is None else [rows.groups[i] for i in pool],
        [1 / folds] * folds,
        multi=rows.multi,
        rng=generator(seed, "folds"),
        train=False,
    )
    return with_labels_apart(memberships, groups, fold, folds)


def held_by(memberships: Memberships) -> list[np.ndarray]:
    """The rows that hold each label column."""
    return [np.array(held) for held in rows_of_labels(memberships, range(len(memberships))) if held]


def too_few_groups(rows: Rows, pool: np.ndarray) -> str:
    """How many rows, in how many groups, there are to divide."""
    several = "" if rows.groups is None else f" in {counted(len({rows.groups[i] for i in pool}), 'group', 'groups')}"
    return f"{counted(len(pool), 'row', 'rows')}{several}"


def with_labels_apart(memberships: Memberships, groups: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """The same folds (N,), after groups have moved so that no label has all its rows in one fold. Raises DataError.

    The smallest group that holds such a label moves to the smallest other fold, until every label is in two folds.
    """
    fold, held = fold.copy(), held_by(memberships)
    sizes = np.bincount(groups)
    for _ in range(PASSES):
        alone = [rows for rows in held if fold[rows[0]] >= 0 and (fold[rows] == fold[rows[0]]).all()]
        counts = np.bincount(fold[fold >= 0], minlength=folds)
        if not alone and counts.all():
            return fold
        for rows in alone:
            smallest = min(set(groups[rows].tolist()), key=lambda group: (sizes[group], group))
            counts = np.bincount(fold[fold >= 0], minlength=folds)
            counts[fold[rows[0]]] = len(fold) + 1  # not where it is
            fold[groups == smallest] = counts.argmin()
    raise DataError(
        f"{counted(len(fold), 'row', 'rows')} in {counted(len(sizes), 'group', 'groups')} cannot be divided into {folds} "
        "folds of which none holds all rows of a label; ask for fewer folds, or merge rare labels"
    )


def with_valid(rows: Rows, parts: np.ndarray, valid: float, *, rng: np.random.Generator) -> np.ndarray:
    """The parts (N,), with `valid` of all rows taken from train. Raises DataError where train or valid would be empty."""
    named, pool = truths(rows), np.flatnonzero(parts == "train")
    groups = None if rows.groups is None else [rows.groups[i] for i in pool]
    share = valid * len(rows) / len(pool)
    made = shared_out([named[i] for i in pool], groups, (1 - share, share), multi=rows.multi, rng=rng)
    parts = parts.astype("<U5")
    parts[pool] = np.array(["train", "valid"])[made]
    if set(made.tolist()) != {0, 1}:
        raise DataError(f"{too_few(rows, len(pool))}: valid would be empty; give more rows, or ask for fewer folds")
    return parts
