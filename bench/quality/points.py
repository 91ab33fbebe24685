"""The points of a curve: entries of an experiment that stand for several numbers of rows and of updates."""

from __future__ import annotations

from typing import Any


def points(experiment: dict[str, Any], name: str) -> list[str]:
    """The names of an entry's results: its own, or one for each number of rows and of updates."""
    entry = experiment[name]
    rows, updates = (entry.get(key, [None]) for key in ("rows", "updates"))
    return ["@".join([name, *(str(x) for x in (r, u) if x is not None)]) for r in rows for u in updates]


def at(experiment: dict[str, Any], name: str) -> tuple[int | None, int | None]:
    """(rows to train on, updates) of a point of a curve; None where the entry does not name them."""
    entry, *numbers = name.split("@")
    found = [int(number) for number in numbers]
    rows = found.pop(0) if "rows" in experiment[entry] else None
    return rows, found.pop(0) if found else None
