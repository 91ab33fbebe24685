"""Sums over rows, from which every metric is computed.

Resampling a test set only reweights the contributions of its rows; no resampled set is built. Contributions are sparse,
because a single-label row touches three of 3C columns whatever C is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RowSums:
    """N rows of S contributions each, as M entries (row, column, amount). Entries with the same row and column add up."""

    n: int  # N
    width: int  # S
    rows: np.ndarray  # (M,) int64
    columns: np.ndarray  # (M,) int64
    amounts: np.ndarray  # (M,) float64

    @classmethod
    def dense(cls, amounts: np.ndarray) -> RowSums:
        """The non-zero entries of a table (N, S)."""
        rows, columns = np.nonzero(amounts)
        return cls(len(amounts), amounts.shape[1], rows, columns, amounts[rows, columns].astype(np.float64))

    @classmethod
    def marks(cls, n: int, width: int, rows: np.ndarray, columns: np.ndarray) -> RowSums:
        """Amount 1 at each (rows[m], columns[m])."""
        return cls(n, width, rows, columns, np.ones(len(rows)))

    def total(self) -> np.ndarray:
        """The sums over all rows, (S,)."""
        return np.bincount(self.columns, self.amounts, self.width).astype(np.float64)  # it is int without entries

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """The sums with row i counted weights[d, i] times: (D, N) -> (D, S)."""
        from scipy import sparse  # a quarter of a second, which light imports need not wait for

        table = sparse.csr_matrix((self.amounts, (self.rows, self.columns)), shape=(self.n, self.width))
        return np.ascontiguousarray((table.T @ weights.T.astype(np.float64)).T)

    def minus(self, other: RowSums) -> RowSums:
        """self - other, row by row, without entries that cancel."""
        place = np.concatenate([self.rows * self.width + self.columns, other.rows * self.width + other.columns])
        places, entry = np.unique(place, return_inverse=True)
        amounts = np.bincount(entry, np.concatenate([self.amounts, -other.amounts]), len(places))
        kept = amounts != 0
        rows, columns = np.divmod(places[kept], self.width)
        return RowSums(self.n, self.width, rows, columns, amounts[kept])
