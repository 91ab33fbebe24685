"""A problem in the data and the rows that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """A row of a finding."""

    id: str
    detail: str = ""  # about this row


@dataclass(frozen=True)
class Finding:
    """A problem, its remedy, and the rows concerned."""

    kind: str  # duplicates, label-errors, ...
    sentence: str
    places: tuple[Place, ...] = ()
    remedy: str = ""
    serious: bool = True  # False: informational
    chart: tuple[str, ...] = ()  # lines of a text chart

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-serializable dict."""
        return asdict(self)


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    return first(list(map(repr, names)), most)


def first(words: Sequence[str], most: int = 5) -> str:
    """The first words, and how many more there are."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
