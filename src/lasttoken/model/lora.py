"""LoRA's arithmetic, made fast without changing what it computes: one autograd step a layer in training, merged weights in prediction.

PEFT's layers and its file format stay; only how a layer's output is computed differs. Plain PEFT takes nine operations
forward and as many backward for each of seven linears a block, most of them on tensors as large as the activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lasttoken.journal import LOGGER
from lasttoken.model.device import device_memory

STEPS = 256  # dropout rates are multiples of 1 / 256: a random byte decides
SHARE = 0.8  # of the device's memory that weights may take once adapters are merged

Merge = Literal["auto", "off"]


class LowRank(torch.autograd.Function):
    """x W' + bias + scale * (x * kept) A' B' for a frozen W (out, in): one pass over the activations where PEFT makes nine."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, base: nn.Module, kept: Tensor | None, threshold: int, scale: float
    ) -> Tensor:
        """x: (T, in). a: (r, in), b: (out, r), float32. kept, threshold: as `drop` takes them; None for no dropout."""
        low = F.linear(x if kept is None else drop(x, kept, threshold), a.to(x.dtype))  # (T, r)
        out = F.linear(x, dense_weight(base, x.dtype), bias_of(base, x.dtype))
        out.addmm_(low, (b * scale).to(x.dtype).t())
        ctx.save_for_backward(x, low, a, b, kept)
        ctx.base, ctx.threshold, ctx.scale = base, threshold, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, low, a, b, kept = ctx.saved_tensors
        through = grad @ (b * ctx.scale).to(x.dtype)  # (T, r)
        grad_b = (grad.t() @ low).to(b.dtype) * ctx.scale
        grad_a = (through.t() @ (x if kept is None else drop(x, kept, ctx.threshold))).to(a.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_a, grad_b, None, None, None, None
        grad_x = grad @ dense_weight(ctx.base, x.dtype)
        if kept is None:
            grad_x.addmm_(through, a.to(x.dtype))
        elif kept.ndim:
            grad_x.addcmul_(through @ a.to(x.dtype), kept)
        else:
            grad_x.add_(drop(through @ a.to(x.dtype), kept, ctx.threshold))
        return grad_x, grad_a, grad_b, None, None, None, None


class FastLora:
    """Mixed into a PEFT LoRA layer: the same output, by `LowRank`. Merged or switched off, the layer does what PEFT does."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (name,) = self.active_adapters
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        rate = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
        threshold = round(rate * STEPS)
        kept = keep_mask(flat, threshold, self.draw_number)
        weights = self.lora_A[name].weight, self.lora_B[name].weight
        scale = self.scaling[name] / (1 - threshold / STEPS)
        out = LowRank.apply(flat, *weights, self.get_base_layer(), kept, threshold, scale)
        return out.view(*x.shape[:-1], -1)


def speed_up(adapted: nn.Module) -> None:
    """Have every plain LoRA layer compute by `FastLora`, in place; a DoRA layer keeps PEFT's own way."""
    numbers: dict[str, int] = {}  # of a linear within its block, by its name there
    for name, layer in adapted.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer = cast("Any", layer)
        if layer.lora_A and not layer.lora_variant and layer.get_base_layer().weight.ndim == 2:
            layer.__class__ = fast(type(layer))
            layer.draw_number = numbers.setdefault(name.rpartition(".")[2], len(numbers))


@cache
def fast(kind: type) -> type:
    """The class of a PEFT layer with `FastLora` mixed in; one for all layers of a kind, which a compiler then takes for alike."""
    return type(kind.__name__, (FastLora, kind), {})


def lora_layers(module: nn.Module) -> list[Any]:
    """The PEFT layers inside `module`."""
    return [m for m in module.modules() if isinstance(m, BaseTunerLayer)]


def dense_weight(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight (out, in) of a linear layer in `dtype`: read, transposed (GPT-2's Conv1D), or de-quantised from 4 bits."""
    weight: Any = base.weight
    if getattr(weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    return (weight if isinstance(base, nn.Linear) else weight.t()).to(dtype)


def bias_of(base: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """The bias (out,) of a linear layer, or None."""
    bias: Any = getattr(base, "bias", None)
    return None if bias is None else bias.to(dtype)


class KeepPool:
    """Draws of dropout on a CPU, made once: a mask is a stretch of the pool from a random place on, and costs no drawing.

    Random numbers for dropout took a fifth of a training step; the place comes from torch's own generator, so that a
    seed repeats it and activation checkpointing finds the same mask again. A pool that grows begins as it began, so that
    a place drawn before (by compiled code, which reads the mask again in its backward) still has the same mask.
    """

    def __init__(self) -> None:
        self.draws: dict[tuple[int, torch.dtype], Tensor] = {}

    def clear(self) -> None:
        """Begin anew, as each fit does: what an earlier one of this process needed would change where draws are taken from."""
        self.draws.clear()

    def draw(self, x: Tensor, threshold: int) -> int:
        """Where in the pool the mask of x begins, drawn anew; the rate of zeros there is threshold / 256."""
        pool = self.draws.get((threshold, x.dtype))
        if pool is None or len(pool) < 2 * x.numel():
            size = 1 << max(22, (2 * x.numel() - 1).bit_length())
            draws = torch.randint(STEPS, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(threshold))
            pool = self.draws[threshold, x.dtype] = (draws >= threshold).to(x.dtype)
        return int(torch.randint(len(pool) - x.numel() + 1, ()))

    def mask(self, x: Tensor, place: int, threshold: int) -> Tensor:
        """0 and 1 in the shape of x: the stretch of the pool that begins at `place`."""
        return self.draws[threshold, x.dtype][place : place + x.numel()].view(x.shape)


POOL = KeepPool()


@torch.library.custom_op("lasttoken::draw", mutates_args=())
def compiled_draw(x: Tensor, threshold: int, number: int) -> Tensor:
    """`POOL.draw` as an operation that a compiler leaves alone: int64 of no dimension.

    number: tells the linears of a block apart. Without it a compiler would take their draws for one and the same.
    """
    return torch.tensor(POOL.draw(x, threshold))


@compiled_draw.register_fake
def _(x: Tensor, threshold: int, number: int) -> Tensor:
    return torch.empty((), dtype=torch.int64)


@torch.library.custom_op("lasttoken::dropped", mutates_args=())
def compiled_drop(x: Tensor, place: Tensor, threshold: int) -> Tensor:
    """x without what dropout drops, in memory of its own: the compiler may reuse what it is given, and must not write into the pool."""
    return x * POOL.mask(x, int(place), threshold)


@compiled_drop.register_fake
def _(x: Tensor, place: Tensor, threshold: int) -> Tensor:
    return torch.empty_like(x)


def drop(x: Tensor, kept: Tensor, threshold: int) -> Tensor:
    """x without what dropout drops. kept: 0 and 1 in the shape of x; in compiled code a place in the pool, of no dimension."""
    return x * kept if kept.ndim else compiled_drop(x, kept, threshold)


def keep_mask(x: Tensor, threshold: int, number: int = 0) -> Tensor | None:
    """What `drop` needs to drop threshold / 256 of x; None for nothing. number: of the linear within its block."""
    if not threshold:
        return None
    if x.device.type != "cpu":
        return torch.randint(STEPS, x.shape, dtype=torch.uint8, device=x.device) >= threshold
    if torch.compiler.is_compiling():
        return compiled_draw(x.detach(), threshold, number)
    return POOL.mask(x, POOL.draw(x, threshold), threshold)


@contextmanager
def merged(module: nn.Module, how: Merge) -> Iterator[None]:
    """Predictions inside run without adapters, whose product is added to the weights; outside, all is as it was.

    Weights in 4 bits are de-quantised for it: adding to them where they are would round the adapter away (peft #1043,
    #2321). Does nothing where both forms together do not fit the device's memory, or the adapter is merged already.
    """
    layers = unmerged(module)
    if how == "off" or not layers or not fits(module, layers, keep=True):
        yield
        return
    bases = [layer.base_layer for layer in layers]
    try:
        merge_layers(layers)  # inside, because Ctrl-C in the midst of it must not leave half of them merged
        yield
    finally:
        put_back(layers, bases)


def merge(module: nn.Module, how: Merge) -> bool:
    """Merge the adapters for good, layer by layer, where the result fits the device's memory; whether it was done.

    The adapter's own weights stay readable, and are saved as before.
    """
    layers = unmerged(module)
    return how == "auto" and bool(layers) and fits(module, layers, keep=False) and merge_layers(layers)


def merge_layers(layers: list[Any]) -> bool:
    """Whether there was memory to merge them all; if not, none is, and the logger is told that predictions run without."""
    bases = [layer.base_layer for layer in layers]
    try:
        for layer in layers:
            merge_layer(layer)
    except torch.OutOfMemoryError:
        put_back(layers, bases)
        torch.cuda.empty_cache()
        LOGGER.warning(
            "no memory to merge the adapter into the weights: it predicts beside them, slower and up to rounding the same"
        )
        return False
    return True


def put_back(layers: list[Any], bases: list[Any]) -> None:
    """Leave no layer merged: `bases` are what stood there before."""
    for layer, base in zip(layers, bases, strict=True):
        layer.base_layer = base
        layer.merged_adapters = []


def unmerged(module: nn.Module) -> list[Any]:
    """The LoRA layers that merge by a sum, all but DoRA's, and have not been."""
    return [layer for layer in lora_layers(module) if not layer.merged and isinstance(layer, FastLora)]


def merge_layer(layer: Any) -> None:
    """Put a plain linear layer with W + scale * B A in the place of the base; the sum is taken in float32, rounded once."""
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
    layer.base_layer = plain.train(base.training)
    layer.merged_adapters = [name]


def layer_dtype(base: Any) -> torch.dtype:
    """What a linear layer computes in: its weight's dtype, or the one its 4-bit weights were made from."""
    state = getattr(base.weight, "quant_state", None)
    return base.weight.dtype if state is None else state.dtype


def fits(module: nn.Module, layers: list[Any], *, keep: bool) -> bool:
    """Whether merged weights of `layers` fit beside the rest of `module`; keep: beside the unmerged ones too.

    Of the device's memory, not of what is free now: a model that is loaded again is merged again, and predicts the same.
    """
    now, dense, given_up = merged_sizes(module, layers)
    after = now + dense - (0 if keep else given_up)
    return after <= SHARE * device_memory(next(module.parameters()).device)


def merged_sizes(module: nn.Module, layers: list[Any]) -> tuple[int, int, int]:
    """Bytes of (`module` now, the merged weights of `layers`, the weights that these can take the place of)."""
    bases = [layer.get_base_layer() for layer in layers]
    dense = sum(x.in_features * x.out_features * layer_dtype(b).itemsize for x, b in zip(layers, bases, strict=True))
    now = sum(p.numel() * p.element_size() for p in module.parameters())
    return now, dense, sum(b.weight.numel() * b.weight.element_size() for b in bases)
