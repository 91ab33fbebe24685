"""Packed attention: several texts in one row without padding, where no text attends to another.

A packed row is an optional shared prefix of P tokens (or its KV cache), then segments, one text each. A segment attends
to the whole prefix and to itself: causally, or in both directions for an encoder. A segment may end in a token tree
(the answers to choose from): a token of the tree attends to the text and to its own ancestors, not to other branches.

Models are not patched. transformers allows registering an attention function by name; this one reads the `Layout` that
is passed as a keyword argument through the model's forward. Without a layout it raises: packed texts would silently
attend to each other (transformers PR #35861 fixes such a case).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lasttoken.model.layer_taps import Taps
from lasttoken.model.varlen import Sequences, attend_varlen

NAME = "lasttoken_packed"  # transformers builds no mask: it knows no mask function of this name
KeysValues = Mapping[nn.Module, tuple[Tensor, Tensor]]  # by attention module: keys and values (M, key heads * d)

FUSED_FROM = 1024  # keys; below this, plain matrix products are faster on a CPU than the fused kernel
TILED_FROM = 256  # the same with a prefix, AMX and no gradients; without a prefix the kernel is always faster
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
    positions: Tensor  # (T,) int64, restarted at every segment
    ends: Tensor  # (segments,) int64, index of each segment's last token before its tree
    buckets: tuple[Bucket, ...]
    order: Tensor  # (T + filler - P,) int64: index of each token after the prefix in the buckets' rows, concatenated
    filler: int = 0  # padding tokens at the end of the row, ignored: see `filler_of`
    sequences: Sequences | None = None  # None with a prefix or trees
    cached: KeysValues | None = None  # KV cache of the prefix, whose tokens are then not part of the row
    taps: Taps | None = None  # layers whose hidden states are to be returned
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # by (bucket, window)

    @property
    def first(self) -> int:
        """Index of the first segment's first token."""
        return 0 if self.cached is not None else self.prefix


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
    kind = kind or torch.device(device).type
    trees = trees or [None] * len(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)  # after the prefix
    seen = [segment_positions(n, tree, prefix) for n, tree in zip(lengths, trees, strict=True)]
    first = prefix if cached is None else 0  # index of the first segment
    ends = [first + s + n - 1 - (0 if t is None else len(t)) for s, n, t in zip(starts, lengths, trees, strict=True)]
    buckets, entries, offset = [], np.empty(sum(lengths), dtype=np.int64), 0
    for members in length_buckets(np.asarray(lengths)):
        own, grown = [lengths[i] for i in members], [trees[i] for i in members]
        longest = padded_length(max(own), kind)
        real = np.arange(longest) < np.array(own)[:, None]  # (B, L)
        rows = np.where(real, starts[members][:, None] + np.arange(longest), starts[members][:, None])
        entries[rows[real]] = offset + np.flatnonzero(real)
        offset += real.size
        positions = np.stack([np.pad(seen[i], (0, longest - lengths[i])) for i in members])
        buckets.append(
            Bucket(
                torch.from_numpy(rows.ravel()).to(device),
                None if real.all() else torch.from_numpy(~real.reshape(-1, 1)).to(device),
                torch.from_numpy(visibility(own, grown, causal, longest)).to(device),
                torch.from_numpy(positions).to(device),
                causal and all(tree is None for tree in grown),
            )
        )
    positions = np.concatenate([np.arange(first), *seen]).astype(np.int64)
    filler = filler_of(len(positions), kind) if buckets else 0
    sequences = None
    if buckets and not prefix and all(tree is None for tree in trees):
        bounds = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
        sequences = Sequences(bounds, max(lengths), causal)
    return Layout(
        prefix,
        torch.from_numpy(positions).to(device),
        torch.tensor(np.array(ends, dtype=np.int64), device=device),
        tuple(buckets),
        torch.from_numpy(np.pad(entries, (0, filler))).to(device),
        filler,
        sequences,
        cached,
    )


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

    @property
    def taps(self) -> Taps | None:
        """As in `Layout`."""
        ...

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
        """As `packed_attention`: (1, T, heads, d)."""
        ...


