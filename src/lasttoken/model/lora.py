"""Faster LoRA with the same output: one autograd function per layer in training, merged weights in prediction.

PEFT's layers and file format stay; only the computation of a layer's output changes. Plain PEFT takes nine operations
forward and nine backward for each of seven linear layers per block, mostly on tensors as large as the activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lasttoken.journal import LOGGER
from lasttoken.model import products, shared_input
from lasttoken.model.device import device_memory
from lasttoken.model.lora_group import adapters_group, dense_weight, outputs_of, quant_state
from lasttoken.model.shard import is_sharded
from lasttoken.model.shared_input import Siblings

SHARE = 0.8  # of the device's memory: limit for the weights after merging

Merge = Literal["auto", "off"]


class FastLora:
    """Mixin for a PEFT LoRA layer: the same output by `Outputs`. Merged or disabled layers use PEFT's own forward."""

    siblings: Siblings | None = None  # those that may read the same input

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        flat, out = x.reshape(-1, x.shape[-1]).to(dtype), None
        if self.siblings is not None and self.training and torch.is_grad_enabled():
            out = self.siblings.output(self, x, flat)
        if out is None:
            group = adapters_group((self,), dtype)
            assert group is not None  # one active adapter, as everywhere here
            (out,) = outputs_of(group, flat)
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
    shared_input.install(adapted, FastLora)


@cache
def fast(kind: type) -> type:
    """The PEFT layer class `kind` with `FastLora` mixed in, created once."""
    return type(kind.__name__, (FastLora, kind), {})


def lora_layers(module: nn.Module) -> list[Any]:
    """The PEFT layers inside `module`."""
    return [m for m in module.modules() if isinstance(m, BaseTunerLayer)]


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
