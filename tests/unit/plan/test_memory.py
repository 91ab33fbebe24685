"""Bytes by part, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lasttoken.config.methods import Embedding, Encoder, Probe
from lasttoken.config.settings import Lora
from lasttoken.fitting import memory as of_training
from lasttoken.infer import scoring
from lasttoken.model import attention, lora
from lasttoken.plan import forecast, memory
from lasttoken.plan.cards import Card, find_card
from lasttoken.plan.memory import Fit, Work, merged_bytes, training_step
from lasttoken.plan.model_shape import ModelShape

LARGE = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192}
LARGE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 300}
MATRICES = 16 * 2048 * (2 * 256 + 2 * 128 + 3 * 8192)  # q and o, k and v, gate, up and down
HEAD = 3 * 2048  # without a bias


def fit_of(config: Any, card: str | Card = "80GB") -> Fit:
    return Fit(
        ModelShape("base", LARGE), config.footprint(), find_card(card) if isinstance(card, str) else card, classes=3
    )


def test_constants_are_those_of_the_code_they_describe() -> None:
    assert memory.FUSED_FROM == attention.FUSED_FROM
    assert memory.LOGITS == scoring.CHUNK
    assert memory.MERGED_SHARE == lora.SHARE
    assert (forecast.SHARE, forecast.FULL) == (of_training.SHARE, of_training.FULL)


def test_adapters_and_head() -> None:
    fit = fit_of(Embedding(lora=Lora(r=8)))
    # r (in + out) for each linear layer of each block
    adapters = 16 * 8 * (2 * (2048 + 256) + 2 * (2048 + 128) + 3 * (2048 + 8192))
    assert fit.trained == adapters + HEAD
    assert fit.frozen == fit.shape.parameters == MATRICES + 16 * 2 * 2048 + 301 * 2048
    assert fit.loaded == 2 * fit.frozen + 4 * fit.trained
    some = fit_of(Embedding(lora=Lora(r=8, targets=("q_proj", "v_proj"))))
    assert some.trained == 16 * 8 * (2048 + 256 + 2048 + 128) + HEAD
    assert fit_of(Embedding(lora=Lora(r=8), trunk=8)).trained == adapters // 2 + HEAD
    assert fit_of(Probe()).trained == 0
    assert fit_of(Embedding(lora=Lora(r=0), head="mlp")).trained == 2048 * 2048 + 2048 + HEAD + 3


def test_an_encoder_trains_all_of_itself() -> None:
    fit = fit_of(Encoder())
    assert (fit.frozen, fit.trained) == (0, fit.shape.parameters + HEAD + 3)
    assert fit.loaded == 4 * fit.trained


def test_4_bit_weights_take_what_the_format_says() -> None:
    plain, packed = (fit_of(Probe(quantize=how)).loaded for how in ("none", "nf4"))
    assert plain - packed == pytest.approx(MATRICES * (16 - 4 - 8 / 64 - 32 / (64 * 256)) / 8, abs=1)


@pytest.mark.parametrize(
    ("optimizer", "kind", "each"),
    [
        ("adamw", "cuda", 8),
        ("adamw8bit", "cuda", 2 + 8 / 256),  # a byte a state, and a float32 scale for each 256 of each state
        ("paged_adamw32bit", "cuda", 0),
        ("adamw8bit", "cpu", 8),
    ],
)
def test_optimiser_states(optimizer: Any, kind: str, each: float) -> None:
    fit = fit_of(Embedding.model_validate({"train": {"optimizer": optimizer}}), Card("", kind, 1e12, 1e12, 2))
    assert fit.states == round(each * fit.trained)


def test_merged_weights_stand_beside_the_others_where_the_rule_finds_room() -> None:
    config = Embedding(quantize="nf4")
    assert merged_bytes(fit_of(config)) == 2 * MATRICES + 12 * 2048 * 8192
    assert merged_bytes(fit_of(config, "1GB")) == 0
    assert merged_bytes(fit_of(Embedding(merge="off"))) == 0


def test_a_graphics_card_keeps_masks_and_no_attention_scores() -> None:
    """Without dropout nothing but attention differs; with it, a byte for every input of an adapted linear layer."""
    several, one = Work(np.array([64] * 4)), Work(np.array([256]))
    masked, plain = (
        training_step(fit_of(Embedding(lora=Lora(dropout=rate))), several, checkpointing=False)[0]
        for rate in (0.05, 0.0)
    )
    # q, k, v, gate and up read H = 2048, o reads 4 heads of 64, down reads 8192
    assert masked - plain == 16 * 256 * (5 * 2048 + 256 + 8192)
    config = Embedding(lora=Lora(dropout=0.0))
    assert training_step(fit_of(config), one, checkpointing=False)[0] == plain
    on_cpu = fit_of(config, Card("", "cpu", 1e12, 1e12, 2))
    scores = 16 * 2 * 4 * (256 * 256)  # blocks, bytes, heads, queries and keys
    assert training_step(on_cpu, one, checkpointing=False)[0] - plain == scores


def test_recomputing_keeps_one_block_and_what_enters_each() -> None:
    fit, work = fit_of(Embedding(lora=Lora(dropout=0.0))), Work(np.array([256]))
    whole, again = (training_step(fit, work, checkpointing=how) for how in (False, True))
    assert again[0] == whole[0] // 16 + 16 * 256 * 2048 * 2
    assert again[2] < whole[2]


def test_gradients_of_an_earlier_micro_batch_stand_beside_what_is_kept() -> None:
    fit = fit_of(Embedding())
    kept, moment, peak = training_step(fit, Work(np.array([256])), checkpointing=False)
    assert peak == kept + moment
    assert training_step(fit, Work(np.array([256]), several=True), checkpointing=False)[2] == peak + 4 * fit.trained
