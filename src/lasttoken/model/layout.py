"""What attends to what in a packed row: several texts one after the other, none of which sees another.

A packed row is an optional shared prefix of P tokens (or its KV cache), then segments, one text each. A segment attends
to the whole prefix and to itself: causally, or in both directions for an encoder. A segment may end in a token tree
(the answers to choose from): a token of the tree attends to the text and to its own ancestors, not to other branches.

Index tensors are built when they are first read: kernels for variable lengths need none of the buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.model.device import put
from lasttoken.model.varlen import Sequences, behind_prefix

KeysValues = Mapping[nn.Module, tuple[Tensor, Tensor]]  # by attention module: keys and values (M, key heads * d)
GRID, SIDE = 64, 16  # on a CPU, row and bucket sizes are multiples of these: see `filler_of`


@dataclass(frozen=True, eq=False)
class Bucket:
    """B segments of similar length, padded to L tokens; nothing else is padded."""

    rows: Tensor  # (B * L,) int64, token indices after the prefix; padding repeats the segment's first token
    padding: Tensor | None  # (B * L, 1) bool, where `rows` is padding; None without padding
    allowed: Tensor  # (B or 1, L, L) bool, query x key, before the sliding window
    positions: Tensor  # (B, L) int64
    plain: bool  # causal, without a tree


@dataclass(frozen=True, eq=False)
class Layout:
    """Attention pattern of one packed row of T tokens."""

    prefix: int  # P, tokens shared by all segments; 0 for none
    lengths: np.ndarray  # (segments,) int64, tokens of each segment with its tree
    trees: Sequence[np.ndarray | None]  # per segment the ancestor-or-self mask (A, A) bool of its last A tokens
    causal: bool
    places: np.ndarray  # (T,) int64, position of each token, restarted at every segment
    ends: Tensor  # (segments,) int64, index of each segment's last token before its tree
    kind: str  # device type that runs the row
    filler: int = 0  # padding tokens at the end of the row, ignored: see `filler_of`
    cached: KeysValues | None = None  # KV cache of the prefix, whose tokens are then not part of the row
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # by (bucket, window)

    @cached_property
    def positions(self) -> Tensor:
        """`places` on the device."""
        return put(self.places, self.ends.device)

    @property
    def first(self) -> int:
        """Index of the first segment's first token."""
        return 0 if self.cached is not None else self.prefix

    @property
    def starts(self) -> np.ndarray:
        """(segments,) int64, index of each segment's first token, counted after the prefix."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The segments, grouped by length."""
        return self.grouped[0]

    @property
    def order(self) -> Tensor:
        """(T + filler - P,) int64: index of each token after the prefix in the buckets' rows, concatenated."""
        return self.grouped[1]

    @cached_property
    def grouped(self) -> tuple[tuple[Bucket, ...], Tensor]:
        """(buckets, order)."""
        buckets, entries, offset = [], np.empty(int(self.lengths.sum()), dtype=np.int64), 0
        device, starts = self.ends.device, self.starts
        for members in length_buckets(self.lengths):
            own, grown = self.lengths[members].tolist(), [self.trees[i] for i in members]
            longest = padded_length(max(own), self.kind)
            real = np.arange(longest) < np.array(own)[:, None]  # (B, L)
            rows = np.where(real, starts[members][:, None] + np.arange(longest), starts[members][:, None])
            entries[rows[real]] = offset + np.flatnonzero(real)
            offset += real.size
            buckets.append(
                Bucket(
                    put(rows.ravel(), device),
                    None if real.all() else put(~real.reshape(-1, 1), device),
                    put(visibility(own, grown, self.causal, longest), device),
                    put(np.where(real, self.places[self.first + rows], 0), device),
                    self.causal and all(tree is None for tree in grown),
                )
            )
        return tuple(buckets), put(np.pad(entries, (0, self.filler)), device)

    @cached_property
    def sequences(self) -> Sequences | None:
        """The texts for a kernel of variable lengths; None with a cached prefix or a tree that branches."""
        if not len(self.lengths) or self.cached is not None or not all(map(is_chain, self.trees)):
            return None
        if self.prefix and not self.causal:
            return None
        if self.prefix:
            return behind_prefix(self.prefix, self.lengths, self.ends.device)
        bounds = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return Sequences(put(bounds, self.ends.device), int(self.lengths.max()), self.causal)


