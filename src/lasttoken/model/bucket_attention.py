"""Causal attention of packed rows on a CPU as one autograd function, for texts without prefix, tree or sliding window.

The same output as `packed_attention`, which every other layout uses, in fewer operations: with short texts the
operations' overhead takes longer than their arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lasttoken.model.attention import fused_from
from lasttoken.model.layout import Bucket, Layout


def serves(layout: Any, states: Tensor) -> bool:
    """Whether `BucketAttention` computes this layout, and faster than torch's fused kernel would."""
    if not isinstance(layout, Layout) or layout.prefix or not layout.buckets:
        return False
    most = fused_from(states.dtype, 0)
    return all(bucket.plain and bucket.positions.shape[1] < most for bucket in layout.buckets)


class BucketAttention(torch.autograd.Function):
    """softmax(q k' * scale) v within each text: q (T, heads * d), k and v (T, key heads * d) -> (T, heads * d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, size: int, scale: float) -> Tensor:
        """size: d."""
        outputs, saved = [], []
        for bucket in layout.buckets:
            stacked = [stack(part.index_select(0, bucket.rows), bucket, k.shape[1] // size, size) for part in (q, k, v)]
            queries, keys, values = stacked
            scores = torch.baddbmm(bias(queries, keys), queries, keys.transpose(1, 2), alpha=scale)
            weights = without_padding(scores.softmax(dim=-1).to(q.dtype), bucket)  # autocast may have widened it
            outputs.append(unstack(weights @ values, bucket, size))
            saved += [*stacked, weights]
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.size, ctx.scale = layout, size, scale
        return torch.cat(outputs).index_select(0, layout.order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        layout, size, saved, found = ctx.layout, ctx.size, ctx.saved_tensors, []
        for number, bucket in enumerate(layout.buckets):
            queries, keys, values, weights = saved[4 * number : 4 * number + 4]
            above = stack(grad.index_select(0, bucket.rows), bucket, len(keys) // len(bucket.positions), size)
            of_weights = above @ values.transpose(1, 2)
            pull = (of_weights * weights).sum(-1, keepdim=True)
            of_scores = of_weights.sub_(pull).mul_(weights).mul_(ctx.scale)
            parts = of_scores @ keys, of_scores.transpose(1, 2) @ queries, weights.transpose(1, 2) @ above
            found.append(torch.cat([unstack(part, bucket, size) for part in parts], dim=1))
        whole = torch.cat(found).index_select(0, layout.order)
        if layout.filler:
            whole[-layout.filler :] = 0
        width, rest = grad.shape[1], (whole.shape[1] - grad.shape[1]) // 2
        return *whole.split([width, rest, rest], dim=1), None, None, None


def stack(rows: Tensor, bucket: Bucket, key_heads: int, size: int) -> Tensor:
    """(B * L, heads * d) -> (B * key heads, heads of one key head * L, d)."""
    count, length = bucket.positions.shape
    split = rows.view(count, length, key_heads, -1, size).permute(0, 2, 3, 1, 4)
    return split.reshape(count * key_heads, -1, size)


def unstack(stacked: Tensor, bucket: Bucket, size: int) -> Tensor:
    """The inverse of `stack`."""
    count, length = bucket.positions.shape
    split = stacked.view(count, len(stacked) // count, -1, length, size).permute(0, 3, 1, 2, 4)
    return split.reshape(count * length, -1)


def bias(queries: Tensor, keys: Tensor) -> Tensor:
    """0 where a query sees a key and -inf elsewhere, as large as the scores (B * key heads, heads of one * L, L)."""
    length = keys.shape[1]
    one = torch.full((length, length), float("-inf"), dtype=queries.dtype).triu_(1)
    return one.repeat(queries.shape[1] // length, 1).expand(len(queries), -1, -1)


def without_padding(weights: Tensor, bucket: Bucket) -> Tensor:
    """The weights with 0 for queries that are padding: no gradient comes from them."""
    if bucket.padding is None:
        return weights
    count, length = bucket.positions.shape
    real = bucket.padding.logical_not().to(weights.dtype).view(count, 1, length, 1)
    weights.view(count, -1, length, weights.shape[-1]).mul_(real)
    return weights
