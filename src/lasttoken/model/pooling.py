"""Pooling of packed hidden states to one vector per text, and the classification head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["last", "first", "mean", "max", "attention"]


class Pool(nn.Module):
    """Hidden states (T, H) of packed texts -> (B, H) float32.

    The pooled token is found by its index in the packed row. Comparing ids with the padding id would pick the wrong
    token where padding and end-of-text share one id (transformers #35909, peft #3620).
    """

    def __init__(self, kind: Pooling, width: int):
        super().__init__()
        self.kind: Pooling = kind
        self.query = nn.Parameter(torch.zeros(width)) if kind == "attention" else None  # zeros: mean pooling at first

    def forward(self, hidden: Tensor, ends: Tensor) -> Tensor:
        """hidden: (T, H), texts concatenated. ends: (B,) int64, index of each text's last token."""
        if self.kind == "last":
            return hidden[ends].float()
        if self.kind == "first":
            return hidden[torch.cat([ends.new_zeros(1), ends[:-1] + 1])].float()
        hidden = hidden.float()
        lengths = torch.diff(ends, prepend=ends.new_full((1,), -1))  # (B,)
        owner = torch.arange(len(ends), device=ends.device).repeat_interleave(lengths, output_size=len(hidden))  # (T,)
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

    For a text in several windows: the mean or maximum of the windows' logits, or the logits of their vectors pooled by
    learned attention.
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
        """hidden: (T, H). ends: (S,), of texts or windows. last: (B,), each text's last window; None without windows."""
        with torch.autocast(hidden.device.type, enabled=False):
            if last is None or self.windows.query is not None:
                return self.layers(self.vectors(hidden, ends, last))
            return self.windows(self.layers(self.pool(hidden, ends)), last)

    def vectors(self, hidden: Tensor, ends: Tensor, last: Tensor | None = None) -> Tensor:
        """One vector per text, (B, H) float32, the input of the linear layer.

        With windows = "mean" this is the mean of the windows' vectors; its logits equal the mean of their logits.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = self.pool(hidden, ends)  # (S, H)
            return pooled if last is None else self.windows(pooled, last)

    @property
    def linear(self) -> nn.Linear:
        """The linear layer of the head. Raises TypeError if the head is an MLP."""
        if not isinstance(self.layers, nn.Linear):
            raise TypeError("the head is an MLP, not one linear layer")
        return self.layers
