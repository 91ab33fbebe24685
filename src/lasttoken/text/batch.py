"""Which rows travel together: batches planned by tokens, because tokens are what time and memory are spent on."""

from __future__ import annotations

from collections.abc import Iterator

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


def epochs(
    lengths: np.ndarray, *, batch: int, budget: int, rng: np.random.Generator, share: tuple[int, int] = (0, 1)
) -> Iterator[list[np.ndarray]]:
    """Endless updates, epoch after epoch: each `batch` shuffled rows, as the micro-batches that fit `budget` tokens.

    The last update of an epoch is smaller where `batch` does not divide N; no row is dropped or seen twice.
    `share` is (rank, processes): of every update a process takes each `processes`-th row, from `rank` on, so
    that together they see exactly what one process would. Its part can be empty.
    """
    rank, processes = share
    while True:
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), batch):
            mine = order[start : start + batch][rank::processes]
            yield under_budget(mine[np.argsort(-lengths[mine], kind="stable")], lengths, budget)
