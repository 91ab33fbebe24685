"""Split rows into train, valid and test: as the source says, from one file each, or drawn here from a seed.

The label space is that of train: a label of valid or test that train lacks is an error. All rows of a group are in one
part, and labels are balanced as far as groups allow. The same seed gives the same split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from lasttoken.data.dataset import Dataset, Rows, Splits
from lasttoken.data.quick_checks import bare
from lasttoken.data.stratify import grouped, iterative, stratified
from lasttoken.errors import DataError
from lasttoken.labels import LabelSpace
from lasttoken.seed import generator
from lasttoken.wording import closest, counted

PARTS = {"train": "train", "validation": "valid", "valid": "valid", "dev": "valid", "val": "valid", "test": "test"}
ORDER = ("train", "valid", "test")


def make_splits(rows: Rows, *, seed: int, valid: float = 0.1, test: float = 0.2) -> Splits:
    """Train, valid and test of one source, in the label space of train. Raises DataError on a label that train lacks.

    For cross-validation see `make_folds`.
    """
    parts, origin = divided(rows, seed=seed, valid=valid, test=test)
    return assembled(rows, parts, origin)


def splits_from(
    train: Rows,
    valid: Rows | None,
    test: Rows | None,
    *,
    seed: int,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Splits:
    """Train, valid and test, one file each; a part that is None is drawn from train. Ids must differ across files."""
    if valid is None and test is None:
        return make_splits(train, seed=seed, valid=valid_fraction, test=test_fraction)
    given = {name: rows for name, rows in zip(ORDER, (train, valid, test), strict=True) if rows is not None}
    return make_splits(joined(given), seed=seed, valid=valid_fraction, test=test_fraction)


def canonical(names: Sequence[str]) -> list[str]:
    """Each split name as 'train', 'valid' or 'test': 'validation' -> 'valid'. Raises DataError on an unknown name."""
    unknown = Counter(name for name in names if name not in PARTS)
    if unknown:
        shown = ", ".join(f"{name!r} ({counted(count, 'row', 'rows')})" for name, count in sorted(unknown.items())[:5])
        raise DataError(f"split {shown} is none of {', '.join(PARTS)}; rename it or remove the rows")
    return [PARTS[name] for name in names]


def divided(rows: Rows, *, seed: int, valid: float = 0.1, test: float = 0.2) -> tuple[np.ndarray, str]:
    """The part of each row, "train", "valid" or "test" (N,), and a sentence that says how the parts were made.

    A part that `rows.splits` lacks is drawn from its train rows; `valid` and `test` are shares of those rows. Each of
    their labels keeps a row in train. Raises DataError where that is impossible.
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise DataError(f"valid {valid:g} and test {test:g}: each share must be above 0, and their sum below 1")
    named_rows = truths(rows)
    parts = np.array(canonical(rows.splits) if rows.splits is not None else ["train"] * len(rows), dtype="<U5")
    given = [name for name in ORDER if (parts == name).any()]
    if "train" not in given:
        raise DataError(
            f"the split has {' and '.join(given)} rows but no train rows; mark the rows to train on as 'train'"
        )
    check_groups(rows, parts)
    missing = {name: share for name, share in (("valid", valid), ("test", test)) if name not in given}
    check_apart(rows, parts)
    if not missing:
        return parts, "given: train, valid and test"
    check_singles(rows, named_rows, parts)
    pool = np.flatnonzero(parts == "train")
    shares = (1 - sum(missing.values()), *missing.values())
    groups = None if rows.groups is None else [rows.groups[i] for i in pool]
    check_several_groups(groups)
    made = shared_out([named_rows[i] for i in pool], groups, shares, multi=rows.multi, rng=generator(seed, "split"))
    names = np.array(["train", *missing])
    parts[pool] = names[made]
    for name in names:
        if not (parts == name).any():
            raise DataError(f"{too_few(rows, len(pool))}: {name} would be empty; give more rows, or a file for {name}")
    return parts, origin_of(rows, given, missing, seed)