class Pad(torch.autograd.Function):
    """A packed row (T, W) into buckets (B * L, W). Backward is one gather, because each real token appears once."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.order, ctx.filler = layout.order, layout.filler
        return tuple(states.index_select(0, bucket.rows) for bucket in layout.buckets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = torch.cat(grads).index_select(0, ctx.order)
        grad[len(grad) - ctx.filler :] = 0
        return grad, None


class Unpad(torch.autograd.Function):
    """Buckets (B * L, W) back into a packed row (T, W), without padding."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *buckets: Tensor) -> Tensor:
        ctx.layout = layout
        return torch.cat(buckets).index_select(0, layout.order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        spread = [(grad.index_select(0, bucket.rows), bucket.padding) for bucket in ctx.layout.buckets]
        return None, *(g if padding is None else g.masked_fill_(padding, 0) for g, padding in spread)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Layout | OtherLayout | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention output (1, T, heads, d) of query (1, heads, T, d) and key, value (1, key heads, T, d) under `layout`.

    T includes the layout's filler, whose output is meaningless.
    """
    if layout is None:
        raise RuntimeError(f"{type(module).__name__} did not hand on the layout: packed texts would see each other")
    if unused.get("s_aux") is not None or unused.get("position_bias") is not None:
        raise RuntimeError(f"{type(module).__name__} uses an attention that packing does not know (sink or bias)")
    heads, width = query.shape[1], query.shape[-1]
    scale = scaling if scaling is not None else width**-0.5
    if not isinstance(layout, Layout):
        return layout.attention(module, query, key, value, scale=scale, window=sliding_window, cap=softcap), None
    first, rate = layout.first, dropout if module.training else 0.0
    if not rate and softcap is None:
        whole = attend_varlen(query, key, value, layout.sequences, scale=scale, window=sliding_window)
        if whole is not None:
            return whole, None
    q, k, v = (
        states[0].transpose(0, 1).flatten(1) for states in (query, key, value)
    )  # (T, heads * d), (T, key heads * d)
    seen = (k[:first], v[:first]) if layout.cached is None else layout.cached[module]
    shared, outputs = shared_heads(*seen, width) if layout.prefix else None, []
    for number, parts in enumerate(zip(*(Pad.apply(states[first:], layout) for states in (q, k, v)), strict=True)):
        count, length = layout.buckets[number].positions.shape
        own = [split_heads(states.view(count, length, -1), width) for states in parts]  # (B, heads, L, d)
        plain = layout.buckets[number].plain and not layout.prefix and sliding_window is None
        mask = bucket_mask(layout, number, sliding_window)
        mixed = attend(
            own[0], own[1], own[2], Visible(mask, plain), scale=scale, dropout=rate, shared=shared, cap=softcap
        )
        outputs.append(mixed.transpose(1, 2).reshape(count * length, heads * width))
    out = Unpad.apply(layout, *outputs) if outputs else q[:0]
    if first:
        head = prefix_mask(layout, sliding_window)
        own = [split_heads(states[None, :first], width) for states in (q, k, v)]
        plain = sliding_window is None
        mixed = attend(own[0], own[1], own[2], Visible(head, plain), scale=scale, dropout=rate, cap=softcap)
        out = torch.cat([mixed[0].transpose(0, 1).flatten(1), out])
    return out.view(1, -1, heads, width), None


def split_heads(states: Tensor, width: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    return states.unflatten(2, (-1, width)).transpose(1, 2)


def shared_heads(key: Tensor, value: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Keys and values (P, key heads * d) of the prefix, as (key heads, P, d) each."""
    return split_heads(key[None], width)[0], split_heads(value[None], width)[0]


class Visible(NamedTuple):
    """Attention mask of a bucket."""

    mask: Tensor  # (B or 1, 1, L, P + K) bool, query x key
    plain: bool = False  # whether the mask is only causal


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visible,
    *,
    scale: float,
    dropout: float,
    shared: tuple[Tensor, Tensor] | None = None,
    cap: float | None = None,
) -> Tensor:
    """softmax(q k' * scale) v, (B, heads, L, d), by torch's fused kernel or by matrix products, whichever is faster.

    q: (B, heads, L, d). k, v: (B, key heads, K, d). shared: keys and values (key heads, P, d) of a shared prefix.
    cap: scores s become cap * tanh(s / cap), as in Gemma 2; torch's fused kernel does not support it.
    """
    count, heads, length, width = q.shape
    groups = heads // k.shape[1]
    prefix = 0 if shared is None else shared[0].shape[1]
    fused = cap is None and (q.device.type != "cpu" or prefix + k.shape[2] >= fused_from(q.dtype, prefix))
    if shared is not None and (fused or heads * length > k.shape[1] * width):  # else scores are cheaper to copy
        k, v = behind(shared, k, v)
        prefix, shared = 0, None
    if fused:
        if groups > 1 and not visible.plain:  # with a mask, few kernels support grouped-query attention
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            groups = 1
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            None if visible.plain else visible.mask,
            dropout,
            is_causal=visible.plain,
            scale=scale,
            enable_gqa=groups > 1,
        )
    q = (q * scale).reshape(count, -1, groups * length, width)  # query heads of one key head, stacked
    scores = q @ k.transpose(-1, -2)  # (B, key heads, groups * L, K)
    if shared is not None:
        scores = torch.cat([times_shared(q, shared[0].transpose(-1, -2)), scores], dim=-1)
    scores = scores.view(count, heads, length, -1)  # (B, heads, L, P + K)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    weights = scores.masked_fill_(~visible.mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    weights = weights.view(count, -1, groups * length, prefix + k.shape[2])
    mixed = weights[..., prefix:] @ v
    if shared is not None:
        mixed = mixed + times_shared(weights[..., :prefix], shared[1])
    return mixed.view(count, heads, length, width)


