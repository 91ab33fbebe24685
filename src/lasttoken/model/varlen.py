"""Variable-length attention kernels for packed rows on a CUDA GPU: flash-attn where installed, else torch's own.

CPUs, float32, answer trees and shared headers use the padded buckets of model/attention.py instead. A kernel is used
only after its outputs and gradients have matched torch's ordinary attention on this device.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = 256  # largest head size that the kernels support


@dataclass(frozen=True, eq=False)
class Sequences:
    """The texts of a packed row without prefix and trees."""

    cu_seqlens: Tensor  # (texts + 1,) int32, cumulative lengths, from 0
    longest: int  # tokens
    causal: bool


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
    if sequences is None or not serves(kind, dtype, query.shape[-1]):
        return None
    kernel = verified_kernel(query.device, dtype, query.shape[-1])
    if kernel is None:
        return None
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
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

    cu, longest = sequences.cu_seqlens, sequences.longest
    return flash_attn_varlen_func(
        *(query, key, value, cu, cu, longest, longest),
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
    cu, longest = sequences.cu_seqlens, sequences.longest
    return varlen_attn(query, key, value, cu, cu, longest, longest, scale=scale, window_size=sides, **more)  # type: ignore[return-value]


@cache
def verified_kernel(device: torch.device, dtype: torch.dtype, width: int) -> Kernel | None:
    """The first kernel that matches `reference_attention` on this device for heads of size `width`; None if none does.

    Runs in a separate thread, so that autograd hooks, checkpoints and modes of the caller do not apply.
    """
    with ThreadPoolExecutor(1) as pool:
        for kernel in (flash_attn, torch_varlen):
            if pool.submit(agrees, kernel, device, dtype, width).result():
                return kernel
    return None


def agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype = torch.bfloat16, width: int = 64) -> bool:
    """Whether a kernel runs and is correct: outputs, gradients, grouped-query attention, with and without a window."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return all(
            matches(kernel, device, dtype, width, causal, window) for causal in (True, False) for window in (None, 16)
        )


def matches(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, causal: bool, window: int | None
) -> bool:
    """Whether a kernel equals `reference_attention`. OutOfMemoryError is raised: it says nothing about the kernel."""
    lengths, draw = [70, 1, 300], torch.Generator().manual_seed(0)
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    parts = [torch.randn(sum(lengths), heads, width, generator=draw).to(device, dtype) for heads in (4, 2, 2)]
    sequences = Sequences(cu_seqlens, max(lengths), causal)

    def run(attention: Kernel) -> list[Tensor | None]:
        q, k, v = leaves = [part.clone().requires_grad_() for part in parts]
        out = attention(q, k, v, sequences, scale=0.2, sides=sides_of(window, causal))
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
    ends: list[int] = sequences.cu_seqlens.tolist()
    for start, end in pairwise(ends):
        q, k, v = (x[start:end].transpose(0, 1).float() for x in (query, key, value))
        k, v = (x.repeat_interleave(groups, dim=0) for x in (k, v))
        place = torch.arange(end - start, device=query.device)
        ahead = place[None, :] - place[:, None]  # (query, key)
        left, right = (x if x >= 0 else end - start for x in sides)
        outputs.append(F.scaled_dot_product_attention(q, k, v, (ahead >= -left) & (ahead <= right), scale=scale))
    return torch.cat([x.transpose(0, 1) for x in outputs]).to(query.dtype)
