"""What torch and this package do on another device than this one, where a rehearsal asks for it.

Stand-ins seem to be on a CPU, which needs no driver. Two functions of the package ask where they are, and a few of
torch's differ from device to device in what they keep; in here they act as on the device that is planned for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lasttoken.model import attention, lora


class Elsewhere(TorchFunctionMode):
    """torch's own functions as on a device of `kind`, and with sizes known that only numbers would tell."""

    def __init__(self, kind: str, tokens: int) -> None:
        super().__init__()
        self.kind, self.tokens = kind, tokens

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.repeat_interleave and isinstance(args[1], Tensor):
            return args[0].new_empty(self.tokens)
        if self.kind == "cpu":
            return func(*args, **kwargs)
        if func is F.dropout and kwargs.get("training", True) and kwargs.get("p", 0.5):
            return torch.native_dropout(args[0], kwargs.get("p", 0.5), True)[0]  # its mask is one byte a number
        if func is torch.layer_norm and torch.is_autocast_enabled("cpu"):  # autocast on a GPU does it in float32
            args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **kwargs)


class Masks:
    """What dropout keeps, as model/lora.py makes it: on a CPU a stretch of a pool, elsewhere drawn anew."""

    def __init__(self, kind: str) -> None:
        self.kind, self.bytes = kind, 0
        self.pools: dict[torch.dtype, Tensor] = {}

    def take(self, x: Tensor, threshold: int, number: int = 0) -> Tensor | None:
        """In the place of `lora.keep_mask`."""
        if not threshold:
            return None
        if self.kind != "cpu":
            return torch.randint(lora.STEPS, x.shape, dtype=torch.uint8) >= threshold
        pool = self.pools.get(x.dtype)
        if pool is None or len(pool) < 2 * x.numel():
            pool = self.pools[x.dtype] = torch.empty(1 << max(22, (2 * x.numel() - 1).bit_length()), dtype=x.dtype)
            self.bytes = sum(pool.nbytes for pool in self.pools.values())
        return pool[: x.numel()].view(x.shape)


def fused(
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
    """`attention.attend` on a GPU: torch's fused kernels keep no weights, but where heads share keys in float32 none fits."""
    if cap is not None:
        return plainly(q, k, v, mask, plain=plain, scale=scale, dropout=dropout, shared=shared, cap=cap)
    if shared is not None:
        k, v = attention.behind(shared, k, v)
    groups = q.shape[1] // k.shape[1]
    if plain and (groups == 1 or q.dtype != torch.float32):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, True, False, scale=scale)[0]
    if plain:
        return plainly(q, k, v, mask, plain=plain, scale=scale, dropout=dropout)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout, False, scale=scale)[0]


plainly: Callable[..., Tensor] = attention.attend


@contextmanager
def acting_as(kind: str) -> Iterator[Masks]:
    """The package's own two questions after the device, answered with `kind` while the context lasts."""
    masks = Masks(kind)
    kept = attention.attend, lora.keep_mask
    attention.attend, lora.keep_mask = plainly if kind == "cpu" else fused, masks.take
    try:
        yield masks
    finally:
        attention.attend, lora.keep_mask = kept
