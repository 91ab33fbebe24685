"""KV cache: keys and values of tokens run before, so that a packed row runs its new tokens only. No gradients.

A `KVCache` holds keys and values of M tokens at every attention module. `lay_out_cached` lays out T new tokens in
segments. A segment attends to the first `shared` tokens of the cache (a prompt header, say), to chosen ones of the
rest, and to its own tokens under a mask. After the forward pass, `CachedLayout.extended` is the cache with them added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.model.attention import Scores, Visible, attend, shared_heads, split_heads
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.device import put
from lasttoken.model.layout import KeysValues, filler_of, length_buckets, padded_length

NO_TOKENS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class KVCache:
    """Keys and values of M tokens, the first `shared` of them visible to every later token."""

    shared: int
    positions: Tensor  # (M,) int64
    states: KeysValues  # (M, key heads * d) each

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class CachedBucket:
    """B segments with similar numbers of keys, padded to one size."""

    rows: Tensor  # (B * L,) int64, new tokens; padding repeats the segment's first
    keys: Tensor  # (B * K,) int64, index into cache and new tokens joined; padding repeats one
    allowed: Tensor  # (B, L, K) bool


@dataclass(frozen=True, eq=False)
class CachedLayout:
    """Attention pattern of T new tokens over a cache. The forward pass stores their keys and values in `states`."""

    cache: KVCache
    positions: Tensor  # (T,) int64
    buckets: tuple[CachedBucket, ...]
    order: Tensor  # (T + filler,) int64: token i of the row is entry order[i] of all buckets' rows, one after the other
    filler: int  # padding tokens at the end of the row, as in `Layout`
    states: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # cache and new tokens, (M + T, W)
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)  # by (bucket, window)

    def extended(self, *, shared: int | None = None) -> KVCache:
        """The cache with the new tokens added, (M + T); valid after the forward pass."""
        positions = torch.cat([self.cache.positions, self.positions])
        return KVCache(self.cache.shared if shared is None else shared, positions, self.states)

    def attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scores: Scores,
        window: int | None,
    ) -> Tensor:
        """Attention output (1, T + filler, heads, d); stores the new keys and values.

        query: (1, heads, T + filler, d). key, value: (1, key heads, T + filler, d).
        """
        heads, sizes = query.shape[1], (query.shape[-1], key.shape[-1], value.shape[-1])
        q, k, v = (states[0, :, : len(self.positions)].transpose(0, 1).flatten(1) for states in (query, key, value))
        if module in self.cache.states:
            k, v = (torch.cat(pair) for pair in zip(self.cache.states[module], (k, v), strict=True))
        if module in self.states:
            raise RuntimeError(f"{type(module).__name__} attends twice in a pass, which a KV cache does not know")
        self.states[module] = (k, v)
        common = self.cache.shared
        shared = shared_heads(k[:common], v[:common], sizes[1:]) if common else None
        outputs = []
        for number, bucket in enumerate(self.buckets):
            count, length, _ = bucket.allowed.shape
            ours, keys, values = (
                split_heads(states.index_select(0, rows).view(count, -1, states.shape[1]), d)
                for states, rows, d in zip((q, k, v), (bucket.rows, bucket.keys, bucket.keys), sizes, strict=True)
            )
            mask = self.mask(number, window)
            mixed = attend(ours, keys, values, Visible(mask), scores, shared=shared)  # (B, heads, L, d)
            outputs.append(mixed.transpose(1, 2).reshape(count * length, -1))
        return torch.cat(outputs).index_select(0, self.order).view(1, -1, heads, sizes[2])

    def mask(self, number: int, window: int | None) -> Tensor:
        """The mask of a bucket with shared tokens and sliding window, (B, 1, L, shared + K) bool."""
        if (number, window) not in self.masks:
            bucket, common = self.buckets[number], self.cache.shared
            count, length, width = bucket.allowed.shape
            mask = nn.functional.pad(bucket.allowed, (common, 0), value=True)
            if window is not None:
                every = torch.cat([self.cache.positions, self.positions])
                keys = torch.cat([every[:common].expand(count, -1), every[bucket.keys].view(count, width)], dim=1)
                mask = mask & ((self.positions[bucket.rows].view(count, length, 1) - keys[:, None]).abs() < window)
            self.masks[number, window] = mask[:, None]
        return self.masks[number, window]


def empty_cache(device: torch.device) -> KVCache:
    """A cache without tokens."""
    return KVCache(0, torch.empty(0, dtype=torch.int64, device=device), {})


def lay_out_cached(
    cache: KVCache,
    seen: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    positions: np.ndarray,
) -> CachedLayout:
    """The layout of new segments over `cache`.

    seen: per segment the cache indices (m,) that it attends to, besides the shared tokens. masks: per segment
    (n, m + n) bool, query x key: its `seen` tokens, then its own n tokens. positions: (T,), of all segments in order.
    """
    device, count = cache.positions.device, len(cache)
    lengths = np.array([len(mask) for mask in masks], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    buckets, order, offset = [], np.empty(len(positions), dtype=np.int64), 0
    for members in length_buckets(np.array([mask.shape[1] for mask in masks])):
        longest = padded_length(int(lengths[members].max()), device.type)
        widest = padded_length(max(masks[i].shape[1] for i in members), device.type)
        rows = np.repeat(starts[members][:, None], longest, axis=1)  # (B, L)
        keys = np.repeat(count + starts[members][:, None], widest, axis=1)  # (B, K)
        allowed = np.zeros((len(members), longest, widest), dtype=bool)
        allowed[:, :, 0] = True  # padding must attend to something
        for row, i in enumerate(members):
            n, m = int(lengths[i]), len(seen[i])
            own = int(starts[i]) + np.arange(n)
            rows[row, :n], keys[row, :m], keys[row, m : m + n] = own, seen[i], count + own
            allowed[row, :n, : m + n] = masks[i]
            order[own] = offset + row * longest + np.arange(n)
        offset += rows.size
        flat = [put(x.astype(np.int64).ravel(), device) for x in (rows, keys)]
        buckets.append(CachedBucket(flat[0], flat[1], put(allowed, device)))
    where = put(positions.astype(np.int64), device)
    filler = filler_of(len(positions), device.type)
    return CachedLayout(cache, where, tuple(buckets), put(np.pad(order, (0, filler)), device), filler)


def causal(size: int) -> np.ndarray:
    """Causal mask, (size, size) bool."""
    return np.tril(np.ones((size, size), dtype=bool))


@torch.inference_mode()
def prefill(backbone: Backbone, header: np.ndarray) -> KVCache:
    """Run the prompt header (P,) once: the KV cache that all texts share."""
    cache = empty_cache(backbone.device)
    if not len(header):
        return cache
    layout = lay_out_cached(cache, [NO_TOKENS], [causal(len(header))], np.arange(len(header)))
    with backbone.autocast():
        backbone.hidden(to_tensor(header, backbone), layout)
    return layout.extended(shared=len(header))