def lay_out(
    lengths: Sequence[int],
    *,
    prefix: int = 0,
    cached: KeysValues | None = None,
    trees: Sequence[np.ndarray | None] | None = None,
    causal: bool = True,
    device: torch.device | str = "cpu",
    kind: str | None = None,
) -> Layout:
    """The layout of a packed row: `prefix` tokens, then segments of `lengths` tokens.

    cached: KV cache of the prefix, whose tokens are then not part of the row.
    trees: per segment the ancestor-or-self mask (A, A) bool of its last A tokens, or None without a tree.
    kind: device type that runs the row, "cpu" or "cuda"; None is that of `device`.
    """
    device = torch.device(device)
    kind = kind or device.type
    trees, sizes = trees or [None] * len(lengths), np.asarray(lengths, dtype=np.int64)
    first = prefix if cached is None else 0
    seen = [segment_positions(n, tree, prefix) for n, tree in zip(lengths, trees, strict=True)]
    answers = np.array([0 if tree is None else len(tree) for tree in trees], dtype=np.int64)
    places = np.concatenate([np.arange(first), *seen]).astype(np.int64)
    return Layout(
        prefix,
        sizes,
        trees,
        causal,
        places,
        put(first + np.cumsum(sizes) - 1 - answers, device),
        kind,
        filler_of(len(places), kind) if len(sizes) else 0,
        cached,
    )


def is_chain(tree: np.ndarray | None) -> bool:
    """Whether a token tree (A, A), or none, has no branches: each of its tokens sees all before it."""
    return tree is None or bool(tree[np.tril_indices(len(tree))].all())


def filler_of(tokens: int, kind: str) -> int:
    """Padding tokens that round a row of T tokens up to a multiple of GRID (SIDE below 4 * GRID tokens); 0 on a GPU.

    oneDNN generates CPU code for each new matrix size and keeps about a thousand of them. Unrounded rows made training
    a small model up to 1.7 times slower (docs/lab.md).
    """
    step = GRID if tokens >= 4 * GRID else SIDE
    return -tokens % step if kind == "cpu" else 0


def padded_length(longest: int, kind: str) -> int:
    """Length L that the segments of a bucket are padded to: on a CPU a multiple of SIDE, as in `filler_of`."""
    return longest + (-longest % SIDE if kind == "cpu" else 0)


def segment_positions(length: int, tree: np.ndarray | None, prefix: int) -> np.ndarray:
    """Position ids of one segment (length,), continuing those of the prefix; in its tree, by depth."""
    if tree is None:
        return prefix + np.arange(length)
    plain = length - len(tree)
    return prefix + np.r_[np.arange(plain), plain + tree.sum(axis=1) - 1]


def visibility(lengths: Sequence[int], trees: Sequence[np.ndarray | None], causal: bool, longest: int) -> np.ndarray:
    """Attention mask of a bucket, (B or 1, L, L) bool, query x key, L = `longest`.

    Causal texts without trees share one mask: their padding comes after the last real token, which no query attends to.
    """
    if causal and all(tree is None for tree in trees):
        return np.tril(np.ones((1, longest, longest), dtype=bool))
    if not causal:
        real = np.arange(longest) < np.asarray(lengths)[:, None]
        return np.repeat(real[:, None, :], longest, axis=1)
    allowed = np.repeat(np.tril(np.ones((1, longest, longest), dtype=bool)), len(lengths), axis=0)
    for mask, length, tree in zip(allowed, lengths, trees, strict=True):
        if tree is not None:
            mask[length - len(tree) : length, length - len(tree) : length] = tree
    return allowed


def length_buckets(lengths: np.ndarray, slack: float = 1.3, free: int = 8) -> list[np.ndarray]:
    """Segment indices in groups whose longest is at most `slack` times the shortest, plus `free` tokens."""
    groups: list[list[int]] = []
    for i in np.argsort(lengths, kind="stable"):
        if groups and lengths[i] <= slack * lengths[groups[-1][0]] + free:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return [np.array(group) for group in groups]


class OtherLayout(Protocol):
    """A layout with its own attention (`CachedLayout` in model/kv_cache.py)."""

    @property
    def positions(self) -> Tensor:
        """(T,) int64."""
        ...

    @property
    def filler(self) -> int:
        """Padding tokens, as in `Layout`."""
        ...

    def attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scores: Any,
        window: int | None,
    ) -> Tensor:
        """As `packed_attention`: (1, T, heads, d)."""
        ...
