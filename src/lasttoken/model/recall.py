"""Packed rows that go on from tokens computed before: their keys and values are kept, and only what is new is run.

A `Past` holds the keys and values of M tokens at every attention module of a model. `go_on` lays out T new tokens, in
segments, each of which sees the first `shared` tokens of the past (a header, say), some chosen ones of the rest, and
its own tokens as a mask says. What a forward pass computes is read with `Further.joined`. No gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.model.attention import (
    KeysValues,
    attend,
    block_side,
    filler_of,
    shared_heads,
    similar,
    split_heads,
    to_read,
)
from lasttoken.model.backbone import Backbone, to_tensor

NOWHERE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values of M tokens, the first `shared` of which every later token sees."""

    shared: int
    positions: Tensor  # (M,) int64
    states: KeysValues  # of all M, as attention takes them

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class Reach:
    """Segments of similar reach, side by side."""

    rows: Tensor  # (B * L,) int64, new tokens; padding repeats the segment's first
    keys: Tensor  # (B * K,) int64, in past and new tokens joined; padding repeats the first
    allowed: Tensor  # (B, L, K) bool


@dataclass(frozen=True, eq=False)
class Further:
    """Who sees whom of T new tokens and of the past; filled with their keys and values while they are run."""

    past: Past
    positions: Tensor  # (T,) int64
    reaches: tuple[Reach, ...]
    order: Tensor  # (T + filler,) int64: token i of the row is entry order[i] of all reaches' rows, one after the other
    filler: int  # tokens that are run behind the T, as in `Layout`
    read: Tensor | None = None  # (R,) int64, as in `Layout`
    states: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # past and new joined, (M + T, W)
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # (reach, window) -> mask, made once

    @property
    def row(self) -> int:
        """Tokens that are run: T and the filler."""
        return len(self.positions) + self.filler

    def joined(self, *, shared: int | None = None) -> Past:
        """The past of what comes next, once this row has been run."""
        positions = torch.cat([self.past.positions, self.positions])
        return Past(self.past.shared if shared is None else shared, positions, self.states)

    def attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
        cap: float | None,
    ) -> Tensor:
        """Attention output of query (1, heads, T + filler, d) and key, value (1, key heads, T + filler, d), which are kept."""
        heads, width = query.shape[1], query.shape[-1]
        q, k, v = (states[0, :, : len(self.positions)].transpose(0, 1).flatten(1) for states in (query, key, value))
        if module in self.past.states:
            k, v = (torch.cat(pair) for pair in zip(self.past.states[module], (k, v), strict=True))
        self.states[module] = (k, v)
        common = self.past.shared
        shared = shared_heads(k[:common], v[:common], width) if common else None
        outputs = []
        for number, reach in enumerate(self.reaches):
            count, length, _ = reach.allowed.shape
            ours, keys, values = (
                split_heads(states.index_select(0, rows).view(count, -1, states.shape[1]), width)
                for states, rows in ((q, reach.rows), (k, reach.keys), (v, reach.keys))
            )
            mask = self.mask(number, window)
            mixed = attend(
                ours, keys, values, mask, plain=False, scale=scale, dropout=0.0, shared=shared, cap=cap
            )  # (B, heads, L, d)
            outputs.append(mixed.transpose(1, 2).reshape(count * length, heads * width))
        return torch.cat(outputs).index_select(0, self.order).view(1, -1, heads, width)

    def mask(self, number: int, window: int | None) -> Tensor:
        """The mask of a reach, shared tokens and sliding window counted in: (B, 1, L, shared + K) bool."""
        if (number, window) not in self.masks:
            reach, common = self.reaches[number], self.past.shared
            count, length, width = reach.allowed.shape
            mask = nn.functional.pad(reach.allowed, (common, 0), value=True)
            if window is not None:
                every = torch.cat([self.past.positions, self.positions])
                keys = torch.cat([every[:common].expand(count, -1), every[reach.keys].view(count, width)], dim=1)
                mask = mask & ((self.positions[reach.rows].view(count, length, 1) - keys[:, None]).abs() < window)
            self.masks[number, window] = mask[:, None]
        return self.masks[number, window]


def nothing(device: torch.device) -> Past:
    """A past of no tokens."""
    return Past(0, torch.empty(0, dtype=torch.int64, device=device), {})


def go_on(
    past: Past,
    seen: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    positions: np.ndarray,
    *,
    read: np.ndarray | None = None,
) -> Further:
    """The layout of segments that go on from `past`.

    seen: per segment the places (m,) in the past that it can see, besides the shared ones. masks: per segment (n, m + n)
    bool, query x key, the keys being those seen and then its own n tokens. positions: (T,), of all segments in order.
    read: as in `lay_out`, counted in the new tokens.
    """
    device, count = past.positions.device, len(past)
    lengths = np.array([len(mask) for mask in masks], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    reaches, order, offset = [], np.empty(len(positions), dtype=np.int64), 0
    for members in similar(np.array([mask.shape[1] for mask in masks])):
        longest = block_side(int(lengths[members].max()), device.type)
        widest = block_side(max(masks[i].shape[1] for i in members), device.type)
        rows = np.repeat(starts[members][:, None], longest, axis=1)  # (B, L)
        keys = np.repeat(count + starts[members][:, None], widest, axis=1)  # (B, K)
        allowed = np.zeros((len(members), longest, widest), dtype=bool)
        allowed[:, :, 0] = True  # for padding, which has to see something
        for row, i in enumerate(members):
            n, m = int(lengths[i]), len(seen[i])
            own = int(starts[i]) + np.arange(n)
            rows[row, :n], keys[row, :m], keys[row, m : m + n] = own, seen[i], count + own
            allowed[row, :n, : m + n] = masks[i]
            order[own] = offset + row * longest + np.arange(n)
        offset += rows.size
        flat = [torch.from_numpy(x.astype(np.int64).ravel()).to(device) for x in (rows, keys)]
        reaches.append(Reach(flat[0], flat[1], torch.from_numpy(allowed).to(device)))
    where = torch.from_numpy(positions.astype(np.int64)).to(device)
    filler = filler_of(len(positions), device.type)
    chosen = to_read(read, len(positions) + filler, device=device)
    return Further(past, where, tuple(reaches), torch.from_numpy(np.pad(order, (0, filler))).to(device), filler, chosen)


def causal(size: int) -> np.ndarray:
    """Each token sees itself and what stands before it, (size, size) bool."""
    return np.tril(np.ones((size, size), dtype=bool))


@torch.inference_mode()
def remember(backbone: Backbone, header: np.ndarray) -> Past:
    """The past that every text goes on from: the header (P,)."""
    past = nothing(backbone.device)
    if not len(header):
        return past
    layout = go_on(past, [NOWHERE], [causal(len(header))], np.arange(len(header)))
    with backbone.autocast():
        backbone.hidden(to_tensor(header, backbone), layout)
    return layout.joined(shared=len(header))
