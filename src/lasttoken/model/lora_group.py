"""Frozen linear layers that read one input, with their adapters, as one autograd function.

For q, k and v, or gate and up, dropout and the product with A run once, and the input is saved once. A single layer is
a group of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lasttoken.model.dropout import STEPS, draw, drop
from lasttoken.model.products import linear, plus_linear


@dataclass(frozen=True, eq=False)
class Group:
    """n frozen linear layers that read the same input: all with adapters of one rank and scale, or none."""

    bases: tuple[nn.Module, ...]  # weights (out, in) each
    dtype: torch.dtype  # of inputs and outputs
    a: tuple[Tensor, ...] = ()  # (r, in) each, empty without adapters
    b: tuple[Tensor, ...] = ()  # (out, r) each
    scale: float = 1.0
    threshold: int = 0  # share of dropped inputs, in STEPS

    @cached_property
    def stacked(self) -> Tensor:
        """Every A, (n r, in), in the group's precision; forward and backward pass share it."""
        return torch.cat(self.a).to(self.dtype)

    @cached_property
    def scaled(self) -> list[Tensor]:
        """Every B, times scale, in the group's precision."""
        return [(b * self.scale).to(self.dtype) for b in self.b]

    def mask(self, like: Tensor) -> Tensor | None:
        """What dropout keeps of an input (T, in), see `dropout.draw`; None without dropout. like: (T, any width)."""
        if not self.threshold:
            return None
        return draw(torch.Size([len(like), self.a[0].shape[1]]), self.threshold, like.device)

    def outputs(self, x: Tensor, kept: Tensor | None) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Outputs (T, out) of an input (T, in); the input after dropout, and times every A, (T, n r), for `gradients`.

        kept: from `mask`.
        """
        outs = [linear(x, dense_weight(base, self.dtype), bias_of(base, self.dtype)) for base in self.bases]
        if not self.a:
            return outs, None, None
        dropped = drop(x, kept, self.threshold)
        low = linear(dropped, self.stacked)
        parts = zip(outs, low.chunk(len(outs), dim=1), self.scaled, strict=True)
        return [plus_linear(out, part, b) for out, part, b in parts], dropped, low

    def gradients(
        self, grads: list[Tensor], dropped: Tensor | None, kept: Tensor | None, low: Tensor | None, *, of_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the input (None unless `of_input`), and of every A and B in that order."""
        grad_x = None
        for grad, base in zip(grads, self.bases if of_input else (), strict=of_input):
            weight = dense_weight(base, self.dtype).t()
            grad_x = linear(grad, weight) if grad_x is None else plus_linear(grad_x, grad, weight)
        if dropped is None or low is None:
            return grad_x, []
        through = torch.cat(
            [linear(grad, b.t()) for grad, b in zip(grads, self.scaled, strict=True)], dim=1
        )  # (T, n r)
        of_a = linear(through.t(), dropped.t()).to(self.a[0].dtype).chunk(len(grads))
        of_b = [
            linear(part.t(), grad.t()).t().to(b.dtype).mul_(self.scale)
            for grad, part, b in zip(grads, low.chunk(len(grads), dim=1), self.b, strict=True)
        ]
        if grad_x is not None and kept is None:
            grad_x = plus_linear(grad_x, through, self.stacked.t())
        elif grad_x is not None:
            grad_x.add_(drop(linear(through, self.stacked.t()), kept, self.threshold))
        return grad_x, [*of_a, *of_b]


class Outputs(torch.autograd.Function):
    """Outputs (T, out) of the layers of a group for an input (T, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, kept: Tensor | None, *lora: Tensor) -> tuple[Tensor, ...]:
        outs, dropped, low = group.outputs(x, kept)
        ctx.save_for_backward(dropped, low, kept)
        ctx.group = group
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, kept = ctx.saved_tensors
        grad_x, of_lora = ctx.group.gradients(list(grads), dropped, kept, low, of_input=ctx.needs_input_grad[0])
        return grad_x, None, None, *of_lora


def outputs_of(group: Group, x: Tensor) -> tuple[Tensor, ...]:
    """Outputs (T, out) of the layers of a group for an input (T, in), with a dropout mask drawn for them."""
    return Outputs.apply(x, group, group.mask(x), *group.a, *group.b)  # type: ignore[return-value]


def adapters_group(layers: tuple[Any, ...], dtype: torch.dtype) -> Group | None:
    """PEFT's LoRA layers as a group that computes in `dtype`; None where ranks, scales or dropout differ, or one is off."""
    found = [adapter_of(layer) for layer in layers]
    if any(one is None for one in found):
        return None
    a, b, scales, thresholds = zip(*[one for one in found if one is not None], strict=True)
    if len({(len(x), scale, threshold) for x, scale, threshold in zip(a, scales, thresholds, strict=True)}) != 1:
        return None
    bases = tuple(layer.get_base_layer() for layer in layers)
    return Group(bases, dtype, a, b, scales[0] / (1 - thresholds[0] / STEPS), thresholds[0])


def adapter_of(layer: Any) -> tuple[Tensor, Tensor, float, int] | None:
    """(A, B, scale, dropout in STEPS) of a LoRA layer; None if it is merged or switched off."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    rate = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    return layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], round(rate * STEPS)


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