def shared_out(
    truth: Sequence[tuple[str, ...]],
    groups: Sequence[str] | None,
    shares: Sequence[float],
    *,
    multi: bool,
    rng: np.random.Generator,
    train: bool = True,
) -> np.ndarray:
    """Part numbers (N,): by group if there are groups, else stratified, iteratively so for multi-label rows.

    With `train`, part 0 is train and has every label.
    """
    column = {name: j for j, name in enumerate(sorted({name for names in truth for name in names}))}
    memberships = [[column[name] for name in names] for names in truth]
    if groups is not None:
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        return grouped(memberships, np.array([number[group] for group in groups]), shares, rng, train=train)
    if multi:
        return iterative(memberships, shares, rng, train=train)
    return stratified(np.array([row[0] for row in memberships]), shares, rng, train=train)


def origin_of(rows: Rows, given: Sequence[str], missing: dict[str, float], seed: int) -> str:
    """One sentence: which parts were given and how the others were made."""
    way = way_of(rows)
    if len(given) == 1 and rows.splits is None:
        shares = "/".join(f"{100 * share:g}" for share in (1 - sum(missing.values()), *missing.values()))
        return f"made here: {shares} {way}, seed {seed}"
    made = " and ".join(f"{name} made here: {100 * share:g}% of train" for name, share in missing.items())
    return f"given: {' and '.join(given)}; {made} {way}, seed {seed}"


def way_of(rows: Rows) -> str:
    """How `shared_out` splits these rows, in words."""
    if rows.groups is not None:
        return "by group, balanced by label"
    return "by iterative stratification over labels" if rows.multi else "stratified by label"


def assembled(rows: Rows, parts: np.ndarray, origin: str) -> Splits:
    """The parts as datasets in the label space of train. Raises DataError on a label that train lacks."""
    named_rows = truths(rows)
    taken = {name: np.flatnonzero(parts == name).tolist() for name in ORDER}
    known = {name for i in taken["train"] for name in named_rows[i]}
    for name in ("valid", "test"):
        check_known(known, [named_rows[i] for i in taken[name]], name)
    if len(known) < 2:
        held = f"only label {next(iter(known))!r}" if known else "no label at all"
        raise DataError(
            f"the {counted(len(taken['train']), 'row', 'rows')} of train hold {held}; two labels or more are needed"
        )
    space = LabelSpace.of(known, rows.multi)
    train, valid, test = (dataset_of(rows, taken[name], space) for name in ORDER)
    return Splits(train, valid, test, origin)


def dataset_of(rows: Rows, chosen: Sequence[int], space: LabelSpace) -> Dataset:
    """The chosen rows, in that order, with their targets in `space`."""
    named_rows = truths(rows)
    truth = [named_rows[i] for i in chosen]
    targets = space.encode_sets(truth) if rows.multi else space.encode([names[0] for names in truth])
    return Dataset([rows.ids[i] for i in chosen], [rows.texts[i] for i in chosen], targets, space)


def joined(given: dict[str, Rows]) -> Rows:
    """The rows of all files as one Rows, with each file's part as the split.

    Raises DataError where files share an id, or differ in having one label per row or several, or in having groups.
    """
    train = given["train"]
    for name, rows in given.items():
        if rows.splits is not None:
            raise DataError(
                f"the {name} file has a split column, but valid or test is given as a file too; use one or the other"
            )
        if rows.multi != train.multi:
            one, several = (name, "train") if train.multi else ("train", name)
            raise DataError(f"{one} has one label per row but {several} has several; write both the same way")
        if (rows.groups is None) != (train.groups is None):
            raise DataError(f"only one of train and {name} has groups; name the group column of both")
    owner: dict[str, str] = {}
    for name, rows in given.items():
        for row in rows.ids:
            if row in owner:
                raise DataError(f"id {row!r} is in {owner[row]} and in {name}; ids must differ across the parts")
        owner.update(dict.fromkeys(rows.ids, name))
    return Rows(
        ids=list(owner),
        texts=[text for rows in given.values() for text in rows.texts],
        labels=[names for rows in given.values() for names in truths(rows)],
        multi=train.multi,
        groups=None if train.groups is None else [group for rows in given.values() for group in rows.groups or ()],
        splits=[name for name, rows in given.items() for _ in range(len(rows))],
        told=tuple(sentence for rows in given.values() for sentence in rows.told),
    )


def truths(rows: Rows) -> list[tuple[str, ...]]:
    """The label names of each row. Raises DataError if no label column was read."""
    if rows.labels is None:
        raise DataError("the rows have no labels to train on or evaluate with; name the label column")
    return rows.labels


