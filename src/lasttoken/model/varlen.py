"""One kernel for all texts of a packed row, on a CUDA GPU: that of flash-attn where it is installed, else torch's own.

Everything else goes by blocks (model/attention.py): a CPU, float32, trees of answers, texts behind a shared header. A
kernel is used only after it has given on this very device what torch's ordinary attention gives, forward and backward.
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

WIDEST = 256  # numbers a head that the kernels know


@dataclass(frozen=True, eq=False)
class Stretches:
    """The texts of a packed row that has neither prefix nor trees."""

    bounds: Tensor  # (texts + 1,) int32: where each begins, and where the last ends
    longest: int
    causal: bool


class Kernel(Protocol):
    """query (T, heads, d), key and value (T, key heads, d) -> (T, heads, d)."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, stretches: Stretches, *, scale: float, sides: tuple[int, int]
    ) -> Tensor:
        """sides: how many tokens to the left and to the right are seen, -1 for all."""
        ...


def attend_stretches(
    query: Tensor, key: Tensor, value: Tensor, stretches: Stretches | None, *, scale: float, window: int | None
) -> Tensor | None:
    """Attention output (1, T, heads, d) of query (1, heads, T, d) and key, value (1, key heads, T, d); None where no kernel serves."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    if stretches is None or not serves(kind, dtype, query.shape[-1]):
        return None
    kernel = proven(query.device, dtype, query.shape[-1])
    if kernel is None:
        return None
    q, k, v = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    return kernel(q, k, v, stretches, scale=scale, sides=sides_of(window, stretches.causal))[None]


def serves(kind: str, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel can serve heads of `width` numbers on a device of this kind."""
    return kind == "cuda" and dtype in (torch.bfloat16, torch.float16) and width <= WIDEST and width % 8 == 0


def sides_of(window: int | None, causal: bool) -> tuple[int, int]:
    """(left, right): tokens that are seen on either side under a window of tokens less than `window` away; -1 for all."""
    reach = -1 if window is None else window - 1
    return reach, 0 if causal else reach


def flash_attn(
    query: Tensor, key: Tensor, value: Tensor, stretches: Stretches, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """By the package flash-attn."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    bounds, longest = stretches.bounds, stretches.longest
    return flash_attn_varlen_func(
        *(query, key, value, bounds, bounds, longest, longest),
        softmax_scale=scale,
        causal=stretches.causal,
        window_size=sides,
    )


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, stretches: Stretches, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """By torch, from the version on that knows windows; keys are repeated where it does not know heads that share them."""
    from torch.nn.attention.varlen import varlen_attn

    known, shared = inspect.signature(varlen_attn).parameters, query.shape[1] != key.shape[1]
    more: dict[str, Any] = {"enable_gqa": shared} if "enable_gqa" in known else {}
    if shared and not more:
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    bounds, longest = stretches.bounds, stretches.longest
    return varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=sides, **more)  # type: ignore[return-value]


@cache
def proven(device: torch.device, dtype: torch.dtype, width: int) -> Kernel | None:
    """The first kernel that gives on this device, for heads of `width`, what attention text by text gives; None where none does.

    Asked in a thread of its own, whose autograd knows nothing of what is under way here (hooks, checkpoints, modes).
    """
    with ThreadPoolExecutor(1) as pool:
        for kernel in (flash_attn, torch_varlen):
            if pool.submit(agrees, kernel, device, dtype, width).result():
                return kernel
    return None


def agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype = torch.bfloat16, width: int = 64) -> bool:
    """Whether a kernel runs here and is right: outputs and gradients, heads that share keys, with a window and without."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return all(
            alike(kernel, device, dtype, width, causal, window) for causal in (True, False) for window in (None, 16)
        )


def alike(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, causal: bool, window: int | None
) -> bool:
    """Whether a kernel gives what `text_by_text` gives. Raises OutOfMemoryError, which says nothing of the kernel."""
    lengths, draw = [70, 1, 300], torch.Generator().manual_seed(0)
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    parts = [torch.randn(sum(lengths), heads, width, generator=draw).to(device, dtype) for heads in (4, 2, 2)]
    stretches = Stretches(bounds, max(lengths), causal)

    def run(attention: Kernel) -> list[Tensor | None]:
        q, k, v = leaves = [part.clone().requires_grad_() for part in parts]
        out = attention(q, k, v, stretches, scale=0.2, sides=sides_of(window, causal))
        out.float().square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    wanted = run(text_by_text)
    try:
        found = run(kernel)
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, TypeError, ValueError):  # not installed, not for this card, another signature
        return False
    return all(near(a, b) for a, b in zip(found, wanted, strict=True))


def near(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal up to what 16 bits round, relative to the size of `b`."""
    return a is not None and b is not None and bool((a.float() - b.float()).norm() <= 0.02 * b.float().norm())


def text_by_text(
    query: Tensor, key: Tensor, value: Tensor, stretches: Stretches, *, scale: float, sides: tuple[int, int]
) -> Tensor:
    """What a `Kernel` gives, one text after the other in float32: what kernels are measured by."""
    outputs, groups = [], query.shape[1] // key.shape[1]
    ends: list[int] = stretches.bounds.tolist()
    for start, end in pairwise(ends):
        q, k, v = (x[start:end].transpose(0, 1).float() for x in (query, key, value))
        k, v = (x.repeat_interleave(groups, dim=0) for x in (k, v))
        place = torch.arange(end - start, device=query.device)
        ahead = place[None, :] - place[:, None]  # (query, key)
        left, right = (x if x >= 0 else end - start for x in sides)
        outputs.append(F.scaled_dot_product_attention(q, k, v, (ahead >= -left) & (ahead <= right), scale=scale))
    return torch.cat([x.transpose(0, 1) for x in outputs]).to(query.dtype)
