"""Inference over rows in packed batches under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lasttoken.errors import ConfigError
from lasttoken.journal import LOGGER, Progress, unheard
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import put
from lasttoken.model.layout import Layout, lay_out
from lasttoken.text.batch import by_length, under_budget
from lasttoken.train.distributed import ALONE, World

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Packed:
    """B texts concatenated into one row."""

    inputs: Tensor  # (T,) int64 token ids, or (T, H) hidden states
    layout: Layout
    last: Tensor | None = None  # (B,) index of each text's last window; None without windows


class Source(Protocol):
    """Rows that can be packed: token ids (`Encoded`), or cached hidden states (`States`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (N,) int64."""
        ...

    def joined(self, rows: np.ndarray) -> np.ndarray | Tensor:
        """The chosen rows concatenated: ids (T,) or states (T, H)."""
        ...

    def segments(self, rows: np.ndarray) -> list[int]:
        """Lengths of the chosen rows' texts, or of their windows: each attends to itself only."""
        ...

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Number of windows of each chosen row; None without windows."""
        ...

    def __len__(self) -> int: ...


def pack(source: Source, rows: np.ndarray, backbone: Backbone, *, causal: bool | None = None) -> Packed:
    """The chosen rows (B,) packed in that order.

    causal: None is the model's own setting.
    """
    seen, lengths = backbone.causal if causal is None else causal, source.segments(rows)
    layout = lay_out(lengths, causal=seen, device=backbone.device)
    counts = source.counts(rows)
    last = None if counts is None else put(np.cumsum(counts, dtype=np.int64) - 1, backbone.device)
    joined = source.joined(rows)
    inputs = put(joined, backbone.device) if isinstance(joined, np.ndarray) else joined.to(backbone.device)
    return Packed(inputs, layout, last)


def in_batches(
    lengths: np.ndarray,
    compute: Callable[[np.ndarray], Result],
    backbone: Backbone,
    *,
    budget: int,
    world: World = ALONE,
    note: Callable[[str], None] = LOGGER.warning,
    progress: Progress = unheard,
) -> Iterator[tuple[np.ndarray, Result]]:
    """Yield (rows (B,), compute(rows)) for this process's share of the rows, longest first, `budget` tokens per batch.

    Runs without gradients. On a CPU with several threads, batches run in parallel on one thread each: 1.5 times as fast
    as one batch on all threads with `tiny`, .92 to .97 (questions) and 1.06 to 1.23 times (long rows) with SmolLM2
    (docs/lab.md). Batches and threads depend on lengths and backbone only, so concurrent calls give the same results as single ones.
    progress: is told how many rows are done, counting the other processes to be as far.
    When the device runs out of memory, the budget is halved, the batch runs again and `note` gets a message. Raises
    ConfigError if a single row does not fit.
    """
    done, total = 0, len(lengths)
    progress(done, total)
    for rows, result in batches_of(lengths, compute, backbone, budget, world, note):
        yield rows, result
        done += len(rows) * world.size
        progress(min(done, total), total)


def batches_of(
    lengths: np.ndarray,
    compute: Callable[[np.ndarray], Result],
    backbone: Backbone,
    budget: int,
    world: World,
    note: Callable[[str], None],
) -> Iterator[tuple[np.ndarray, Result]]:
    """`in_batches`, without its progress."""
    backbone.check_process()
    threads = backbone.threads
    every = by_length(lengths, max(1, budget // threads))
    waiting, idle = every[world.rank :: world.size], 0
    if backbone.sharded:
        idle = -(-len(every) // world.size) - len(waiting)  # passes whose results are left out: others wait for them
        waiting += every[-1:] * idle  # the shortest
    elif threads > 1 and len(waiting) >= 2 * threads:
        yield from side_by_side(waiting, compute, threads)
        return
    while waiting:
        rows, result = waiting[0], None
        without = torch.no_grad if backbone.sharded else torch.inference_mode  # FSDP keeps what it gathers
        with without(), on_threads(backbone), suppress(torch.OutOfMemoryError):
            result = compute(rows)  # suppressed here, because a live error would keep its tensors in memory
        if result is not None:
            waiting.pop(0)
            if len(waiting) >= idle:
                yield rows, result
            continue
        tokens = int(lengths[rows[0]])
        if len(rows) == 1:
            raise ConfigError(
                [f"the device ran out of memory on a single row of {tokens} tokens; lower max_length, or long.most"]
            )
        if backbone.sharded:  # no process can run a batch twice by itself
            raise ConfigError(
                [f"the device ran out of memory on {len(rows)} rows of up to {tokens} tokens; lower train.budget"]
            )
        budget = int(lengths[rows].sum()) // 2
        note(f"out of memory: the batch size is reduced to {budget} tokens, and the batch runs again")
        waiting = under_budget(np.concatenate(waiting), lengths, budget)


@contextmanager
def on_threads(backbone: Backbone) -> Iterator[None]:
    """Set this thread to the backbone's number of CPU threads, and restore it afterwards."""
    before = torch.get_num_threads()
    if backbone.device.type != "cpu" or before == backbone.threads:
        yield
        return
    torch.set_num_threads(backbone.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(
    batches: Sequence[np.ndarray], compute: Callable[[np.ndarray], Result], threads: int
) -> Iterator[tuple[np.ndarray, Result]]:
    """Yield (rows, compute(rows)) in the order of `batches`, `threads` of them in parallel."""

    def alone(rows: np.ndarray) -> Result:
        torch.set_num_threads(1)  # for the operations of this worker thread
        with torch.inference_mode():
            return compute(rows)

    pool = ThreadPoolExecutor(threads)
    try:
        yield from zip(batches, pool.map(alone, batches), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        # not the number this thread had: it may be another call's 1, and new threads start with what was set last
        torch.set_num_threads(threads)
