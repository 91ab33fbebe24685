"""Counts of rows and tokens truncated at a length limit, and their summary in a sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Truncation:
    """Truncation counts over the rows of one or several calls; false if nothing was truncated."""

    rows: int = 0  # all rows
    cut: int = 0  # truncated rows
    tokens: int = 0  # of all rows, before truncation
    lost: int = 0  # truncated tokens
    worst: int = 0  # most tokens truncated from one row
    limit: int = 0  # maximum tokens of a row, or of each window
    windows: int = 1  # maximum windows of a row

    def __add__(self, other: Truncation) -> Truncation:
        return Truncation(
            self.rows + other.rows,
            self.cut + other.cut,
            self.tokens + other.tokens,
            self.lost + other.lost,
            max(self.worst, other.worst),
            max(self.limit, other.limit),
            max(self.windows, other.windows),
        )

    def __bool__(self) -> bool:
        return self.cut > 0

    def __str__(self) -> str:
        return (
            f"{self.cut} of {self.rows} rows were truncated at "
            f"{f'{self.windows} windows of ' if self.windows > 1 else ''}{self.limit} tokens: "
            f"{self.lost / self.tokens:.1%} of all tokens cut, {self.worst} of the longest row"
        )
