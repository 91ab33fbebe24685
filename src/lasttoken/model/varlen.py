"""Variable-length attention kernels for packed rows on a CUDA GPU: flash-attn where installed, else torch's own.

CPUs, float32, branching answer trees and cached headers use the padded buckets of model/attention.py instead. A kernel
is used only after its outputs and gradients have matched torch's ordinary attention on this device.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lasttoken.model.device import put

WIDEST = 256  # largest head size that the kernels support


@dataclass(frozen=True, eq=False)
class Sequences:
    """The texts of a packed row, after a shared prefix if there is one.

    With a prefix a text has more keys than queries; the queries stand at the last of its keys, as in flash-attn 2.
    """

    cu_seqlens: Tensor  # (texts + 1,) int32, cumulative numbers of queries, from 0
    longest: int  # tokens
    causal: bool
    keys: Tensor | None = None  # (K,) int64, the row's tokens that are keys of each text in turn; None without a prefix
    cu_keys: Tensor | None = None  # (texts + 1,) int32, cumulative numbers of keys
    longest_key: int = 0

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """(cumulative queries, cumulative keys, most queries, most keys), as kernels take them."""
        if self.cu_keys is None:
            return self.cu_seqlens, self.cu_seqlens, self.longest, self.longest
        return self.cu_seqlens, self.cu_keys, self.longest, self.longest_key


def behind_prefix(prefix: int, lengths: np.ndarray, device: torch.device) -> Sequences:
    """The sequences of a row of `prefix` tokens, then causal texts of `lengths` tokens that each see them."""
    queries = np.r_[prefix, lengths]  # the prefix is a sequence of its own
    starts = np.cumsum(queries) - queries
    own = [np.arange(start, start + n) for start, n in zip(starts, queries, strict=True)]
    keys = np.concatenate([own[0], *(np.r_[own[0], text] for text in own[1:])])
    bounds, key_bounds = (np.cumsum(np.r_[0, n]).astype(np.int32) for n in (queries, np.r_[prefix, prefix + lengths]))
    arrays = bounds, keys.astype(np.int64), key_bounds
    cu, index, cu_keys = (put(array, device) for array in arrays)
    return Sequences(cu, int(queries.max()), True, index, cu_keys, int(prefix + lengths.max(initial=0)))


class Kernel(Protocol):
    """query (T, heads, d), key and value (T, key heads, d) -> (T, heads, d)."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]
    ) -> Tensor:
        """sides: (left, right) reach of attention in tokens, -1 for unlimited."""
        ...


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences | None, *, scale: float, window: int | None
) -> Tensor | None:
    """Attention output (1, T, heads, d), None if no kernel applies. query (1, heads, T, d); keys and values likewise."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    width = query.shape[-1]
    if sequences is None or value.shape[-1] != width or not serves(kind, dtype, width):
        return None
    kernel = verified_kernel(query.device, dtype, width, sequences.keys is not None)
    if kernel is None:
        return None
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    if sequences.keys is not None:
        k, v = k.index_select(0, sequences.keys), v.index_select(0, sequences.keys)
    return kernel(q, k, v, sequences, scale=scale, sides=sides_of(window, sequences.causal))[None]


def serves(kind: str, dtype: torch.dtype, width: int) -> bool:
    """Whether kernels support heads of size `width` on this kind of device."""
    return kind == "cuda" and dtype in (torch.bfloat16, torch.float16) and width <= WIDEST and width % 8 == 0


def sides_of(window: int | None, causal: bool) -> tuple[int, int]:
    """(left, right) reach of attention in tokens, -1 for unlimited. window: distances below it are attended to."""
    reach = -1 if window is None else window - 1
    return reach, 0 if causal else reach


def flash_attn(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """The kernel of the package flash-attn."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        *(query, key, value, *sequences.bounds),
        softmax_scale=scale,
        causal=sequences.causal,
        window_size=sides,
    )


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """torch's kernel, in versions with sliding windows; keys are repeated where it lacks grouped-query attention."""
    from torch.nn.attention.varlen import varlen_attn

    known, shared = inspect.signature(varlen_attn).parameters, query.shape[1] != key.shape[1]
    more: dict[str, Any] = {"enable_gqa": shared} if "enable_gqa" in known else {}
    if shared and not more:
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return varlen_attn(query, key, value, *sequences.bounds, scale=scale, window_size=sides, **more)  # type: ignore[return-value]


