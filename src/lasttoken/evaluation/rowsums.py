"""Sums over rows: what every metric is a function of, and why resampling is cheap.

A metric here is a value computed from sums over rows, so a resampled test set is never built: its rows' contributions
are weighed instead. They are kept sparse, because a single-label row touches three of 3C columns whatever C is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RowSums:
    """N rows of S contributions each, as M entries (row, column, amount). Entries of one place add up."""

    n: int  # N
    width: int  # S
    rows: np.ndarray  # (M,) int64
    columns: np.ndarray  # (M,) int64
    amounts: np.ndarray  # (M,) float64

    @classmethod
    def dense(cls, amounts: np.ndarray) -> RowSums:
        """Of a table (N, S): its entries that are not zero."""
        rows, columns = np.nonzero(amounts)
        return cls(len(amounts), amounts.shape[1], rows, columns, amounts[rows, columns].astype(np.float64))

    @classmethod
    def marks(cls, n: int, width: int, rows: np.ndarray, columns: np.ndarray) -> RowSums:
        """One unit at each place (rows[m], columns[m])."""
        return cls(n, width, rows, columns, np.ones(len(rows)))

    def total(self) -> np.ndarray:
        """Every row once, (S,)."""
        return np.bincount(self.columns, self.amounts, self.width).astype(np.float64)  # of no entries it is int

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Row i counted weights[d, i] times: (D, N) -> (D, S)."""
        sums = np.empty((len(weights), self.width))
        for d, weight in enumerate(weights):
            sums[d] = np.bincount(self.columns, self.amounts * weight[self.rows], self.width)
        return sums

    def minus(self, other: RowSums) -> RowSums:
        """Contributions of this less those of `other`, row by row; entries that cancel are left out."""
        place = np.concatenate([self.rows * self.width + self.columns, other.rows * self.width + other.columns])
        places, entry = np.unique(place, return_inverse=True)
        amounts = np.bincount(entry, np.concatenate([self.amounts, -other.amounts]), len(places))
        kept = amounts != 0
        rows, columns = np.divmod(places[kept], self.width)
        return RowSums(self.n, self.width, rows, columns, amounts[kept])
