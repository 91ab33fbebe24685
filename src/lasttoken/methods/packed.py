"""Rows of token ids through a backbone: packed, run, and brought back into their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from lasttoken.errors import ConfigError
from lasttoken.model.attention import Layout, lay_out
from lasttoken.model.backbone import Backbone
from lasttoken.text.batch import by_length, under_budget
from lasttoken.train.world import ALONE, World

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts in one row, nothing between them."""

    inputs: Tensor  # (T,) int64 token ids, or (T, H) hidden states to go on from
    layout: Layout


class Source(Protocol):
    """Rows that can be packed: token ids (`Encoded`), or hidden states kept from before (`States`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (N,) int64."""
        ...

    def joined(self, rows: np.ndarray) -> np.ndarray | Tensor:
        """The chosen rows one after the other: ids (T,) or states (T, H)."""
        ...

    def __len__(self) -> int: ...


def pack(source: Source, rows: np.ndarray, backbone: Backbone, *, causal: bool | None = None) -> Packed:
    """The chosen rows (B,) packed in that order. causal: None is what the model was made with."""
    seen = backbone.causal if causal is None else causal
    layout = lay_out(source.lengths[rows].tolist(), causal=seen, device=backbone.device)
    return Packed(torch.as_tensor(source.joined(rows)).to(backbone.device), layout)


def in_batches(
    lengths: np.ndarray, compute: Callable[[np.ndarray], Result], *, budget: int, world: World = ALONE
) -> Iterator[tuple[np.ndarray, Result]]:
    """(rows (B,), compute(rows)) over this process's share of all rows, by length, each batch of at most `budget` tokens.

    Where the device runs out of memory the budget halves and the batch is done again. Raises ConfigError where one row
    alone is too much.
    """
    waiting = by_length(lengths, budget)[world.rank :: world.size]
    while waiting:
        rows, result = waiting[0], None
        with suppress(torch.OutOfMemoryError):  # left before the next try: an exception holds on to its tensors
            result = compute(rows)
        if result is not None:
            waiting.pop(0)
            yield rows, result
            continue
        if len(rows) == 1:
            tokens = int(lengths[rows[0]])
            raise ConfigError([f"the device ran out of memory on a single row of {tokens} tokens; lower max_length"])
        budget = int(lengths[rows].sum()) // 2
        waiting = under_budget(np.concatenate(waiting), lengths, budget)
