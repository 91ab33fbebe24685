"""Packed attention: several texts in one row without padding, where no text attends to another (model/layout.py).

Models are not patched. transformers allows registering an attention function by name; this one reads the `Layout` that
is passed as a keyword argument through the model's forward. Without a layout it raises: packed texts would silently
attend to each other (transformers PR #35861 fixes such a case).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lasttoken.model.layout import Layout, OtherLayout
from lasttoken.model.varlen import attend_varlen

NAME = "lasttoken_packed"  # transformers builds no mask: it knows no mask function of this name
FUSED_FROM = 1024  # keys; below this, plain matrix products are faster on a CPU than the fused kernel
TILED_FROM = 256  # the same with a prefix, AMX and no gradients; without a prefix the kernel is always faster


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
    s_aux: Tensor | None = None,
    layout: Layout | OtherLayout | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention output (1, T, heads, d) of query (1, heads, T, d) and key, value (1, key heads, T, d) under `layout`.

    T includes the layout's filler, whose output is meaningless. s_aux: (heads,) attention sinks, as in gpt-oss: a score
    for attending to nothing. Raises RuntimeError on an argument that it does not know how to use.
    """
    if layout is None:
        raise RuntimeError(f"{type(module).__name__} did not hand on the layout: packed texts would see each other")
    refuse_unknown(module, attention_mask, unused)
    scores = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    if not isinstance(layout, Layout):
        return layout.attention(module, query, key, value, scores=scores, window=sliding_window), None
    first, rate, heads = layout.first, dropout if module.training else 0.0, query.shape[1]
    if not rate and scores.plain:
        whole = attend_varlen(query, key, value, layout.sequences, scale=scores.scale, window=sliding_window)
        if whole is not None:
            return whole, None
    sizes = query.shape[-1], key.shape[-1], value.shape[-1]
    q, k, v = (states[0].transpose(0, 1).flatten(1) for states in (query, key, value))  # (T, heads * d) each
    seen = (k[:first], v[:first]) if layout.cached is None else layout.cached[module]
    shared, outputs = shared_heads(*seen, sizes[1:]) if layout.prefix else None, []
    for number, parts in enumerate(zip(*(Pad.apply(states[first:], layout) for states in (q, k, v)), strict=True)):
        count, length = layout.buckets[number].positions.shape
        own = [split_heads(states.view(count, length, -1), d) for states, d in zip(parts, sizes, strict=True)]
        plain = layout.buckets[number].plain and not layout.prefix and sliding_window is None
        mask = bucket_mask(layout, number, sliding_window)
        mixed = attend(own[0], own[1], own[2], Visible(mask, plain), scores, dropout=rate, shared=shared)
        outputs.append(mixed.transpose(1, 2).reshape(count * length, -1))
    out = Unpad.apply(layout, *outputs) if outputs else v.new_zeros(0, heads * sizes[2])
    if first:
        mask = Visible(prefix_mask(layout, sliding_window), sliding_window is None)
        own = [split_heads(states[None, :first], d) for states, d in zip((q, k, v), sizes, strict=True)]
        mixed = attend(own[0], own[1], own[2], mask, scores, dropout=rate)
        out = torch.cat([mixed[0].transpose(0, 1).flatten(1), out])
    return out.view(1, -1, heads, sizes[2]), None


HARMLESS = {"position_ids", "cache_position"}  # tensors that some models hand to attention without need


def refuse_unknown(module: nn.Module, mask: Tensor | None, unused: Mapping[str, object]) -> None:
    """Raises RuntimeError on a mask (transformers makes none for this function), a bias, or an unknown tensor."""
    given = [name for name, value in unused.items() if isinstance(value, Tensor) and name not in HARMLESS]
    if mask is not None or given:
        names = ", ".join(given) or "a mask of its own"
        raise RuntimeError(f"{type(module).__name__} attends by {names}, which packing does not know")


def split_heads(states: Tensor, width: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    return states.unflatten(2, (-1, width)).transpose(1, 2)


def shared_heads(key: Tensor, value: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keys and values (P, key heads * d) of the prefix, as (key heads, P, d) each. sizes: d of each."""
    return split_heads(key[None], sizes[0])[0], split_heads(value[None], sizes[1])[0]


class Visible(NamedTuple):
    """Attention mask of a bucket."""

    mask: Tensor  # (B or 1, 1, L, P + K) bool, query x key
    plain: bool = False  # whether the mask is only causal


class Scores(NamedTuple):
    """How attention scores are made of queries and keys."""

    scale: float
    cap: float | None = None  # scores s become cap * tanh(s / cap), as in Gemma 2
    sink: Tensor | None = None  # (heads,), a score for attending to nothing, as in gpt-oss

    @property
    def plain(self) -> bool:
        """Whether torch's fused kernel computes them."""
        return self.cap is None and self.sink is None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visible,
    how: Scores,
    *,
    dropout: float = 0.0,
    shared: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """softmax(q k' * scale) v, (B, heads, L, d of v), by torch's fused kernel or by matrix products, whichever is faster.

    q: (B, heads, L, d). k, v: (B, key heads, K, d). shared: keys and values (key heads, P, d) of a shared prefix.
    """
    count, heads, length, width = q.shape
    groups = heads // k.shape[1]
    prefix = 0 if shared is None else shared[0].shape[1]
    fused = how.plain and (q.device.type != "cpu" or prefix + k.shape[2] >= fused_from(q.dtype, prefix))
    if shared is not None and (fused or heads * length > k.shape[1] * width):  # else scores are cheaper to copy
        k, v = behind(shared, k, v)
        prefix, shared = 0, None
    if fused:
        if groups > 1 and not (visible.plain and shares_heads(q)):
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            groups = 1
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            None if visible.plain else visible.mask,
            dropout,
            is_causal=visible.plain,
            scale=how.scale,
            enable_gqa=groups > 1,
        )
    q = (q * how.scale).reshape(count, -1, groups * length, width)  # query heads of one key head, stacked
    scores = q @ k.transpose(-1, -2)  # (B, key heads, groups * L, K)
    if shared is not None:
        scores = torch.cat([times_shared(q, shared[0].transpose(-1, -2)), scores], dim=-1)
    scores = scores.view(count, heads, length, -1)  # (B, heads, L, P + K)
    if how.cap is not None:
        scores = how.cap * torch.tanh(scores / how.cap)
    scores = scores.masked_fill_(~visible.mask, torch.finfo(scores.dtype).min)
    if how.sink is not None:
        nothing = how.sink.to(scores.dtype).view(1, heads, 1, 1).expand(count, -1, length, -1)
        scores = torch.cat([scores, nothing], dim=-1)
    weights = scores.softmax(dim=-1)[..., : prefix + k.shape[2]]
    if dropout:
        weights = F.dropout(weights, dropout)
    weights = weights.reshape(count, -1, groups * length, prefix + k.shape[2])
    mixed = weights[..., prefix:] @ v
    if shared is not None:
        mixed = mixed + times_shared(weights[..., :prefix], shared[1])
    return mixed.view(count, heads, length, -1)


def shares_heads(q: Tensor) -> bool:
    """Whether a fused causal kernel takes fewer key heads than query heads here; else torch keeps all L * L scores.

    On a GPU that is flash attention alone: 16 bits, compute capability 8.0 or newer, a torch built with it.
    """
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    half = q.dtype in (torch.bfloat16, torch.float16)
    modern = torch.cuda.get_device_capability(q.device) >= (8, 0)
    return half and modern and torch.backends.cuda.is_flash_attention_available()


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
