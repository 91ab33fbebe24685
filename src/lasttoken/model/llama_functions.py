"""The autograd functions of a Llama block (model/llama_block.py): what precedes its attention, and what follows it.

Each stands for many operations of transformers and PEFT. Base weights are frozen: only inputs and adapters get
gradients. T tokens, H width, d size of a head, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lasttoken.model.lora_group import Group


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
