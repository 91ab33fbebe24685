"""Which rows travel together: batches planned by tokens, because tokens are what time and memory are spent on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


def by_length(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows grouped for prediction: sorted by length, longest first, each batch at most `budget` tokens.

    lengths: (N,) tokens a row. A row longer than the budget travels alone. Every row is in exactly one batch.
    Longest first, so that a lack of memory shows at once and not at the end.
    """
    order = np.argsort(-lengths, kind="stable")
    return under_budget(order, lengths, budget)


def under_budget(rows: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """`rows` cut, in their order, into runs of at most `budget` tokens; a run holds one row or more."""
    groups, start, total = [], 0, 0
    for i, row in enumerate(rows):
        total += int(lengths[row])
        if total > budget and i > start:
            groups.append(rows[start:i])
            start, total = i, int(lengths[row])
    if start < len(rows):
        groups.append(rows[start:])
    return groups


@dataclass
class Budget:
    """Tokens that a micro-batch may hold. It shrinks when the device runs out of memory; the result stays the same."""

    tokens: int

    def cut(self, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """`rows` as micro-batches within the budget."""
        return under_budget(rows, lengths, self.tokens)

    def halve(self, update: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray] | None:
        """The same update under half of what its largest micro-batch holds; None where every row travels alone already."""
        if max(map(len, update)) == 1:
            return None
        self.tokens = min(self.tokens, int(max(lengths[rows].sum() for rows in update))) // 2
        return self.cut(np.concatenate(update), lengths)


def epochs(
    lengths: np.ndarray, *, batch: int, budget: Budget, rng: np.random.Generator, share: tuple[int, int] = (0, 1)
) -> Iterator[list[np.ndarray]]:
    """Endless updates, epoch after epoch: each `batch` shuffled rows, as the micro-batches that fit the budget.

    The last update of an epoch is smaller where `batch` does not divide N; no row is dropped or seen twice.
    `share` is (rank, processes): of every update a process takes each `processes`-th row, from `rank` on, so
    that together they see exactly what one process would. Its part can be empty.
    """
    rank, processes = share
    while True:
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), batch):
            mine = order[start : start + batch][rank::processes]
            yield budget.cut(mine[np.argsort(-lengths[mine], kind="stable")], lengths)
