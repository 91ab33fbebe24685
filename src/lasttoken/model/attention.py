"""Attention over packed rows: several texts in one sequence, none of which sees another, and no padding around them.

A packed row is an optional shared prefix (P tokens; or only its keys and values, from an earlier row), then segments
(one text each). Every segment sees the whole prefix, and itself: causally, or both ways for an encoder. A segment may
end in a tree (say, the answers to choose from): a token of the tree sees the text before it and its own ancestors, never
the other branches.

Models are not patched. transformers lets one register an attention function by name; ours reads the `Layout` that
travels as a keyword argument through the model's forward. It refuses to run without one, because a boundary that
gets lost on the way would mix texts silently (transformers PR #35861 tells of one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lasttoken.model.varlen import Stretches, attend_stretches

NAME = "lasttoken_packed"  # without a mask function of this name, transformers builds no mask
KeysValues = Mapping[nn.Module, tuple[Tensor, Tensor]]  # by attention module: keys and values (M, key heads * d)

FUSED_FROM = 1024  # keys; on a CPU, plain matrix products beat the fused kernel below this
TILED_FROM = 256  # the same behind a prefix, with AMX and no gradients; without a prefix the kernel always wins
GRID, SIDE = 64, 16  # tokens that rows and blocks come in multiples of on a CPU: see `filler_of`


@dataclass(frozen=True, eq=False)
class Block:
    """Segments of similar length, side by side: the only place where anything is padded."""

    rows: (
        Tensor  # (B * L,) int64, tokens of the packed row behind its prefix; padding repeats the segment's first token
    )
    padding: Tensor | None  # (B * L, 1) bool, where `rows` is padding; None where nothing is
    allowed: Tensor  # (B or 1, L, L) bool, query x key, window not counted
    positions: Tensor  # (B, L) int64
    plain: bool  # causal, without a tree


@dataclass(frozen=True, eq=False)
class Layout:
    """Who sees whom in one packed row of T tokens."""

    prefix: int  # P, tokens that every segment sees, 0 for none
    positions: Tensor  # (T,) int64, restarted at every segment
    ends: Tensor  # (segments,) int64, index of each segment's last token before its tree
    blocks: tuple[Block, ...]
    order: Tensor  # (T + filler - P,) int64: token i behind the prefix is entry order[i] of all blocks' rows, one after the other
    filler: int = 0  # tokens that are run behind the T and read by nobody, for the sake of the row's size
    stretches: Stretches | None = None  # of a row without prefix and trees
    kept: KeysValues | None = None  # keys and values of the prefix, whose tokens then do not stand in the row
    read: Tensor | None = None  # (R,) int64, tokens whose last state is read, and a few more; None: any may be
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # (block, window) -> mask, made once

    @property
    def row(self) -> int:
        """Tokens that are run: T and the filler."""
        return len(self.positions) + self.filler

    @property
    def first(self) -> int:
        """Where in the row the first segment begins."""
        return 0 if self.kept is not None else self.prefix


def lay_out(
    lengths: Sequence[int],
    *,
    prefix: int = 0,
    kept: KeysValues | None = None,
    trees: Sequence[np.ndarray | None] | None = None,
    read: np.ndarray | None = None,
    causal: bool = True,
    device: torch.device | str = "cpu",
    kind: str | None = None,
) -> Layout:
    """The layout of a packed row: `prefix` tokens, then segments of `lengths` tokens.

    kept: keys and values of the prefix, of a row run before; its tokens then do not stand in this one.
    trees: per segment the ancestors-or-self matrix (A, A) bool of its last A tokens, or None for a plain text.
    read: indices of the tokens whose state after the last block is of use (model/blocks.py); None: all.
    kind: what runs it, "cpu" or "cuda", where that is not the device that the layout stands on.
    """
    kind = kind or torch.device(device).type
    trees = trees or [None] * len(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)  # counted behind the prefix
    seen = [segment_positions(n, tree, prefix) for n, tree in zip(lengths, trees, strict=True)]
    first = prefix if kept is None else 0  # where segments begin
    ends = [first + s + n - 1 - (0 if t is None else len(t)) for s, n, t in zip(starts, lengths, trees, strict=True)]
    blocks, entries, offset = [], np.empty(sum(lengths), dtype=np.int64), 0
    for members in similar(np.asarray(lengths)):
        own, grown = [lengths[i] for i in members], [trees[i] for i in members]
        longest = block_side(max(own), kind)
        real = np.arange(longest) < np.array(own)[:, None]  # (B, L)
        rows = np.where(real, starts[members][:, None] + np.arange(longest), starts[members][:, None])
        entries[rows[real]] = offset + np.flatnonzero(real)
        offset += real.size
        positions = np.stack([np.pad(seen[i], (0, longest - lengths[i])) for i in members])
        blocks.append(
            Block(
                torch.from_numpy(rows.ravel()).to(device),
                None if real.all() else torch.from_numpy(~real.reshape(-1, 1)).to(device),
                torch.from_numpy(visibility(own, grown, causal, longest)).to(device),
                torch.from_numpy(positions).to(device),
                causal and all(tree is None for tree in grown),
            )
        )
    positions = np.concatenate([np.arange(first), *seen]).astype(np.int64)
    filler = filler_of(len(positions), kind) if blocks else 0
    stretches = None
    if blocks and not prefix and all(tree is None for tree in trees):
        bounds = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
        stretches = Stretches(bounds, max(lengths), causal)
    return Layout(
        prefix,
        torch.from_numpy(positions).to(device),
        torch.tensor(np.array(ends, dtype=np.int64), device=device),
        tuple(blocks),
        torch.from_numpy(np.pad(entries, (0, filler))).to(device),
        filler,
        stretches,
        kept,
        to_read(read, len(positions) + filler, device=device),
    )


def filler_of(tokens: int, kind: str) -> int:
    """Tokens to run behind a row of T tokens so that rows come in few sizes, none on a GPU.

    A CPU's matrix products are generated for every size they meet, and kept for a thousand sizes: rows of any length made
    the training of a small model up to 1.7 times as slow (docs/lab.md). Up to the next multiple of GRID; of SIDE for a row
    so short that GRID could cost a quarter of it.
    """
    step = GRID if tokens >= 4 * GRID else SIDE
    return -tokens % step if kind == "cpu" else 0


def block_side(longest: int, kind: str) -> int:
    """The length L that the segments of a block are padded to, for the same reason."""
    return longest + (-longest % SIDE if kind == "cpu" else 0)


def to_read(places: np.ndarray | None, row: int, *, device: torch.device | str = "cpu") -> Tensor | None:
    """`places` and as many other tokens of a row as make their number a multiple of SIDE, (R,) int64, for the same reason;
    on a GPU too, where one token alone may go through another kernel than two.

    None where they are more than half of the row: to gather them would save little.
    """
    if places is None:
        return None
    wanted = np.zeros(row, dtype=bool)
    wanted[places] = True
    more = -np.count_nonzero(wanted) % SIDE
    wanted[np.flatnonzero(~wanted)[::-1][:more]] = True
    found = np.flatnonzero(wanted)
    return torch.from_numpy(found).to(device) if 2 * len(found) <= row else None


def segment_positions(length: int, tree: np.ndarray | None, prefix: int) -> np.ndarray:
    """Positions of one segment (length,): counted on from the prefix; in its tree, by depth."""
    if tree is None:
        return prefix + np.arange(length)
    plain = length - len(tree)
    return prefix + np.r_[np.arange(plain), plain + tree.sum(axis=1) - 1]


def visibility(lengths: Sequence[int], trees: Sequence[np.ndarray | None], causal: bool, longest: int) -> np.ndarray:
    """Which key each query may see, (B or 1, L, L) bool for L = `longest`; one for all where lengths need no telling apart.

    Causal texts need none: their padding stands behind the last real token, where no real query looks.
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


