"""One thing that was found in the data, and the rows it was found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """A row of a finding."""

    id: str
    detail: str = ""  # what is the matter with this one


@dataclass(frozen=True)
class Finding:
    """What was found, why it matters and what to do, in a sentence each."""

    kind: str  # duplicates, label-errors, ...
    sentence: str
    places: tuple[Place, ...] = ()
    remedy: str = ""
    serious: bool = True  # False: good to know
    chart: tuple[str, ...] = ()  # lines that draw it

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(repr, names[:most])) + (f" and {more} more" if more > 0 else "")