def fused_from(dtype: torch.dtype, prefix: int) -> int:
    """Number of keys from which torch's fused kernel is faster on this CPU (measured: docs/lab.md)."""
    if dtype == torch.bfloat16 and not torch.is_grad_enabled() and torch.cpu._is_amx_tile_supported():
        return TILED_FROM if prefix else 0
    return FUSED_FROM


def behind(shared: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, key heads, P + K, d): the shared ones (key heads, P, d), then each segment's own."""
    first, second = (torch.cat([x.expand(len(y), -1, -1, -1), y], dim=2) for x, y in zip(shared, (k, v), strict=True))
    return first, second


def times_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """rows (B, key heads, n, m) @ shared (key heads, m, p) -> (B, key heads, n, p), without B copies of `shared`."""
    count, heads, size, _ = rows.shape
    return (rows.transpose(0, 1).reshape(heads, count * size, -1) @ shared).view(heads, count, size, -1).transpose(0, 1)


def bucket_mask(layout: Layout, number: int, window: int | None) -> Tensor:
    """The mask of a bucket with prefix and sliding window, (B or 1, 1, L, P + L) bool. Computed once per layout."""
    key = (number, window)
    if key not in layout.masks:
        bucket = layout.buckets[number]
        mask = bucket.allowed
        if layout.prefix:
            mask = F.pad(mask, (layout.prefix, 0), value=True)
        if window is not None:
            place = F.pad(bucket.positions, (layout.prefix, 0))
            place[:, : layout.prefix] = torch.arange(layout.prefix, device=place.device)
            mask = mask & ((bucket.positions[:, :, None] - place[:, None, :]).abs() < window)
        layout.masks[key] = mask[:, None]
    return layout.masks[key]


def prefix_mask(layout: Layout, window: int | None) -> Tensor:
    """The causal mask of the shared prefix, (1, 1, P, P) bool."""
    key = (-1, window)
    if key not in layout.masks:
        place = layout.positions[: layout.prefix]
        distance = place[:, None] - place[None, :]
        layout.masks[key] = ((distance >= 0) & (distance < (window or layout.prefix + 1)))[None, None]
    return layout.masks[key]


AttentionInterface.register(NAME, packed_attention)
