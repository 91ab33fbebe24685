"""Batches of rows under a token budget, because time and memory depend on tokens, not on rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken.seed import generator


def by_length(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows grouped for prediction: sorted by length, longest first, each batch at most `budget` tokens.

    lengths: (N,) tokens per row. A row longer than the budget is a batch of its own. Every row is in exactly one batch.
    Longest first, so that running out of memory shows at the start.
    """
    order = np.argsort(-lengths, kind="stable")
    return under_budget(order, lengths, budget)


def under_budget(rows: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Split `rows`, in order, into groups of at most `budget` tokens, each with at least one row."""
    groups, start, total = [], 0, 0
    for i, row in enumerate(rows):
        total += int(lengths[row])
        if total > budget and i > start:
            groups.append(rows[start:i])
            start, total = i, int(lengths[row])
    if start < len(rows):
        groups.append(rows[start:])
    return groups


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows of one forward pass in training, and its position in the training."""

    rows: np.ndarray  # (B,) int64
    update: int  # 1, 2, ...
    number: int  # within the update, from 0
    idle: bool = False  # run for other processes that wait for the pass; it counts for nothing


@dataclass
class Budget:
    """Maximum tokens of a micro-batch. It shrinks when the device runs out of memory; the result stays the same."""

    tokens: int

    def cut(self, rows: np.ndarray, lengths: np.ndarray, update: int) -> list[MicroBatch]:
        """Split the rows of an update into micro-batches within the budget."""
        groups = under_budget(rows, lengths, self.tokens)
        return [MicroBatch(group, update, number) for number, group in enumerate(groups)]

    def halve(self, update: Sequence[MicroBatch], lengths: np.ndarray) -> list[MicroBatch] | None:
        """The update with the budget at half its largest micro-batch; None if each already has a single row."""
        if max(len(micro.rows) for micro in update) == 1:
            return None
        self.tokens = min(self.tokens, int(max(lengths[micro.rows].sum() for micro in update))) // 2
        return self.cut(np.concatenate([micro.rows for micro in update]), lengths, update[0].update)


def updates(
    lengths: np.ndarray,
    *,
    batch: int,
    budget: Budget,
    seed: int,
    share: tuple[int, int] = (0, 1),
    done: int = 0,
    even: bool = False,
) -> Iterator[list[MicroBatch]]:
    """Yield updates without end: `batch` shuffled rows each, as micro-batches within the budget.

    The order of an epoch depends on (seed, epoch) only, so that training can resume after `done` updates. The last
    update of an epoch is smaller if `batch` does not divide N; each row is used once per epoch.
    share: (rank, processes). A process takes every `processes`-th row of an update, starting at `rank`; together they
    use the same rows as a single process. A share can be empty.
    even: every process gets equally many micro-batches, idle ones at the end of its own.
    """
    rank, processes = share
    epoch, first = divmod(done, -(-len(lengths) // batch))
    while True:
        order = generator(seed, f"order of the training rows in epoch {epoch}").permutation(len(lengths))
        for start in range(first * batch, len(order), batch):
            done += 1
            rows = order[start : start + batch]
            cuts = [
                budget.cut(own[np.argsort(-lengths[own], kind="stable")], lengths, done)
                for own in (rows[process::processes] for process in (range(processes) if even else (rank,)))
            ]
            mine, most = cuts[rank if even else 0], max(map(len, cuts))
            yield mine + [MicroBatch(rows[:1], done, number, idle=True) for number in range(len(mine), most)]
        epoch, first = epoch + 1, 0
