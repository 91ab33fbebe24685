"""Faster LoRA with the same output: one autograd function per layer in training, merged weights in prediction.

PEFT's layers and file format stay; only the computation of a layer's output changes. Plain PEFT takes nine operations
forward and nine backward for each of seven linear layers per block, mostly on tensors as large as the activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lasttoken.journal import LOGGER
from lasttoken.model import products
from lasttoken.model.device import device_memory
from lasttoken.model.products import linear, plus_linear
from lasttoken.model.shard import is_sharded

STEPS = 256  # dropout rates are multiples of 1 / 256, drawn as random bytes
SHARE = 0.8  # of the device's memory: limit for the weights after merging

Merge = Literal["auto", "off"]


class LowRank(torch.autograd.Function):
    """x W' + bias + scale * (x * kept) A' B' for a frozen W (out, in), as one autograd function."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, base: nn.Module, kept: Tensor | None, scale: float
    ) -> Tensor:
        """x: (T, in). a: (r, in), b: (out, r), float32. kept: (T, in) uint8, 1 where dropout keeps; None for no dropout."""
        low = linear(x if kept is None else x * kept, a.to(x.dtype))  # (T, r)
        out = linear(x, dense_weight(base, x.dtype), bias_of(base, x.dtype))
        ctx.save_for_backward(x, low, a, b, kept)
        ctx.base, ctx.scale = base, scale
        return plus_linear(out, low, (b * scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, low, a, b, kept = ctx.saved_tensors
        through = linear(grad, (b * ctx.scale).to(x.dtype).t())  # (T, r)
        grad_b = linear(low.t(), grad.t()).t().to(b.dtype) * ctx.scale
        grad_a = linear(through.t(), (x if kept is None else x * kept).t()).to(a.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_a, grad_b, None, None, None
        grad_x = linear(grad, dense_weight(ctx.base, x.dtype).t())
        if kept is None:
            grad_x = plus_linear(grad_x, through, a.to(x.dtype).t())
        else:
            grad_x.add_(linear(through, a.to(x.dtype).t()).mul_(kept))
        return grad_x, grad_a, grad_b, None, None, None


class FastLora:
    """Mixin for a PEFT LoRA layer: the same output by `LowRank`. Merged or disabled layers use PEFT's own forward."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (name,) = self.active_adapters
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        rate = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
        threshold = round(rate * STEPS)
        kept = keep_mask(flat.shape, threshold, flat.device) if threshold else None
        weights = self.lora_A[name].weight, self.lora_B[name].weight
        scale = self.scaling[name] / (1 - threshold / STEPS)
        out = LowRank.apply(flat, *weights, self.get_base_layer(), kept, scale)
        return out.view(*x.shape[:-1], -1)


def speed_up(adapted: nn.Module) -> None:
    """Mix `FastLora` into every LoRA layer, in place; DoRA layers keep PEFT's forward."""
    for layer in adapted.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer = cast("Any", layer)
        weight = getattr(layer.get_base_layer(), "weight", None)  # a stack of experts has none
        if layer.lora_A and not layer.lora_variant and weight is not None and weight.ndim == 2:
            layer.__class__ = fast(type(layer))


@cache
def fast(kind: type) -> type:
    """The PEFT layer class `kind` with `FastLora` mixed in, created once."""
    return type(kind.__name__, (FastLora, kind), {})


def lora_layers(module: nn.Module) -> list[Any]:
    """The PEFT layers inside `module`."""
    return [m for m in module.modules() if isinstance(m, BaseTunerLayer)]


def dense_weight(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight (out, in) of a linear layer in `dtype`; Conv1D (GPT-2) is transposed, 4 bits are de-quantised."""
    weight: Any = base.weight
    if (state := quant_state(base)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)
    return (weight if isinstance(base, nn.Linear) else weight.t()).to(dtype)


def quant_state(base: Any) -> Any:
    """How a layer's weight was packed into 4 bits; None if it was not. A gathered weight (model/shard.py) has it not itself."""
    found = getattr(base.weight, "quant_state", None)
    return getattr(base, "quant_state", None) if found is None else found


def bias_of(base: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """The bias (out,) of a linear layer, or None."""
    bias: Any = getattr(base, "bias", None)
    return None if bias is None else bias.to(dtype)


def keep_mask(shape: torch.Size, threshold: int, device: torch.device) -> Tensor:
    """Dropout mask: 1 for kept elements, 0 for the share threshold / 256 that is dropped.

    uint8, because a product with bool takes three times as long on a CPU.
    One random byte per element. On a CPU eight bytes come from one 64-bit draw, because drawing dominates the time.
    """
    if device.type != "cpu":
        return (torch.randint(STEPS, shape, dtype=torch.uint8, device=device) >= threshold).view(torch.uint8)
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = words.numpy().view(np.uint8)[: shape.numel()] >= threshold  # numpy compares bytes ten times as fast as torch
    return torch.from_numpy(kept.view(np.uint8)).view(shape)


@contextmanager
def merged(module: nn.Module, how: Merge) -> Iterator[None]:
    """Merge the adapters into the weights inside this context, and unmerge them afterwards.

    4-bit weights are de-quantised: merging into 4 bits would round the adapter away (peft #1043, #2321). Does nothing
    if merged and unmerged weights together do not fit the device's memory, or the adapter is merged already.
    """
    layers = unmerged(module)
    if how == "off" or not layers or not fits(module, layers, keep=True):
        yield
        return
    bases = [layer.base_layer for layer in layers]
    try:
        merge_layers(layers)  # inside `try`: Ctrl-C must not leave half of the layers merged
        yield
    finally:
        put_back(layers, bases)


def merge(module: nn.Module, how: Merge) -> bool:
    """Merge the adapters permanently if the result fits the device's memory; returns whether it did.

    The adapter's own weights are kept and saved as before.
    """
    layers = unmerged(module)
    return how == "auto" and bool(layers) and fits(module, layers, keep=False) and merge_layers(layers)


def merge_layers(layers: list[Any]) -> bool:
    """Merge all layers or, if memory runs out, none, with a warning; returns whether they are merged."""
    bases = [layer.base_layer for layer in layers]
    try:
        for layer in layers:
            merge_layer(layer)
    except torch.OutOfMemoryError:
        put_back(layers, bases)
        torch.cuda.empty_cache()
        LOGGER.warning(
            "no memory to merge the adapter into the weights: predictions use it unmerged, slower and equal up to rounding"
        )
        return False
    return True


def put_back(layers: list[Any], bases: list[Any]) -> None:
    """Undo the merge of all layers. bases: their original base layers."""
    for layer, base in zip(layers, bases, strict=True):
        layer.base_layer = base
        layer.merged_adapters = []


def unmerged(module: nn.Module) -> list[Any]:
    """The LoRA layers that can be merged and are not yet; DoRA layers cannot, nor weights split over processes."""
    if is_sharded(module):
        return []
    return [layer for layer in lora_layers(module) if not layer.merged and isinstance(layer, FastLora)]


def merge_layer(layer: Any) -> None:
    """Replace the base layer by a linear layer with W + scale * B A, summed in float32 and rounded once."""
    (name,) = layer.active_adapters
    base = layer.get_base_layer()
    dtype = layer_dtype(base)
    with torch.no_grad():
        low = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float() * layer.scaling[name]
        weight = (dense_weight(base, torch.float32) + low).to(dtype)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if getattr(base, "bias", None) is not None:
        plain.bias = base.bias
    products.install(plain)
    layer.base_layer = plain.train(base.training)
    layer.merged_adapters = [name]


def layer_dtype(base: Any) -> torch.dtype:
    """Compute dtype of a linear layer: that of its weight, or of the weight before 4-bit quantisation."""
    state = quant_state(base)
    return base.weight.dtype if state is None else state.dtype


def fits(module: nn.Module, layers: list[Any], *, keep: bool) -> bool:
    """Whether the merged weights of `layers` fit in the device's memory with the rest of `module`.

    keep: the unmerged weights stay in memory too. The test uses total memory, not free memory, so that a reloaded model
    makes the same decision and gives the same predictions.
    """
    now, dense, given_up = merged_sizes(module, layers)
    after = now + dense - (0 if keep else given_up)
    return after <= SHARE * device_memory(next(module.parameters()).device)


def merged_sizes(module: nn.Module, layers: list[Any]) -> tuple[int, int, int]:
    """Bytes of (`module` now, the merged weights of `layers`, the base weights that these replace)."""
    bases = [layer.get_base_layer() for layer in layers]
    dense = sum(x.in_features * x.out_features * layer_dtype(b).itemsize for x, b in zip(layers, bases, strict=True))
    now = sum(p.numel() * p.element_size() for p in module.parameters())
    return now, dense, sum(b.weight.numel() * b.weight.element_size() for b in bases)
