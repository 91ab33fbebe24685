"""From the hidden states of a packed row to one vector a text, and from that to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Pooling = Literal["last", "first", "mean", "max", "attention"]


def read_by(pooling: Pooling, lengths: Sequence[int]) -> np.ndarray | None:
    """Which tokens of a row of texts of `lengths` tokens pooling looks at, by their index; None: all."""
    ends = np.cumsum(lengths) - 1
    return {"last": ends, "first": ends + 1 - lengths}.get(pooling)


class Pool(nn.Module):
    """Hidden states (T, H) of packed texts -> (B, H) float32.

    The pooled token is found by its index in the packed row, never by comparing ids with a padding id: where
    padding and end-of-text are one token that comparison picks the wrong one (transformers #35909, peft #3620).
    """

    def __init__(self, kind: Pooling, width: int):
        super().__init__()
        self.kind: Pooling = kind
        self.query = nn.Parameter(torch.zeros(width)) if kind == "attention" else None  # zeros: begins as the mean

    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        """hidden: (T, H), texts one after the other from index 0. ends: (B,) int64, index of each text's last token."""
        if self.kind == "last":
            return hidden[ends].float()
        if self.kind == "first":
            return hidden[torch.cat([ends.new_zeros(1), ends[:-1] + 1])].float()
        hidden = hidden.float()
        lengths = torch.diff(ends, prepend=ends.new_full((1,), -1))  # (B,)
        owner = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), lengths)  # (T,)
        shape = (len(ends), hidden.shape[1])
        index = owner[:, None].expand_as(hidden)
        if self.kind == "max":
            return hidden.new_zeros(shape).scatter_reduce(0, index, hidden, "amax", include_self=False)
        if self.query is None:
            return hidden.new_zeros(shape).index_add(0, owner, hidden) / lengths[:, None]
        scores = hidden @ self.query / hidden.shape[1] ** 0.5  # (T,)
        top = scores.new_zeros(len(ends)).scatter_reduce(0, owner, scores, "amax", include_self=False)
        weights = (scores - top[owner]).exp()
        total = weights.new_zeros(len(ends)).index_add(0, owner, weights)
        return hidden.new_zeros(shape).index_add(0, owner, hidden * (weights / total[owner])[:, None])


class Head(nn.Module):
    """Pooling, then a linear layer or a two-layer MLP, all float32: (T, H) -> logits (B, C).

    Of a text in several windows the logits' mean or maximum, or the logits of its windows' embeddings under learned
    attention.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        pooling: Pooling = "last",
        kind: Literal["linear", "mlp"] = "linear",
        bias: bool = True,
        windows: Literal["mean", "max", "attention"] = "mean",
    ):
        super().__init__()
        self.pool = Pool(pooling, width)
        self.windows = Pool(windows, width)
        final = nn.Linear(width, classes, bias=bias)
        nn.init.normal_(final.weight, std=0.02)
        if bias:
            nn.init.zeros_(final.bias)
        self.layers = final if kind == "linear" else nn.Sequential(nn.Linear(width, width), nn.GELU(), final)

    def forward(self, hidden: Tensor, ends: Tensor, last: Tensor | None = None) -> Tensor:
        """hidden (T, H), ends (S,) of texts or windows; last: (B,) index of each text's last window, None without any."""
        with torch.autocast(hidden.device.type, enabled=False):
            if last is None or self.windows.query is not None:
                return self.layers(self.vectors(hidden, ends, last))
            return self.windows(self.layers(self.pool(hidden, ends)), last)

    def vectors(self, hidden: Tensor, ends: Tensor, last: Tensor | None = None) -> Tensor:
        """One vector a text, (B, H) float32, which a linear layer makes into logits; where the mean of windows' logits
        is asked for it is the mean of their vectors, which comes to the same."""
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = self.pool(hidden, ends)  # (S, H)
            return pooled if last is None else self.windows(pooled, last)

    @property
    def linear(self) -> nn.Linear:
        """The layer, where the head is one layer. Raises TypeError where it is an MLP."""
        if not isinstance(self.layers, nn.Linear):
            raise TypeError("the head is an MLP, not one linear layer")
        return self.layers
