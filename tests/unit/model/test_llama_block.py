"""Llama blocks in few operations give what transformers' blocks and PEFT's layers give, and leave alone what they do not know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from precision import equal_but_for_rounding
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from lasttoken.model import bucket_attention, llama_block
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.layout import Layout, lay_out
from lasttoken.model.llama_block import LlamaBlock, group_of
from lasttoken.model.lora import merge

TREE = np.tril(np.ones((3, 3), dtype=bool))
LAYOUTS: dict[str, Callable[[], Layout]] = {
    "texts": lambda: lay_out([7, 1, 30, 12, 5]),
    "texts of one length": lambda: lay_out([16, 16]),
    "a shared prefix": lambda: lay_out([7, 12], prefix=4),
    "a tree": lambda: lay_out([7, 12], trees=[TREE, None]),
}


def adapted(load_fresh: Callable[..., Backbone], **changed: Any) -> Backbone:
    backbone = load_fresh("llama")
    given: dict[str, Any] = {"r": 4, "alpha": 8.0, "dropout": 0.0, "seed": 0, **changed}
    adapter = adapt(backbone, **given)
    for name, weight in adapter.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return backbone


def own_code(backbone: Backbone) -> None:
    for block in blocks_of(backbone.module)[1]:
        block.__class__ = LlamaDecoderLayer


def hidden_and_grads(backbone: Backbone, layout: Layout) -> list[Tensor]:
    torch.manual_seed(1)
    states = torch.randn(len(layout.positions), backbone.width, dtype=backbone.compute, requires_grad=True)
    leaves = [states, *(p for p in backbone.whole.parameters() if p.requires_grad)]
    with backbone.autocast():
        hidden = backbone.hidden(states, layout)
    return [hidden.detach(), *torch.autograd.grad(hidden.float().square().sum(), leaves)]


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("targets", ["all-linear", ["o_proj", "down_proj"]])
def test_hidden_states_and_gradients_are_those_of_the_ordinary_block(
    layout: str, targets: Any, load_fresh: Callable[..., Backbone]
) -> None:
    backbone = adapted(load_fresh, targets=targets)
    assert all(isinstance(block, LlamaBlock) for block in blocks_of(backbone.module)[1])
    found = hidden_and_grads(backbone, LAYOUTS[layout]())
    own_code(backbone)
    wanted = hidden_and_grads(backbone, LAYOUTS[layout]())
    assert len(found) == len(wanted)
    size = max(float(grad.abs().max()) for grad in wanted)  # single gradients are sums in which most cancels out
    for ours, theirs in zip(found, wanted, strict=True):
        equal_but_for_rounding(ours, theirs, backbone.compute, rtol=1e-3, atol=1e-5 * size)


def test_which_attention_computes_which_layout() -> None:
    states = torch.zeros(1, 1)
    served = {name: bucket_attention.serves(make(), states) for name, make in LAYOUTS.items()}
    assert served == {"texts": True, "texts of one length": True, "a shared prefix": False, "a tree": False}
    assert not bucket_attention.serves(lay_out([5], causal=False), states)
    assert not bucket_attention.serves(lay_out([1100]), states)  # torch's fused kernel is faster from 1,024 on
    assert not bucket_attention.serves(None, states)


def test_a_merged_adapter_predicts_the_same(load_fresh: Callable[..., Backbone]) -> None:
    backbone, layout = adapted(load_fresh), lay_out([7, 12])
    tokens = torch.arange(3, 22)
    with torch.inference_mode(), backbone.autocast():
        apart = backbone.hidden(tokens, layout)
        assert merge(backbone.whole, "auto")
        together = backbone.hidden(tokens, layout)
        own_code(backbone)
        ordinary = backbone.hidden(tokens, layout)
    equal_but_for_rounding(together, apart, backbone.compute, rtol=1e-4, atol=1e-4)
    equal_but_for_rounding(together, ordinary, backbone.compute, rtol=1e-4, atol=1e-4)


def test_gradients_with_dropout_are_those_of_the_masked_output(load_fresh: Callable[..., Backbone]) -> None:
    backbone = adapted(load_fresh, dropout=0.5)
    block: Any = blocks_of(backbone.whole.double().train())[1][0]
    layout = lay_out([3, 2], kind="cuda")  # without filler: 5 tokens
    positions = backbone.module.rotary_emb(torch.zeros(1, dtype=torch.float64), layout.positions[None])  # type: ignore[operator]
    states = torch.randn(1, 5, backbone.width, dtype=torch.float64, requires_grad=True)
    leaves = [p for p in block.parameters() if p.requires_grad]

    def same_masks(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return block(tensors[0], position_embeddings=positions, layout=layout)

    assert torch.autograd.gradcheck(same_masks, (states, *leaves), fast_mode=True)
    assert not torch.equal(
        block(states, position_embeddings=positions, layout=layout),
        block(states, position_embeddings=positions, layout=layout),
    )


def test_layers_with_one_input_share_a_dropout_mask(load_fresh: Callable[..., Backbone]) -> None:
    backbone = adapted(load_fresh, dropout=0.25)
    own: Any = blocks_of(backbone.whole.eval())[1][0].self_attn
    group = group_of((own.q_proj, own.k_proj, own.v_proj), backbone.compute)
    assert group is not None
    assert group.mask(torch.zeros(100, backbone.width)) is None
    backbone.whole.train()
    group = group_of((own.q_proj, own.k_proj, own.v_proj), backbone.compute)
    assert group is not None
    assert (len(group.bases), len(group.a), len(group.b), group.threshold) == (3, 3, 3, 64)
    assert group.scale == 8 / 4 / 0.75  # alpha / r, over the share that is kept
    mask = group.mask(torch.zeros(100, backbone.width))
    assert mask is not None
    assert mask.shape == (100, backbone.width)


def test_what_is_not_known_is_computed_by_the_ordinary_block(load_fresh: Callable[..., Backbone]) -> None:
    backbone = adapted(load_fresh)
    own: Any = blocks_of(backbone.module)[1][0].self_attn
    qkv, dtype = (own.q_proj, own.k_proj, own.v_proj), backbone.compute
    assert group_of(qkv, torch.float64) is None  # mixed precision
    assert group_of((own.q_proj, own.k_proj.base_layer, own.v_proj), dtype) is None  # an adapter is missing
    assert group_of((nn.Linear(4, 4, dtype=dtype).requires_grad_(False),), dtype) is None  # a bias
    assert group_of((nn.Linear(4, 4, bias=False, dtype=dtype),), dtype) is None  # trained itself
    own.q_proj.enable_adapters(False)
    assert group_of(qkv, dtype) is None
    dora: Any = blocks_of(adapted(load_fresh, dora=True).module)[1][0].self_attn
    assert group_of((dora.o_proj,), dtype) is None


def test_only_llamas_are_changed(load_shared: Callable[..., Backbone]) -> None:
    for name, changed in (("llama", True), ("mistral", False), ("qwen3", False), ("gpt2", False)):
        assert isinstance(blocks_of(load_shared(name).module)[1][0], LlamaBlock) == changed
    assert llama_block.with_fewer_operations(LlamaDecoderLayer) is type(blocks_of(load_shared("llama").module)[1][0])
