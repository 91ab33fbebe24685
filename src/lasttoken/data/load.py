"""The three parts of a problem, as the settings of its data describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lasttoken.config.settings import Data
from lasttoken.data.dataset import Rows, Splits
from lasttoken.data.folds import make_folds
from lasttoken.data.quick_checks import doubts
from lasttoken.data.read import Columns, read_parts, without_empty
from lasttoken.data.split import splits_from
from lasttoken.data.subset import with_fewer
from lasttoken.errors import DataError
from lasttoken.hierarchy import Hierarchy, hierarchy_of
from lasttoken.journal import Journal


def load_data(data: Data, *, seed: int, journal: Journal) -> Splits:
    """The three parts of the problem that `data` describes, told with what looks wrong in them. Raises DataError.

    seed: of the run, which draws the training rows where `data` asks for fewer than there are.
    """
    journal.progress("reading the rows", 0, 0)
    rows = read_parts(
        data.source,
        data.valid,
        data.test,
        columns=columns_of(data),
        encoding=data.encoding,
        quoting=data.quoting,
        keep_empty=data.drop_empty,
    )
    for part, read in rows.items() if data.drop_empty else ():
        source = data.source if part == "train" else getattr(data, part)
        rows[part], dropped = without_empty(read, source)
        if dropped:
            journal.note(f"{source}: {dropped} left out")
    journal.progress("reading the rows", 1, 1)
    hierarchy = None
    if data.hierarchy is not None:
        known = sorted({name for read in rows.values() for names in read.labels or () for name in names})
        hierarchy = hierarchy_of(data.hierarchy, known)
        rows = {part: with_ancestors(read, hierarchy) for part, read in rows.items()}
    splits = divided_as(data, rows, seed if data.split_seed is None else data.split_seed)
    folds = tuple(replace(fold, hierarchy=hierarchy) for fold in splits.folds)
    splits = replace(splits, hierarchy=hierarchy, folds=folds)
    splits = replace(splits, doubts=doubts(splits, data.separator, data.label))
    if data.train_rows is not None:
        splits = with_fewer(splits, data.train_rows, seed=seed)
    told = [sentence for read in rows.values() for sentence in read.told]
    for sentence in (*told, splits.summary, *splits.doubts):
        journal.note(sentence)
    return splits


def divided_as(data: Data, rows: Mapping[str, Rows], seed: int) -> Splits:
    """The parts, or the folds, of what was read. Raises DataError."""
    if data.folds is not None and len(rows) == 1:
        return make_folds(rows["train"], data.folds, seed=seed, valid=data.valid_share)
    if data.folds is not None:
        raise DataError(
            f"{data.source} has parts of its own ({', '.join(rows)}), which folds would ignore; leave folds out"
        )
    return splits_from(
        rows["train"],
        rows.get("valid"),
        rows.get("test"),
        seed=seed,
        valid_fraction=data.valid_share,
        test_fraction=data.test_share,
    )


def with_ancestors(rows: Rows, hierarchy: Hierarchy) -> Rows:
    """Rows of several labels with those above them; of one label as they are, its name being in the hierarchy."""
    closed = [hierarchy.closed(names) for names in rows.labels or ()]
    return replace(rows, labels=closed) if rows.multi else rows


def columns_of(data: Data, *, labels: bool = True) -> Columns:
    """What the columns of `data` mean; without `labels`, only what a prediction needs."""
    if not labels:
        return Columns(text=data.text, template=data.template)
    return Columns(data.text, data.template, data.label, data.separator, data.id, data.group, data.split)
