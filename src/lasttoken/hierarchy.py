"""Label hierarchies: `A/A61/A61K` by its separator, or a file that names each label's parent.

A row with a label has all its ancestors. In multi-label problems ancestors are columns too, no child is decided without
its parents, and a parent is at least as probable as its children.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken.errors import DataError
from lasttoken.labels import LabelSpace
from lasttoken.paths import local
from lasttoken.wording import did_you_mean

Above = tuple[tuple[int, ...], ...]  # per column, the columns of its ancestors, parent first; (): no hierarchy
HEADER = ["label", "parent"]


@dataclass(frozen=True)
class Hierarchy:
    """Which label lies directly below which: label -> parent, None for a root."""

    parents: Mapping[str, str | None]

    def above(self, label: str) -> tuple[str, ...]:
        """The ancestors of a label, parent first. Raises DataError on a label that is not in the hierarchy."""
        if label not in self.parents:
            hint = did_you_mean(label, self.parents)
            raise DataError(
                f"label {label!r} is not in the hierarchy{hint}; give it a line there, or correct the label"
            )
        found, parent = [], self.parents[label]
        while parent is not None:
            found.append(parent)
            parent = self.parents[parent]
        return tuple(found)

    def closed(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The labels and all their ancestors, each once."""
        return tuple(dict.fromkeys(name for label in labels for name in (label, *self.above(label))))

    def columns(self, space: LabelSpace) -> Above:
        """The ancestor columns of each column of `space`."""
        place = {name: j for j, name in enumerate(space.names)}
        return tuple(tuple(place[up] for up in self.above(name) if up in place) for name in space.names)


def by_separator(labels: Iterable[str], separator: str) -> Hierarchy:
    """The hierarchy in labels such as A/A61. Raises DataError on an empty level, or if no label has the separator."""
    if not separator:
        raise DataError("hierarchy '': name what stands between the levels of a label, or a CSV file of label,parent")
    parents: dict[str, str | None] = {}
    for label in sorted(set(map(str, labels))):
        levels = label.split(separator)
        if any(level != level.strip() for level in levels) and all(level.strip() for level in levels):
            raise DataError(
                f"label {label!r} has blanks around its {separator!r}; name them too: --hierarchy {f' {separator} '!r}"
            )
        if not all(level.strip() for level in levels):
            raise DataError(f"label {label!r} has an empty level between its {separator!r}; write it as A{separator}B")
        for depth in range(len(levels), 0, -1):
            parents[separator.join(levels[:depth])] = separator.join(levels[: depth - 1]) if depth > 1 else None
    if all(parent is None for parent in parents.values()):
        raise DataError(f"hierarchy {separator!r}: no label holds it; name the separator of your labels, or a CSV file")
    return Hierarchy(parents)


def read_hierarchy(path: Path) -> Hierarchy:
    """The hierarchy in a CSV file with columns label and parent; a root has an empty parent.

    Raises DataError, naming the line, on a label given twice, an orphan (a parent without a line) and a cycle.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; a hierarchy is a CSV file of label,parent, or what stands between levels"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV file in UTF-8") from error
    if not lines or lines[0] != HEADER:
        raise DataError(
            f"{path}: its first line must be label,parent; found {','.join(lines[0]) if lines else 'nothing'}"
        )
    parents, line_of = dict[str, str | None](), dict[str, int]()
    for number, row in enumerate(lines[1:], start=2):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip():
            raise DataError(
                f"{path}:{number}: a line is a label and its parent, empty for a root; found {','.join(row)!r}"
            )
        label, parent = (cell.strip() for cell in row)
        if label in parents:
            raise DataError(f"{path}:{number}: label {label!r} stands in line {line_of[label]} too; give it one parent")
        parents[label], line_of[label] = parent or None, number
    for label, parent in parents.items():
        if parent is not None and parent not in parents:
            raise DataError(
                f"{path}:{line_of[label]}: parent {parent!r} has no line of its own; add one, with an empty parent for a root"
            )
    check_circles(parents, path, line_of)
    return Hierarchy(parents)


def check_circles(parents: Mapping[str, str | None], path: Path, line_of: Mapping[str, int]) -> None:
    """Raises DataError on a cycle."""
    sound = set[str]()
    for label in parents:
        way: list[str] = []
        here: str | None = label
        while here is not None and here not in sound:
            if here in way:
                circle = " < ".join([*way[way.index(here) :], here])
                raise DataError(f"{path}:{line_of[here]}: {here!r} lies above itself ({circle}); break the circle")
            way.append(here)
            here = parents[here]
        sound.update(way)


def hierarchy_of(told: str, labels: Sequence[str]) -> Hierarchy:
    """The hierarchy that a setting means: a CSV file where it ends in .csv, else the separator of `labels`."""
    return read_hierarchy(local(told)) if told.endswith(".csv") else by_separator(labels, told)


def coherent(probs: np.ndarray, above: Above) -> np.ndarray:
    """Probabilities (N, C) in which no label is less probable than one below it (Giunchiglia 2020, arXiv:2010.10151)."""
    raised = probs.copy() if above else probs
    for column, ups in enumerate(above):
        for up in ups:
            np.maximum(raised[:, up], probs[:, column], out=raised[:, up])
    return raised


def consistent(chosen: np.ndarray, above: Above) -> np.ndarray:
    """Decisions (N, C) bool without labels that have an undecided ancestor."""
    kept = chosen.copy() if above else chosen
    for column, ups in enumerate(above):
        if ups:
            kept[:, column] &= chosen[:, list(ups)].all(axis=1)
    return kept


def upwards(chosen: np.ndarray, above: Above) -> np.ndarray:
    """Decisions (N, C) bool with the ancestors of every chosen label added."""
    grown = chosen.copy() if above else chosen
    for column, ups in enumerate(above):
        for up in ups:
            grown[:, up] |= chosen[:, column]
    return grown
