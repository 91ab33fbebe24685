"""Attention over packed rows: several texts in one sequence, none of which sees another, and no padding around them.

A packed row is an optional shared prefix (P tokens), then segments (one text each). Every segment sees the whole
prefix, and itself: causally, or both ways for an encoder. A segment may end in a tree (say, the answers to choose
from): a token of the tree sees the text before it and its own ancestors, never the other branches.

Models are not patched. transformers lets one register an attention function by name; ours reads the `Layout` that
travels as a keyword argument through the model's forward. It refuses to run without one, because a boundary that
gets lost on the way would mix texts silently (transformers PR #35861 tells of one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "lasttoken_packed"  # without a mask function of this name, transformers builds no mask
FUSED_FROM = 1024  # keys; on CPU in bfloat16, plain matrix products beat the fused kernel below this


@dataclass(frozen=True, eq=False)
class Block:
    """Segments of similar length, side by side: the only place where anything is padded."""

    rows: Tensor  # (B, L) int64, indices into the packed row; padding repeats the segment's first token
    inverse: Tensor  # (tokens of the block,) int64, where each of its tokens stands in the flattened (B * L)
    tokens: Tensor  # (tokens of the block,) int64, where they stand in the packed row
    allowed: Tensor  # (B or 1, L, L) bool, query x key, window not counted
    positions: Tensor  # (B, L) int64


@dataclass(frozen=True, eq=False)
class Layout:
    """Who sees whom in one packed row of T tokens."""

    prefix: int  # P, 0 for none
    positions: Tensor  # (T,) int64, restarted at every segment
    ends: Tensor  # (segments,) int64, index of each segment's last token before its tree
    blocks: tuple[Block, ...]
    order: Tensor  # (T - P,) int64: token P + i of the row is entry order[i] of all blocks, one after the other
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # (block, window) -> mask, made once


def lay_out(
    lengths: Sequence[int],
    *,
    prefix: int = 0,
    trees: Sequence[np.ndarray | None] | None = None,
    causal: bool = True,
    device: torch.device | str = "cpu",
) -> Layout:
    """The layout of a packed row: `prefix` tokens, then segments of `lengths` tokens.

    trees: per segment the ancestors-or-self matrix (A, A) bool of its last A tokens, or None for a plain text.
    """
    trees = trees or [None] * len(lengths)
    starts = prefix + np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    seen = [segment_positions(n, tree, prefix) for n, tree in zip(lengths, trees, strict=True)]
    ends = [s + n - 1 - (0 if t is None else len(t)) for s, n, t in zip(starts, lengths, trees, strict=True)]
    blocks = []
    for members in similar(np.asarray(lengths)):
        longest = max(lengths[i] for i in members)
        rows = np.stack(
            [np.r_[starts[i] + np.arange(lengths[i]), np.full(longest - lengths[i], starts[i])] for i in members]
        )
        positions = np.stack([np.pad(seen[i], (0, longest - lengths[i])) for i in members])
        real = np.arange(longest) < np.array([lengths[i] for i in members])[:, None]
        blocks.append(
            Block(
                torch.from_numpy(rows).to(device),
                torch.from_numpy(np.flatnonzero(real.ravel())).to(device),
                torch.from_numpy(rows[real]).to(device),
                torch.from_numpy(visibility([lengths[i] for i in members], [trees[i] for i in members], causal)).to(
                    device
                ),
                torch.from_numpy(positions).to(device),
            )
        )
    tokens = torch.cat([block.tokens for block in blocks]) if blocks else torch.zeros(0, dtype=torch.int64)
    positions = np.concatenate([np.arange(prefix), *seen]).astype(np.int64)
    return Layout(
        prefix,
        torch.from_numpy(positions).to(device),
        torch.tensor(np.array(ends, dtype=np.int64), device=device),
        tuple(blocks),
        torch.argsort(tokens),
    )


def segment_positions(length: int, tree: np.ndarray | None, prefix: int) -> np.ndarray:
    """Positions of one segment (length,): counted on from the prefix; in its tree, by depth."""
    if tree is None:
        return prefix + np.arange(length)
    plain = length - len(tree)
    return prefix + np.r_[np.arange(plain), plain + tree.sum(axis=1) - 1]


def visibility(lengths: Sequence[int], trees: Sequence[np.ndarray | None], causal: bool) -> np.ndarray:
    """Which key each query may see, (B or 1, L, L) bool; one mask for all where their lengths need no telling apart.

    Causal texts need none: their padding stands behind the last real token, where no real query looks.
    """
    longest = max(lengths)
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


class Pad(torch.autograd.Function):
    """(heads, T, d) -> (heads, B, L, d). Each real token stands in the block once, so backward is a gather too."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, block: Block) -> Tensor:
        ctx.block, ctx.tokens = block, states.shape[1]
        return states[:, block.rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        block = ctx.block
        out = grad.new_zeros(grad.shape[0], ctx.tokens, grad.shape[-1])
        out[:, block.tokens] = grad.flatten(1, 2)[:, block.inverse]
        return out, None


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
    layout: Layout | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention output (1, T, heads, d) of query (1, heads, T, d) and key, value (1, key heads, T, d) under `layout`."""
    if layout is None:
        raise RuntimeError(f"{type(module).__name__} did not hand on the layout: packed texts would see each other")
    if unused.get("s_aux") is not None or unused.get("position_bias") is not None or softcap is not None:
        raise RuntimeError(
            f"{type(module).__name__} uses an attention that packing does not know (sink, bias or soft cap)"
        )
    heads, width = query.shape[1], query.shape[-1]
    scale = scaling if scaling is not None else width**-0.5
    groups = heads // key.shape[1]
    q, k, v = query[0], key[0], value[0]  # (heads, T, d), (key heads, T, d)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
    prefix, rate = layout.prefix, dropout if module.training else 0.0
    outputs = []
    for number, block in enumerate(layout.blocks):
        own: list[Any] = [Pad.apply(states, block) for states in (q, k, v)]  # (heads, B, L, d)
        own = [states.transpose(0, 1) for states in own]  # (B, heads, L, d)
        if prefix:
            shared = [states[:, :prefix].expand(len(block.rows), -1, -1, -1) for states in (k, v)]
            own[1:] = [torch.cat(pair, dim=2) for pair in zip(shared, own[1:], strict=True)]  # (B, heads, P + L, d)
        mask = block_mask(layout, number, sliding_window)
        mixed = attend(own[0], own[1], own[2], mask, scale=scale, dropout=rate)  # (B, heads, L, d)
        outputs.append(mixed.transpose(0, 1).flatten(1, 2)[:, block.inverse])  # (heads, tokens, d)
    out = torch.cat(outputs, dim=1)[:, layout.order] if outputs else q[:, :0]
    if prefix:
        head = prefix_mask(layout, sliding_window)
        q, k, v = (states[None, :, :prefix] for states in (q, k, v))
        first = attend(q, k, v, head, scale=scale, dropout=rate)[0]
        out = torch.cat([first, out], dim=1)
    return out.transpose(0, 1)[None], None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float, dropout: float) -> Tensor:
    """softmax(q k' * scale) v under a mask (B or 1, 1, L, K) bool; whichever of two ways is faster here."""
    if q.device.type != "cpu" or k.shape[2] >= FUSED_FROM:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, dropout_p=dropout)
    scores = (q * scale) @ k.transpose(-1, -2)  # (B, heads, L, K)
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v if dropout else weights @ v


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
