"""The autograd functions of a Llama block (model/llama_block.py): what precedes its attention, and what follows it.

Each stands for many operations of transformers and PEFT. Base weights are frozen: only inputs and adapters get
gradients. T tokens, H width, d size of a head, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lasttoken.model.products import linear, plus_linear


@dataclass(frozen=True, eq=False)
class Group:
    """n frozen linear layers without bias that read the same input: all with adapters of one rank and scale, or none."""

    weights: tuple[Tensor, ...]  # (out, in) each
    a: tuple[Tensor, ...] = ()  # (r, in) each, empty without adapters
    b: tuple[Tensor, ...] = ()  # (out, r) each
    scale: float = 1.0
    threshold: int = 0  # share of dropped inputs, in 256ths

    @cached_property
    def stacked(self) -> Tensor:
        """Every A, (n r, in), in the precision of the weights; forward and backward pass share it."""
        return torch.cat(self.a).to(self.weights[0].dtype)

    @cached_property
    def scaled(self) -> list[Tensor]:
        """Every B, times scale, in the precision of the weights."""
        return [(b * self.scale).to(self.weights[0].dtype) for b in self.b]

    def outputs(self, x: Tensor, kept: Tensor | None) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Outputs (T, out) of an input (T, in); the input after dropout, and times every A, (T, n r), for `gradients`.

        kept: (T, in) uint8, 1 where dropout keeps; None without dropout.
        """
        outs = [linear(x, weight) for weight in self.weights]
        if not self.a:
            return outs, None, None
        dropped = x if kept is None else x * kept
        low = linear(dropped, self.stacked)
        parts = zip(outs, low.chunk(len(outs), dim=1), self.scaled, strict=True)
        return [plus_linear(out, part, b) for out, part, b in parts], dropped, low

    def gradients(
        self, grads: list[Tensor], dropped: Tensor | None, kept: Tensor | None, low: Tensor | None, *, of_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the input (None unless `of_input`), and of every A and B in that order."""
        first, *others = grads
        grad_x = linear(first, self.weights[0].t()) if of_input else None
        for grad, weight in zip(others, self.weights[1:], strict=True):
            grad_x = None if grad_x is None else plus_linear(grad_x, grad, weight.t())
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
        if grad_x is not None:
            stacked = self.stacked.t()
            grad_x = (
                plus_linear(grad_x, through, stacked)
                if kept is None
                else grad_x.add_(linear(through, stacked).mul_(kept))
            )
        return grad_x, [*of_a, *of_b]


def normed(states: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """RMSNorm (T, H), and the inverse root mean squares (T, 1) in float32."""
    wide = widened(states)
    inverse = (wide * wide).mean(-1, keepdim=True).add_(norm.variance_epsilon).rsqrt_()
    return (wide * inverse).to(states.dtype).mul_(norm.weight), inverse


def normed_gradient(grad: Tensor, states: Tensor, inverse: Tensor, norm: Any) -> Tensor:
    """The gradient of RMSNorm's input, (T, H) in float32."""
    wide, scaled = widened(states), widened(grad * norm.weight)
    pull = (scaled * wide).mean(-1, keepdim=True).mul_(inverse.pow(3)).neg_()
    return scaled.mul_(inverse).addcmul_(wide, pull)


def widened(states: Tensor) -> Tensor:
    """In float32, or float64 as it is."""
    return states if states.dtype == torch.float64 else states.float()


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions applied to (T, heads * d). cos, sin: (T, 1, d), their second half the same as the first."""
    heads = states.view(len(states), -1, cos.shape[-1])
    low, high = heads.chunk(2, dim=-1)
    return (heads * cos).addcmul_(torch.cat((-high, low), dim=-1), sin).view_as(states)


class Heads(torch.autograd.Function):
    """Norm, q, k and v with adapters, and rotary positions: (T, H) -> q (T, heads * d); k, v (T, key heads * d)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        norm: Any,
        read: Group,
        sides: tuple[Tensor, Tensor],
        kept: Tensor | None,
        *lora: Tensor,
    ) -> tuple[Tensor, ...]:
        x, inverse = normed(states, norm)
        (q, k, v), dropped, low = read.outputs(x, kept)
        ctx.save_for_backward(states, inverse, dropped, low, kept)
        ctx.norm, ctx.read, ctx.sides = norm, read, sides
        return rotated(q, *sides), rotated(k, *sides), v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, inverse, dropped, low, kept = ctx.saved_tensors
        cos, sin = ctx.sides
        q, k = (rotated(grad, cos, -sin) for grad in grads[:2])
        needed = ctx.needs_input_grad[0]
        grad, of_lora = ctx.read.gradients([q, k, grads[2]], dropped, kept, low, of_input=needed)
        if grad is not None:
            grad = normed_gradient(grad, states, inverse, ctx.norm).to(states.dtype)
        return grad, None, None, None, None, *of_lora


class Rest(torch.autograd.Function):
    """Attention's output layer, residual, norm, MLP, residual: block's input (T, H), attention (T, heads * d) -> (T, H)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        mixed: Tensor,
        norm: Any,
        groups: tuple[Group, Group, Group],
        masks: tuple[Tensor | None, ...],
        *lora: Tensor,
    ) -> Tensor:
        back, wide, down = groups
        (out,), *of_back = back.outputs(mixed, masks[0])
        middle = out.add_(states)
        x, inverse = normed(middle, norm)
        (gate, up), *of_wide = wide.outputs(x, masks[1])
        (out,), *of_down = down.outputs(F.silu(gate) * up, masks[2])
        ctx.save_for_backward(middle, inverse, gate, up, *of_back, *of_wide, *of_down, *masks)
        ctx.norm, ctx.groups = norm, groups
        return out.add_(middle)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        middle, inverse, gate, up, *kept = ctx.saved_tensors
        back, wide, down = ctx.groups
        inner, of_down = down.gradients([grad], kept[4], kept[8], kept[5], of_input=True)
        assert inner is not None
        of_gate = torch.ops.aten.silu_backward(inner * up, gate)
        inner = inner.mul_(F.silu(gate))
        x, of_wide = wide.gradients([of_gate, inner], kept[2], kept[7], kept[3], of_input=True)
        assert x is not None
        below = normed_gradient(x, middle, inverse, ctx.norm).add_(grad).to(grad.dtype)
        mixed, of_back = back.gradients([below], kept[0], kept[6], kept[1], of_input=ctx.needs_input_grad[1])
        return below, mixed, None, None, None, *of_back, *of_wide, *of_down
