"""What looks wrong in a problem and may be meant: said in a sentence each, never repaired.

Labels that may be one and the same or none at all, lists that were read as names, and texts that stand on both sides of a split.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.truth import SEPARATORS

# what stands for no value in files, case aside
MISSING = ("nan", "none", "null", "n/a", "na", "nil", "-", "?", "unknown")


def doubts(splits: Splits, separator: str | None = None, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """The sentences about a problem whose labels were read from `columns` with `separator`; none where nothing looks wrong."""
    names = splits.labels.names
    told = [alike(names), missing(names), empty(columns, names)]
    if splits.labels.multi and separator:
        told.append(unused(splits, separator))
    if not splits.labels.multi and splits.hierarchy is None:
        told.append(unsplit(names))
    return tuple(filter(None, [*told, *shared_texts(splits)]))


def alike(names: Sequence[str]) -> str | None:
    """The sentence about labels that differ only by white space, case, or how a character or number is written."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[bare(name)].append(name)
    same = [group for group in found.values() if len(group) > 1]
    if not same:
        return None
    shown = "; ".join(" and ".join(map(repr, group)) for group in same[:3]) + ("; ..." if len(same) > 3 else "")
    return (
        f"labels that differ by white space, case or spelling of a number only: {shown}; are they one? Write them alike"
    )


def missing(names: Sequence[str]) -> str | None:
    """The sentence about labels that read as if there were none."""
    found = [name for name in names if bare(name) in MISSING]
    if not found:
        return None
    shown = ", ".join(map(repr, found))
    if len(found) == 1:
        return f"{shown} is learnt as a label like any other; if it stands for a missing one, remove its rows"
    return f"{shown} are learnt as labels like any other; if they stand for missing ones, remove their rows"


def empty(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The sentence about label columns of 0 and 1 in which no row has a 1."""
    without = [column for column in columns if column not in names] if len(columns) > 1 else []
    if not without:
        return None
    what = "label columns hold" if len(without) > 1 else "label column holds"
    return f"{len(without)} {what} no 1 and {'are' if len(without) > 1 else 'is'} left out: {', '.join(map(repr, without[:5]))}"


def bare(name: str) -> str:
    """A name without what people overlook in it: ' Good' and 'good' are one, as are '1' and '1.0'."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", plain)


def unsplit(names: Sequence[str]) -> str | None:
    """The sentence about single labels that look like lists: 'A;C' beside 'A', or "['A', 'C']"."""
    brackets = [name for name in names if name.startswith("[") and name.endswith("]")]
    if len(brackets) > len(names) / 2:
        return (
            f"the labels look like lists written as text, such as {brackets[0]!r}; "
            "for several labels a row write them as lists in JSONL or Parquet, or as A;C with --separator"
        )
    for separator in SEPARATORS:
        joined = [name for name in names if separator in name]
        pieces = Counter(piece.strip() for name in names for piece in name.split(separator))
        if len(joined) > 1 and len(pieces) < len(names) and "" not in pieces:
            return (
                f"{len(joined)} of {len(names)} labels hold {separator!r}, such as {joined[0]!r}, of {len(pieces)} names "
                f"in all; if a row may have several labels, say --separator '{separator}'"
            )
    return None


def unused(splits: Splits, separator: str) -> str | None:
    """The sentence about a separator that never separates."""
    if any((part.targets.sum(axis=1) > 1).any() for part in (splits.train, splits.valid, splits.test)):
        return None
    rest = unsplit(splits.labels.names)
    return f"no row has more than one label: {separator!r} separates nothing; " + (
        rest or "if each row has exactly one, leave --separator out"
    )


def shared_texts(splits: Splits) -> Iterator[str]:
    """The sentences about texts of valid and of test that a classifier saw, or was chosen by, word for word."""
    seen: dict[str, set[Hashable]] = {}
    remember(seen, splits.train)
    made = splits.origin.startswith("made here")
    remedy = (
        "remove them, or keep equal texts in one part: --group and a column that is equal for them"
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
        remember(seen, part)


def remember(seen: dict[str, set[Hashable]], part: Dataset) -> None:
    """Add the texts of a part with what each is labelled."""
    labels = truth(part)
    single = {label: {label} for label in set(labels)}  # most texts have one label: they share its set
    for text, label in zip(part.texts, labels, strict=True):
        known = seen.get(text)
        if known is None:
            seen[text] = single[label]
        elif label not in known:
            seen[text] = known | {label}


def truth(part: Dataset) -> list[Hashable]:
    """What each row is labelled with, as a value to compare."""
    return [row.tobytes() for row in part.targets] if part.labels.multi else part.targets.tolist()
