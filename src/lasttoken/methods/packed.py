"""Rows of token ids through a backbone: packed, run, and brought back into their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lasttoken.errors import ConfigError
from lasttoken.journal import LOGGER
from lasttoken.model.attention import Layout, lay_out
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Pooling, read_by
from lasttoken.text.batch import by_length, under_budget
from lasttoken.train.world import ALONE, World

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts in one row, nothing between them."""

    inputs: Tensor  # (T,) int64 token ids, or (T, H) hidden states to go on from
    layout: Layout
    last: Tensor | None = None  # (B,) index of each text's last window; None: every text is one


class Source(Protocol):
    """Rows that can be packed: token ids (`Encoded`), or hidden states kept from before (`States`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (N,) int64."""
        ...

    def joined(self, rows: np.ndarray) -> np.ndarray | Tensor:
        """The chosen rows one after the other: ids (T,) or states (T, H)."""
        ...

    def segments(self, rows: np.ndarray) -> list[int]:
        """Tokens of each stretch of the chosen rows that attends to itself alone: a text, or each of its windows."""
        ...

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Windows of each of the chosen rows; None where texts have none."""
        ...

    def __len__(self) -> int: ...


def pack(
    source: Source, rows: np.ndarray, backbone: Backbone, *, pooling: Pooling | None = None, causal: bool | None = None
) -> Packed:
    """The chosen rows (B,) packed in that order.

    pooling: what reads the states after the last block, which saves those it does not look at; None: any may be read.
    causal: None is what the model was made with.
    """
    seen, lengths = backbone.causal if causal is None else causal, source.segments(rows)
    read = None if pooling is None else read_by(pooling, lengths)
    layout = lay_out(lengths, read=read, causal=seen, device=backbone.device)
    counts = source.counts(rows)
    last = None if counts is None else torch.tensor(counts, device=backbone.device).cumsum(0) - 1
    return Packed(torch.as_tensor(source.joined(rows)).to(backbone.device), layout, last)


def in_batches(
    lengths: np.ndarray,
    compute: Callable[[np.ndarray], Result],
    *,
    budget: int,
    device: torch.device,
    world: World = ALONE,
    note: Callable[[str], None] = LOGGER.warning,
) -> Iterator[tuple[np.ndarray, Result]]:
    """(rows (B,), compute(rows)) over this process's share of all rows, by length, at most `budget` tokens at a time.

    Runs without gradients. On a CPU with several threads batches run side by side, one thread each, which is half as
    fast again as one batch on all threads. Where the device runs out of memory the budget halves and the batch is done
    again, which `note` is told; raises ConfigError where one row alone is too much.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    waiting = by_length(lengths, max(1, budget // threads))[world.rank :: world.size]
    if threads > 1 and len(waiting) >= 2 * threads:
        yield from side_by_side(waiting, compute, threads)
        return
    while waiting:
        rows, result = waiting[0], None
        with torch.inference_mode(), suppress(torch.OutOfMemoryError):
            result = compute(rows)  # the error is gone before the next try: it would hold on to its tensors
        if result is not None:
            waiting.pop(0)
            yield rows, result
            continue
        if len(rows) == 1:
            tokens = int(lengths[rows[0]])
            raise ConfigError(
                [f"the device ran out of memory on a single row of {tokens} tokens; lower max_length, or long.most"]
            )
        budget = int(lengths[rows].sum()) // 2
        note(f"out of memory: a batch now holds {budget} tokens; it is computed again")
        waiting = under_budget(np.concatenate(waiting), lengths, budget)


def side_by_side(
    batches: Sequence[np.ndarray], compute: Callable[[np.ndarray], Result], threads: int
) -> Iterator[tuple[np.ndarray, Result]]:
    """(rows, compute(rows)) in the order of `batches`, as many at once as there are threads."""

    def alone(rows: np.ndarray) -> Result:
        torch.set_num_threads(1)  # of this thread's own operations
        with torch.inference_mode():
            return compute(rows)

    pool = ThreadPoolExecutor(threads)
    try:
        yield from zip(batches, pool.map(alone, batches), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