def check_groups(rows: Rows, parts: np.ndarray) -> None:
    """Raise DataError if a given split puts rows of one group into different parts."""
    if rows.groups is None:
        return
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for group, part in zip(rows.groups, parts.tolist(), strict=True):
        homes[group].add(part)
    cut = [group for group, names in homes.items() if len(names) > 1]
    if cut:
        where = " and in ".join(name for name in ORDER if name in homes[cut[0]])
        count = counted(len(cut), "group is", "groups are")
        raise DataError(
            f"group {cut[0]!r} is in {where} ({count} split like this); keep each group in one part, "
            "or name no group column"
        )


def check_apart(rows: Rows, parts: np.ndarray) -> None:
    """Raise DataError if every test text is in valid too.

    Weights, calibration and thresholds are chosen on valid, so scores on the same texts would be optimistic.
    """
    texts = {name: {rows.texts[i] for i in np.flatnonzero(parts == name)} for name in ("valid", "test")}
    if texts["test"] and texts["test"] <= texts["valid"]:
        raise DataError(
            f"the texts of all {(parts == 'test').sum()} test rows are in valid too, which the model is selected on, "
            "so test scores would be optimistic; use other rows for test, or leave valid out to draw it from train"
        )


def check_singles(rows: Rows, named_rows: Sequence[tuple[str, ...]], parts: np.ndarray) -> None:
    """Raise DataError if the only row of a class is in train: there is none left to evaluate it on.

    A class whose only row is in valid or test is left to `check_known`. Multi-label rows are not checked: rare labels
    are normal there, and their row stays in train.
    """
    if rows.multi:
        return
    counts = Counter(names[0] for names in named_rows)
    single = sorted(
        names[0] for names, part in zip(named_rows, parts, strict=True) if counts[names[0]] == 1 and part == "train"
    )
    if len(single) > max(10, len(counts) / 2):
        raise DataError(
            f"{len(single)} of {len(counts)} labels have one row only, such as {single[0]!r}: they look like numbers or "
            "ids, not classes; name another label column, or put numbers into bins first"
        )
    if single:
        shown = ", ".join(repr(name) for name in single[:5]) + (", ..." if len(single) > 5 else "")
        what, them = counted(len(single), "label has", "labels have"), "it" if len(single) == 1 else "them"
        meant = misspelt(single[0], [name for name, count in counts.items() if count > 1])
        raise DataError(
            f"{what} one row only: {shown}{meant}; add rows, merge {them} into another label, or remove {them}"
        )


def check_known(known: Iterable[str], truth: Sequence[tuple[str, ...]], part: str) -> None:
    """Raise DataError if rows of `part` have labels that train lacks."""
    unseen, known = Counter(name for names in truth for name in names), list(known)
    for name in known:
        del unseen[name]
    if unseen:
        shown = ", ".join(f"{name!r} ({counted(count, 'row', 'rows')})" for name, count in sorted(unseen.items())[:5])
        more = ", ..." if len(unseen) > 5 else ""
        what = counted(len(unseen), "label is", "labels are")
        more += misspelt(min(unseen), known)
        raise DataError(
            f"{what} in {part} but not in train: {shown}{more}; add such rows to train or remove them from {part}"
        )


def misspelt(name: str, known: Iterable[str]) -> str:
    """A hint at the known label that `name` may be meant as; "" if none is close."""
    known = list(known)
    alike = [other for other in known if bare(other) == bare(name) and other != name]
    if alike:
        return f" ({name!r} may be {alike[0]!r} written differently)"
    meant = nearest(name, known)
    return f" ({name!r} may be {meant!r} misspelt)" if meant else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known label closest to a misspelt `name`; "" if none is close, or if `name` is short."""
    return closest(name, known, cutoff=0.75) if len(name) > 5 else ""  # G06F and G06T are two codes


def check_several_groups(groups: Sequence[str] | None) -> None:
    """Raise DataError where all rows that are to be divided are of one group. groups: of each row; None: there are none."""
    if groups is not None and len(groups) > 1 and len(set(groups)) == 1:
        raise DataError(
            f"all {len(groups):,} rows are of one group, {groups[0]!r}, and a group stays together; name another column with "
            "--group (group= in Python), or leave it out"
        )


def too_few(rows: Rows, count: int) -> str:
    """The words for too few rows, or groups of rows, to split."""
    several = "" if rows.groups is None else f" in {counted(len(set(rows.groups)), 'group', 'groups')}"
    return f"{counted(count, 'row', 'rows')}{several} cannot be divided so that train has every label"
