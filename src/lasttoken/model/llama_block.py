"""Llama blocks on a CPU in few operations: two autograd functions around attention.

The output is that of transformers' block with PEFT's layers up to rounding; `backbone.verify` checks it at loading.
Linear layers that read the same input share one dropout mask. What is not as expected (4 bits, DoRA, biases, mixed
precision, a key-value cache of transformers, a GPU) is computed by the block's own code, as are all other architectures.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lasttoken.model.attention import NAME, packed_attention
from lasttoken.model.bucket_attention import BucketAttention, serves
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.llama_functions import Heads, Rest
from lasttoken.model.lora import FastLora
from lasttoken.model.lora_group import Group, adapters_group
from lasttoken.model.products import Linear

LINEAR = (nn.Linear, Linear)


class LlamaBlock:
    """Mixin for transformers' Llama block: the same output by `Heads`, packed attention and `Rest`."""

    def forward(self: Any, hidden_states: Tensor, **given: Any) -> Tensor:
        groups = groups_of(self, hidden_states, given)
        if groups is None:
            return super().forward(hidden_states, **given)  # type: ignore[misc]
        read, back, wide, down = groups
        states, attention = hidden_states[0], self.self_attn
        sides = tuple(side[0, :, None] for side in given["position_embeddings"])  # (T, 1, d) each
        kept = read.mask(states)
        parts = Heads.apply(states, self.input_layernorm, read, sides, kept, *read.a, *read.b)
        mixed = attended(attention, parts, given["layout"])
        masks = back.mask(mixed), wide.mask(states), down.mask(states)
        lora = [weight for group in groups[1:] for weight in (*group.a, *group.b)]
        out: Any = Rest.apply(states, mixed, self.post_attention_layernorm, groups[1:], masks, *lora)
        return out[None]


def attended(attention: Any, parts: Any, layout: Any) -> Tensor:
    """Attention's output (T, heads * d) of queries (T, heads * d), keys and values (T, key heads * d) under `layout`."""
    size, rate = attention.head_dim, attention.attention_dropout if attention.training else 0.0
    if not rate and serves(layout, parts[0]):
        found: Any = BucketAttention.apply(*parts, layout, size, attention.scaling)
        return found
    q, k, v = (part.view(1, len(part), -1, size).transpose(1, 2) for part in parts)
    mixed, _ = packed_attention(attention, q, k, v, None, scaling=attention.scaling, dropout=rate, layout=layout)
    return mixed.reshape(len(parts[0]), -1)


def groups_of(block: Any, hidden_states: Tensor, given: dict[str, Any]) -> tuple[Group, ...] | None:
    """The layers q, k, v; o; gate, up; down. None where the block has to be computed by its own code."""
    kind, dtype = hidden_states.device.type, hidden_states.dtype
    if (
        kind != "cpu"
        or len(hidden_states) != 1
        or given.get("layout") is None
        or given.get("past_key_values") is not None
    ):
        return None
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != dtype:
        return None
    own, mlp = block.self_attn, block.mlp
    if own.config._attn_implementation != NAME:
        return None
    found = []
    for layers in (own.q_proj, own.k_proj, own.v_proj), (own.o_proj,), (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,):
        group = group_of(layers, dtype)
        if group is None:
            return None
        found.append(group)
    return tuple(found)


def group_of(layers: tuple[Any, ...], dtype: torch.dtype) -> Group | None:
    """The layers as a group that computes in `dtype`; None where they do not form one."""
    tuned: list[Any] = [layer for layer in layers if isinstance(layer, BaseTunerLayer)]
    bases: list[Any] = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers]
    for base in bases:
        if type(base) not in LINEAR or base.bias is not None or base.weight.dtype != dtype:
            return None
        if base.weight.requires_grad:
            return None
    if not tuned or all(layer.merged for layer in tuned):
        return Group(tuple(bases), dtype)
    if len(tuned) != len(layers) or any(FastLora not in type(layer).__mro__ for layer in tuned):
        return None
    return adapters_group(layers, dtype)


def install(module: nn.Module) -> None:
    """Mix `LlamaBlock` into the blocks of a Llama, in place; other architectures stay as they are."""
    for block in blocks_of(module)[1]:
        if type(block) is LlamaDecoderLayer and block.mlp.config.hidden_act == "silu":
            block.__class__ = with_fewer_operations(type(block))


@cache
def with_fewer_operations(kind: type) -> type:
    """The block class `kind` with `LlamaBlock` mixed in, created once."""
    return type(kind.__name__, (LlamaBlock, kind), {})
