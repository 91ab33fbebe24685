"""Warnings about a data set that may be intended: one sentence each, and nothing is changed.

Labels that look equal or missing, lists that were read as one name, and texts that occur in several splits.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.label_cells import SEPARATORS

# common spellings of a missing value, compared without case
MISSING = ("nan", "none", "null", "n/a", "na", "nil", "-", "?", "unknown")


def doubts(splits: Splits, separator: str | None = None, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """All warnings about `splits`, whose labels were read from `columns` with `separator`; empty if there are none."""
    names = splits.labels.names
    warnings = [alike(names), missing(names), empty(columns, names)]
    if splits.labels.multi:
        warnings.append(unused(splits, separator) if separator else single(splits) if len(columns) < 2 else None)
    if not splits.labels.multi and splits.hierarchy is None:
        warnings.append(unsplit(names))
    return tuple(filter(None, [*warnings, *(across_folds if splits.folds else shared_texts)(splits)]))


def alike(names: Sequence[str]) -> str | None:
    """Warning about labels that differ only in white space, case, or how a character or number is written."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[bare(name)].append(name)
    same = [group for group in found.values() if len(group) > 1]
    if not same:
        return None
    shown = "; ".join(" and ".join(map(repr, group)) for group in same[:3]) + ("; ..." if len(same) > 3 else "")
    return f"labels differ only in white space, case or number format: {shown}; if they are the same label, spell them alike"


def missing(names: Sequence[str]) -> str | None:
    """Warning about label names that look like missing values, such as 'NaN'."""
    found = [name for name in names if bare(name) in MISSING]
    if not found:
        return None
    shown = ", ".join(map(repr, found))
    if len(found) == 1:
        return f"{shown} is treated as a label; if it means a missing value, remove its rows"
    return f"{shown} are treated as labels; if they mean missing values, remove their rows"


def empty(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Warning about label columns of 0 and 1 in which no row has a 1."""
    without = [column for column in columns if column not in names] if len(columns) > 1 else []
    if not without:
        return None
    what = "label columns hold" if len(without) > 1 else "label column holds"
    return f"{len(without)} {what} no 1 and {'are' if len(without) > 1 else 'is'} left out: {', '.join(map(repr, without[:5]))}"


def bare(name: str) -> str:
    """A name normalized for comparison (NFKC, case, white space): ' Good' equals 'good', '1' equals '1.0'."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", plain)


def unsplit(names: Sequence[str]) -> str | None:
    """Warning about single labels that look like lists: 'A;C' beside 'A', or "['A', 'C']"."""
    brackets = [name for name in names if name.startswith("[") and name.endswith("]")]
    if len(brackets) > len(names) / 2:
        return (
            f"the labels look like lists written as text, such as {brackets[0]!r}; "
            "for several labels per row, write them as lists in JSONL or Parquet, or as A;C with --separator"
        )
    for separator in SEPARATORS:
        joined = [name for name in names if separator in name]
        pieces = Counter(piece.strip() for name in names for piece in name.split(separator))
        alone = set(names) - set(joined)
        known = any(alone.issuperset(map(str.strip, name.split(separator))) for name in joined)
        if known or (len(joined) > 1 and len(pieces) < len(names) and "" not in pieces):
            return (
                f"{len(joined)} of {len(names)} labels {'hold' if len(joined) > 1 else 'holds'} {separator!r}, "
                f"such as {joined[0]!r}, {len(pieces)} names in all; if a row may have several labels, add --separator '{separator}'"
            )
    return None


def unused(splits: Splits, separator: str) -> str | None:
    """Warning about a separator if no row has more than one label."""
    if any((part.targets.sum(axis=1) > 1).any() for part in (splits.train, splits.valid, splits.test)):
        return None
    rest = unsplit(splits.labels.names)
    return f"no row has more than one label: {separator!r} separates nothing; " + (
        rest or "if each row has exactly one, leave --separator out"
    )


def single(splits: Splits) -> str | None:
    """Warning about lists that all hold exactly one label, as labelling tools write single labels."""
    if any((part.targets.sum(axis=1) != 1).any() for part in (splits.train, splits.valid, splits.test)):
        return None
    return (
        "every list holds exactly one label, but the problem is treated as multi-label; "
        "if each row has exactly one, write the label itself instead of a list"
    )


def shared_texts(splits: Splits) -> Iterator[str]:
    """Warnings about texts of valid that also occur in train, and texts of test that also occur in train or valid."""
    seen: dict[str, set[Hashable]] = {}
    add_texts(seen, splits.train)
    made = splits.origin.startswith("made here")
    remedy = (
        "remove them (`lasttoken check --fix` does where labels agree), or keep equal texts in one part: --group with the text column"
        if made
        else "remove them from {}"
    )
    for name, part, where in (("valid", splits.valid, "train"), ("test", splits.test, "train or valid")):
        again = [(text, label) for text, label in zip(part.texts, truth(part), strict=True) if text in seen]
        if again:
            other = sum(label not in seen[text] for text, label in again)
            clash = f", {other} of them under another label" if other else ""
            yield (
                f"{len(again)} of {len(part)} texts of {name} are in {where} too, word for word{clash}; scores on them show "
                f"memory: {remedy.format(name)}"
            )
        add_texts(seen, part)


def across_folds(splits: Splits) -> Iterator[str]:
    """Warning about texts of a cross-validation that occur in several folds."""
    homes: defaultdict[str, set[int]] = defaultdict(set)
    for number, fold in enumerate(splits.folds):
        for text in fold.test.texts:
            homes[text].add(number)
    again = sum(len(homes[text]) > 1 for text in splits.test.texts)
    if again:
        yield (
            f"{again} of {len(splits.test)} texts are in another fold too, word for word; scores on them show memory: remove "
            "them (`lasttoken check --fix` does where labels agree), or keep equal texts in one fold: --group with the text column"
        )


def add_texts(seen: dict[str, set[Hashable]], part: Dataset) -> None:
    """Add the texts of a split to `seen`, each with its labels."""
    labels = truth(part)
    single = {label: {label} for label in set(labels)}  # shared by all texts that have only this label
    for text, label in zip(part.texts, labels, strict=True):
        known = seen.get(text)
        if known is None:
            seen[text] = single[label]
        elif label not in known:
            seen[text] = known | {label}


def truth(part: Dataset) -> list[Hashable]:
    """The label of each row, or its indicator row as bytes, as a hashable value."""
    return [row.tobytes() for row in part.targets] if part.labels.multi else part.targets.tolist()
