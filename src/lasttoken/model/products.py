"""Matrix products in float32 by the faster of torch's two CPU libraries.

torch takes them from MKL, which runs AVX2 code on processors not made by Intel. oneDNN uses AVX-512 where there is any:
250 against 105 GFLOP/s on a thread of Zen 5 (docs/lab.md, 2026-11-29). Products in bfloat16 are oneDNN's already.
Without this file everything works as before: `install` changes classes of linear layers, `linear` is `F.linear`.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight' + bias: (..., in), (out, in) -> (..., out). Not differentiable."""
    one_dnn = faster_library(x)
    return F.linear(x, weight, bias) if one_dnn is None else one_dnn(x, dense(weight), bias, "none", [], "")


def plus_linear(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + x weight', where `total` (T, out) may be overwritten. Not differentiable."""
    one_dnn = faster_library(x)
    return total.addmm_(x, weight.t()) if one_dnn is None else one_dnn.binary(x, total, dense(weight), None, "add")


def dense(weight: Tensor) -> Tensor:
    """The weight, or a copy without gaps in memory: with gaps oneDNN takes up to a hundred times as long."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def faster_library(x: Tensor) -> Any:
    """oneDNN's linear operation where it computes x faster than MKL, else None."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel() or torch.is_autocast_enabled("cpu"):
        return None
    return one_dnn_linear()


@cache
def one_dnn_linear() -> Any:
    """torch's linear operation by oneDNN; None where MKL is as fast (Intel) or absent.

    Decided by the maker of the processor and not by a measurement: a machine gives the same results every time.
    """
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available() or "Intel" in processor():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # private: torch may drop it


def processor() -> str:
    """The maker of the processor, as in GenuineIntel or AuthenticAMD."""
    with suppress(OSError):  # only Linux has this file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.rpartition(":")[2].strip()
    return platform.processor()


class Product(torch.autograd.Function):
    """`linear` with gradients of input, weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad_x = linear(grad, weight.t()) if ctx.needs_input_grad[0] else None
        flat = grad.reshape(-1, grad.shape[-1])
        grad_weight = linear(flat.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """A linear layer computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        if faster_library(input) is None or self.weight.dtype != torch.float32:
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            return Product.apply(input, self.weight, self.bias)  # type: ignore[return-value]
        return linear(input, self.weight, self.bias)


def install(module: nn.Module) -> None:
    """Make the linear layers of a model `Linear`s, in place, where that is faster."""
    if one_dnn_linear() is None:
        return
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
