"""The last block run for the tokens that are read: the same states and gradients, in every architecture, and less work."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DECODERS, ENCODERS, NESTED, SPARSE, WIDTHS, sentences
from torch import Tensor, nn

from lasttoken.methods.packed import pack
from lasttoken.methods.scoring import lay_out_trees, score
from lasttoken.model.adapter import adapt
from lasttoken.model.attention import SIDE, to_read
from lasttoken.model.backbone import Backbone
from lasttoken.model.blocks import blocks_of, by_token, in_full, is_shortened, running
from lasttoken.model.lora import merged
from lasttoken.model.pooling import Pooling
from lasttoken.text.tokenizer import encode, encode_windows
from lasttoken.text.tree import grow

TEXTS = sentences(4, seed=7) + sentences(1, seed=8) * 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def hidden(backbone: Backbone, pooling: Pooling | None) -> tuple[Tensor, Tensor]:
    """(states (T, H) of TEXTS, ends (B,))."""
    encoded = encode(backbone.tokenizer, TEXTS, limit=256)
    batch = pack(encoded, np.arange(len(TEXTS)), backbone, pooling=pooling)
    return backbone.hidden(batch.inputs, batch.layout), batch.layout.ends


@contextmanager
def rows_seen(part: nn.Module) -> Iterator[list[int]]:
    """How many tokens go into `part`, call by call."""
    seen: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].shape[-2])

    hook = part.register_forward_pre_hook(note)
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", sorted(DECODERS | NESTED | WIDTHS | SPARSE))
def test_the_states_that_are_read_are_the_same_and_only_they_are_computed(
    name: str, load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name)
    *_, mlp = by_token(blocks_of(backbone.module)[1][-1])
    with torch.inference_mode(), rows_seen(mlp) as seen:
        whole, ends = hidden(backbone, None)
        short, _ = hidden(backbone, "last")
    torch.testing.assert_close(short[ends], whole[ends], **CLOSE)
    assert seen[1] == SIDE < seen[0]
    assert not torch.allclose(short, whole, rtol=1e-3, atol=1e-3)  # states that nobody reads mean nothing


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_encoder_read_at_its_first_token(name: str, load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared(name, kind="encoder")
    *_, last = by_token(blocks_of(backbone.module)[1][-1])
    with torch.inference_mode(), rows_seen(last) as seen:
        whole, ends = hidden(backbone, None)
        short, _ = hidden(backbone, "first")
    firsts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
    torch.testing.assert_close(short[firsts], whole[firsts], **CLOSE)
    assert seen[1] == SIDE < seen[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt-neox", "gemma3", "phi3"])
def test_adapters_learn_the_same(name: str, checkpointing: bool, load_fresh: Callable[..., Backbone]) -> None:
    backbone = load_fresh(name)
    adapted = adapt(backbone, r=4, alpha=8, dropout=0.0, seed=0)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.1)
    if checkpointing:
        backbone.whole.activation_checkpointing_enable()
    backbone.whole.train()
    found = []
    for pooling in (None, "last"):
        states, ends = hidden(backbone, pooling)
        states[ends].square().sum().backward()
        found.append({key: w.grad.clone() for key, w in adapted.named_parameters() if w.grad is not None})
        adapted.zero_grad()
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 8
    for key, grad in found[0].items():
        torch.testing.assert_close(found[1][key], grad, rtol=1e-4, atol=1e-5, msg=key)


def test_what_adapters_wrap_is_gathered_once(load_fresh: Callable[..., Backbone]) -> None:
    backbone = load_fresh("llama")
    adapted = adapt(backbone, r=4, alpha=8, dropout=0.0, dora=True, seed=0)  # DoRA calls the layer that it wraps
    (block,) = blocks_of(backbone.module)[1][-1:]
    wrapped: Any = block.self_attn.o_proj
    with torch.inference_mode(), rows_seen(wrapped.base_layer) as seen:
        whole, ends = hidden(backbone, None)
        short, _ = hidden(backbone, "last")
        with adapted.disable_adapter():
            plain, _ = hidden(backbone, "last")
    torch.testing.assert_close(short[ends], whole[ends], **CLOSE)
    torch.testing.assert_close(plain[ends], whole[ends], **CLOSE)  # B is zero
    assert seen[-2:] == [SIDE, SIDE]


def test_answers_are_scored_the_same(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("llama", vocabulary=True)
    encoded = encode(backbone.tokenizer, TEXTS, limit=256, special=False)
    trees = [grow([((), (5, 6)), ((7,), (5, 8)), ((), (9,))])] * len(TEXTS)
    batch = lay_out_trees(backbone, np.arange(10), encoded.ids, trees)
    assert batch.layout.read is not None
    with torch.inference_mode():
        short = torch.cat(score(backbone, batch))
        object.__setattr__(batch.layout, "read", None)
        whole = torch.cat(score(backbone, batch))
    torch.testing.assert_close(short, whole, **CLOSE)


def test_a_block_that_gives_something_else_so_is_run_in_full(
    load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_shortened(blocks_of(load_fresh("llama").module)[1][-1])
    monkeypatch.setattr("lasttoken.model.blocks.KEYS", {"k_proj"})  # values of few tokens are not enough
    backbone = load_fresh("llama")
    assert not is_shortened(blocks_of(backbone.module)[1][-1])
    with torch.inference_mode():
        whole, _ = hidden(backbone, None)
        short, _ = hidden(backbone, "last")
    torch.testing.assert_close(short, whole, rtol=0, atol=0)


def test_what_is_read_comes_in_few_sizes_and_is_no_more_than_half() -> None:
    found = to_read(np.array([3, 40]), 64)
    assert found is not None
    assert len(found) == SIDE
    assert {3, 40} <= set(found.tolist())
    assert found.tolist() == sorted(set(found.tolist()))
    assert to_read(np.arange(32), 64) is not None
    assert to_read(np.arange(33), 64) is None
    assert to_read(np.array([0]), 5) is None
    assert to_read(None, 64) is None


def test_nothing_is_held_on_to(load_fresh: Callable[..., Backbone]) -> None:
    """Recomputing leaves the hook out that ends a block: what it began is gone with the micro-batch."""
    backbone = load_fresh("llama")
    adapt(backbone, r=4, alpha=8, dropout=0.0, seed=0)
    backbone.whole.activation_checkpointing_enable()
    backbone.whole.train()
    states, ends = hidden(backbone, "last")
    states[ends].square().sum().backward()
    del states
    gc.collect()
    assert running() is None


def test_inside_in_full_all_tokens_run(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("llama")
    with torch.inference_mode():
        whole, _ = hidden(backbone, None)
        with in_full():
            found, _ = hidden(backbone, "last")
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


def test_a_block_that_runs_more_than_once_is_left_alone(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("albert", kind="encoder")
    assert not is_shortened(blocks_of(backbone.module)[1][-1])
    with torch.inference_mode():
        whole, _ = hidden(backbone, None)
        found, _ = hidden(backbone, "first")
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_merged_and_4_bit_weights(quantize: str, load_fresh: Callable[..., Backbone]) -> None:
    backbone = load_fresh("llama", quantize=quantize)
    adapted: Any = adapt(backbone, r=4, alpha=8, dropout=0.0, seed=0)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.1)
    found = []
    with torch.inference_mode():
        for how in ("off", "auto"):
            with merged(backbone.whole, how):
                whole, ends = hidden(backbone, None)
                short, _ = hidden(backbone, "last")
            torch.testing.assert_close(short[ends], whole[ends], **CLOSE)
            found.append(short[ends])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_of_a_text_in_windows_the_end_of_each_is_read(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("llama")
    encoded = encode_windows(backbone.tokenizer, [text * 4 for text in TEXTS], limit=24, overlap=0.25, most=4)
    found = []
    with torch.inference_mode():
        for pooling in (None, "last"):
            batch = pack(encoded, np.arange(len(TEXTS)), backbone, pooling=pooling)
            found.append(backbone.hidden(batch.inputs, batch.layout)[batch.layout.ends])
    assert len(found[0]) > len(TEXTS)
    assert batch.layout.read is not None
    torch.testing.assert_close(found[1], found[0], **CLOSE)