def similar(lengths: np.ndarray, slack: float = 1.3, free: int = 8) -> list[np.ndarray]:
    """Segments grouped so that the longest of a group is at most `slack` times the shortest, plus `free` tokens."""
    groups: list[list[int]] = []
    for i in np.argsort(lengths, kind="stable"):
        if groups and lengths[i] <= slack * lengths[groups[-1][0]] + free:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return [np.array(group) for group in groups]


class OtherLayout(Protocol):
    """A layout that attends in its own way (model/recall.py)."""

    @property
    def row(self) -> int:
        """Tokens that are run, as in `Layout`."""
        ...

    @property
    def read(self) -> Tensor | None:
        """Tokens whose last state is read, as in `Layout`."""
        ...

    @property
    def positions(self) -> Tensor:
        """(T,) int64."""
        ...

    @property
    def filler(self) -> int:
        """Tokens behind the T, as in `Layout`."""
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
    """A packed row (T, W) into blocks (B * L, W) each; backward is one gather, because each real token stands once."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.order, ctx.filler = layout.order, layout.filler
        return tuple(states.index_select(0, block.rows) for block in layout.blocks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = torch.cat(grads).index_select(0, ctx.order)
        grad[len(grad) - ctx.filler :] = 0
        return grad, None


class Unpad(torch.autograd.Function):
    """Blocks (B * L, W) back into a packed row (T, W); what padding computed is left behind."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *blocks: Tensor) -> Tensor:
        ctx.layout = layout
        return torch.cat(blocks).index_select(0, layout.order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        spread = [(grad.index_select(0, block.rows), block.padding) for block in ctx.layout.blocks]
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

    T counts the layout's filler, whose output means nothing.
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
        whole = attend_stretches(query, key, value, layout.stretches, scale=scale, window=sliding_window)
        if whole is not None:
            return whole, None
    q, k, v = (
        states[0].transpose(0, 1).flatten(1) for states in (query, key, value)
    )  # (T, heads * d), (T, key heads * d)
    seen = (k[:first], v[:first]) if layout.kept is None else layout.kept[module]
    shared, outputs = shared_heads(*seen, width) if layout.prefix else None, []
    for number, parts in enumerate(zip(*(Pad.apply(states[first:], layout) for states in (q, k, v)), strict=True)):
        count, length = layout.blocks[number].positions.shape
        own = [split_heads(states.view(count, length, -1), width) for states in parts]  # (B, heads, L, d)
        plain = layout.blocks[number].plain and not layout.prefix and sliding_window is None
        mask = block_mask(layout, number, sliding_window)
        mixed = attend(own[0], own[1], own[2], mask, plain=plain, scale=scale, dropout=rate, shared=shared, cap=softcap)
        outputs.append(mixed.transpose(1, 2).reshape(count * length, heads * width))
    out = Unpad.apply(layout, *outputs) if outputs else q[:0]
    if first:
        head = prefix_mask(layout, sliding_window)
        own = [split_heads(states[None, :first], width) for states in (q, k, v)]
        plain = sliding_window is None
        mixed = attend(own[0], own[1], own[2], head, plain=plain, scale=scale, dropout=rate, cap=softcap)
        out = torch.cat([mixed[0].transpose(0, 1).flatten(1), out])
    return out.view(1, -1, heads, width), None


def split_heads(states: Tensor, width: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    return states.unflatten(2, (-1, width)).transpose(1, 2)


def shared_heads(key: Tensor, value: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Keys and values (P, key heads * d) that every segment sees, as (key heads, P, d) each."""
    return split_heads(key[None], width)[0], split_heads(value[None], width)[0]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    *,
    plain: bool,
    scale: float,
    dropout: float,
    shared: tuple[Tensor, Tensor] | None = None,
    cap: float | None = None,
) -> Tensor:
    """softmax(q k' * scale) v, whichever of two ways is faster here: (B, heads, L, d).

    q: (B, heads, L, d). k, v: (B, key heads, K, d). shared: keys and values (key heads, P, d) that stand before all of them.
    mask: (B or 1, 1, L, P + K) bool. plain: the mask is causal and nothing else. cap: scores s become cap * tanh(s / cap),
    as in Gemma 2, which no fused kernel of torch knows.
    """
    count, heads, length, width = q.shape
    groups = heads // k.shape[1]
    prefix = 0 if shared is None else shared[0].shape[1]
    fused = cap is None and (q.device.type != "cpu" or prefix + k.shape[2] >= fused_from(q.dtype, prefix))
    if shared is not None and (fused or heads * length > k.shape[1] * width):  # else scores are less to copy than keys
        k, v = behind(shared, k, v)
        prefix, shared = 0, None
    if fused:
        if groups > 1 and not plain:  # with a mask, few kernels know heads that share keys
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            groups = 1
        return F.scaled_dot_product_attention(
            q, k, v, None if plain else mask, dropout, is_causal=plain, scale=scale, enable_gqa=groups > 1
        )
    q = (q * scale).reshape(count, -1, groups * length, width)  # heads that share keys, one below the other
    scores = q @ k.transpose(-1, -2)  # (B, key heads, groups * L, K)
    if shared is not None:
        scores = torch.cat([times_shared(q, shared[0].transpose(-1, -2)), scores], dim=-1)
    scores = scores.view(count, heads, length, -1)  # (B, heads, L, P + K)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    weights = scores.masked_fill_(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    weights = weights.view(count, -1, groups * length, prefix + k.shape[2])
    mixed = weights[..., prefix:] @ v
    if shared is not None:
        mixed = mixed + times_shared(weights[..., :prefix], shared[1])
    return mixed.view(count, heads, length, width)


def fused_from(dtype: torch.dtype, prefix: int) -> int:
    """Keys from which torch's fused kernel is the faster of the two on this CPU (measured: docs/lab.md)."""
    if dtype == torch.bfloat16 and not torch.is_grad_enabled() and torch.cpu._is_amx_tile_supported():
        return TILED_FROM if prefix else 0
    return FUSED_FROM


def behind(shared: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, key heads, P + K, d) with the shared ones (key heads, P, d) before each segment's own."""
    first, second = (torch.cat([x.expand(len(y), -1, -1, -1), y], dim=2) for x, y in zip(shared, (k, v), strict=True))
    return first, second


def times_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """rows (B, key heads, n, m) @ shared (key heads, m, p) -> (B, key heads, n, p): one product a head, shared not copied B times."""
    count, heads, size, _ = rows.shape
    return (rows.transpose(0, 1).reshape(heads, count * size, -1) @ shared).view(heads, count, size, -1).transpose(0, 1)


def block_mask(layout: Layout, number: int, window: int | None) -> Tensor:
    """The mask of a block, prefix and sliding window counted in: (B or 1, 1, L, P + L) bool. Made once a forward pass."""
    key = (number, window)
    if key not in layout.masks:
        block = layout.blocks[number]
        mask = block.allowed
        if layout.prefix:
            mask = F.pad(mask, (layout.prefix, 0), value=True)
        if window is not None:
            place = F.pad(block.positions, (layout.prefix, 0))
            place[:, : layout.prefix] = torch.arange(layout.prefix, device=place.device)
            mask = mask & ((block.positions[:, :, None] - place[:, None, :]).abs() < window)
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
