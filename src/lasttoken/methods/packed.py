"""Rows of token ids through a backbone: packed, run, and brought back into their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lasttoken.model.attention import Layout, lay_out
from lasttoken.model.backbone import Backbone
from lasttoken.text.batch import by_length
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.world import ALONE, World


@dataclass(frozen=True, eq=False)
class Packed:
    """Texts in one row, nothing between them."""

    tokens: Tensor  # (T,) int64
    layout: Layout


def pack(encoded: Encoded, rows: np.ndarray, backbone: Backbone, *, causal: bool | None = None) -> Packed:
    """The chosen rows (B,) packed in that order. causal: None is what the model was made with."""
    chosen = [encoded.ids[i] for i in rows]
    seen = backbone.causal if causal is None else causal
    layout = lay_out([len(ids) for ids in chosen], causal=seen, device=backbone.device)
    return Packed(torch.from_numpy(np.concatenate(chosen).astype(np.int64)).to(backbone.device), layout)


def packed_batches(
    encoded: Encoded, backbone: Backbone, *, budget: int, world: World = ALONE, causal: bool | None = None
) -> Iterator[tuple[np.ndarray, Packed]]:
    """This process's share of all rows, by length: (rows (B,), their packed form)."""
    for rows in by_length(encoded.lengths, budget)[world.rank :: world.size]:
        yield rows, pack(encoded, rows, backbone, causal=causal)