@cache
def verified_kernel(device: torch.device, dtype: torch.dtype, width: int, prefix: bool = False) -> Kernel | None:
    """The first kernel that matches `reference_attention` on this device for heads of size `width`; None if none does.

    prefix: with a shared prefix before the texts.

    Runs in a separate thread, so that autograd hooks, checkpoints and modes of the caller do not apply.
    """
    with ThreadPoolExecutor(1) as pool:
        for kernel in (flash_attn, torch_varlen):
            if pool.submit(agrees, kernel, device, dtype, width, prefix).result():
                return kernel
    return None


def agrees(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    width: int = 64,
    prefix: bool = False,
) -> bool:
    """Whether a kernel runs and is correct: outputs, gradients, grouped-query attention, with and without a window."""
    lengths = np.array([70, 1, 300])
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    cases = [Sequences(bounds, 300, causal) for causal in (True, False)]
    cases = [behind_prefix(13, lengths, device)] if prefix else cases
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return all(matches(kernel, case, dtype, width, window) for case in cases for window in (None, 16))


def matches(kernel: Kernel, sequences: Sequences, dtype: torch.dtype, width: int, window: int | None) -> bool:
    """Whether a kernel equals `reference_attention`. OutOfMemoryError is raised: it says nothing about the kernel."""
    draw, (cu_seqlens, cu_keys, _, _) = torch.Generator().manual_seed(0), sequences.bounds
    sizes = [(int(cu_seqlens[-1]), 4), (int(cu_keys[-1]), 2), (int(cu_keys[-1]), 2)]  # tokens and heads of q, k, v
    parts = [torch.randn(n, heads, width, generator=draw).to(cu_seqlens.device, dtype) for n, heads in sizes]

    def run(attention: Kernel) -> list[Tensor | None]:
        q, k, v = leaves = [part.clone().requires_grad_() for part in parts]
        out = attention(q, k, v, sequences, scale=0.2, sides=sides_of(window, sequences.causal))
        out.float().square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    wanted = run(reference_attention)
    try:
        found = run(kernel)
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, TypeError, ValueError):  # not installed, unsupported GPU, another signature
        return False
    return all(equal_in_16_bits(a, b) for a, b in zip(found, wanted, strict=True))


def equal_in_16_bits(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal up to 16-bit rounding, relative to the norm of `b`."""
    return a is not None and b is not None and bool((a.float() - b.float()).norm() <= 0.02 * b.float().norm())


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """The reference for every `Kernel`: float32 attention, one text at a time."""
    outputs, groups = [], query.shape[1] // key.shape[1]
    ends, key_ends = (list(pairwise(cu.tolist())) for cu in sequences.bounds[:2])
    for (start, end), (first, last) in zip(ends, key_ends, strict=True):
        q = query[start:end].transpose(0, 1).float()
        k, v = (x[first:last].transpose(0, 1).float().repeat_interleave(groups, dim=0) for x in (key, value))
        place = torch.arange(last - first, device=query.device)
        ahead = place[None, :] - place[start - end :, None]  # (query, key); queries are the last of the keys
        left, right = (x if x >= 0 else last - first for x in sides)
        outputs.append(F.scaled_dot_product_attention(q, k, v, (ahead >= -left) & (ahead <= right), scale=scale))
    return torch.cat([x.transpose(0, 1) for x in outputs]).to(query.dtype)
