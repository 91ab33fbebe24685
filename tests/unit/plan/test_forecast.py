"""Choices, phases, time and advice of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config.methods import METHOD_CONFIGS, Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.settings import Long, Lora, Training
from lasttoken.data.dataset import Splits
from lasttoken.errors import ConfigError, ModelError
from lasttoken.model.files import find_file
from lasttoken.plan.cards import Card, find_card
from lasttoken.plan.forecast import Forecast, advise, forecast, ladder, seconds
from lasttoken.plan.memory import Fit, Work
from lasttoken.plan.model_shape import ModelShape
from lasttoken.plan.rows import Rows, a_pass, as_read, count, suppose
from lasttoken.text.batch import Budget, updates

LARGE = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192}
LARGE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 300}
SHAPE = ModelShape("base", LARGE)
ROWS = suppose(1000, 100, 3, valid_share=0.1, test_share=0.2)


ON_CARD = Card("a card", "cuda", 24e9, 22e9, 2)


def foresee(config: Any, card: str = "4090", rows: Rows = ROWS) -> Forecast:
    return forecast(config, SHAPE, rows, find_card(card), seed=0)


def test_a_forecast_is_whole() -> None:
    found = foresee(Embedding(model="base"))
    assert found.fits
    assert found.parts["weights"] == 2 * (found.parameters - found.trainable)
    assert found.parts["adapters and head"] == found.parts["gradients"] == 4 * found.trainable
    assert found.peak == max(found.phases.values())
    assert (found.epoch_tokens, found.micro_tokens) == (70_000, 8 * 512)
    assert found.seconds is not None
    assert found.epoch_seconds is not None
    assert found.seconds > 6 * found.epoch_seconds  # 500 updates of 8 of 700 rows
    drawn = foresee(Embedding(model="base", head_init="random"))
    assert (drawn.epoch_seconds, "head" in drawn.phases) == (found.epoch_seconds, False)
    assert drawn.seconds is not None
    assert 0.2 * found.epoch_seconds < found.seconds - drawn.seconds < 0.6 * found.epoch_seconds  # without gradients
    many = foresee(Embedding(model="base"), rows=suppose(100_000, 100, 3, valid_share=0.1, test_share=0.2))
    vectors = 4 * 2048 * (80_000 - 800)  # of rows to train on and to validate with, H float32 each
    assert many.phases["head"] - found.phases["head"] == pytest.approx(vectors, rel=0.02)
    probe = foresee(Probe(model="base"))
    assert (probe.trainable, list(probe.phases)) == (0, ["prediction"])
    named = foresee(Embedding(model="base"), "24GB")
    assert (named.seconds, named.epoch_seconds) == (None, None)


def test_where_memory_is_short_training_recomputes_and_halves() -> None:
    plenty = foresee(Embedding(model="base"), "80GB")
    assert (plenty.micro_tokens, plenty.checkpointing) == (4096, False)
    short = foresee(Embedding(model="base"), "2.6GB")
    assert short.checkpointing
    assert short.phases["training"] <= 0.95 * 2.6e9
    kept = foresee(Embedding(model="base", train=Training(checkpointing="off")), "2.6GB")
    assert (kept.checkpointing, kept.micro_tokens) == (False, 512)


def test_a_probe_loads_the_blocks_below_its_layer() -> None:
    whole, lower = (foresee(Probe(model="base", layer=layer)) for layer in (16, 3))
    assert whole.parameters == SHAPE.parameters
    assert lower.parameters == SHAPE.parameters - 12 * SHAPE.block
    with pytest.raises(ConfigError, match=r"^layer: 99 asked for, but base has 16 blocks; use 0 to 16$"):
        foresee(Probe(model="base", layer=99))


def test_the_wrong_family_is_refused_before_its_download() -> None:
    bert = ModelShape("b", {**LARGE, "model_type": "bert", "max_position_embeddings": 512})
    with pytest.raises(ModelError, match=r"is an encoder .* use --method encoder"):
        forecast(Embedding(model="b"), bert, ROWS, find_card("4090"), seed=0)
    assert forecast(Encoder(model="b"), bert, ROWS, find_card("4090"), seed=0).parameters
    with pytest.raises(ModelError, match="causal language model, not an encoder; use --method embedding"):
        foresee(Encoder(model="base"))


def test_every_method_owns_its_footprint() -> None:
    found = {name: kind().footprint() for name, kind in METHOD_CONFIGS.items() if name != "linear"}
    assert {name: (plan.reads, plan.trains) for name, plan in found.items()} == {
        "embedding": ("decoder", "adapter"),
        "instruction": ("decoder", "adapter"),
        "encoder": ("encoder", "everything"),
        "probe": ("any", "nothing"),
    }
    assert Embedding(lora=Lora(r=0)).footprint().trains == "head"
    assert Instruction(train_model=False).footprint().trains == "nothing"
    with pytest.raises(ConfigError, match=r"^--method linear: it trains in seconds on a CPU"):
        foresee(Linear())


def test_help_comes_in_the_order_of_harm() -> None:
    config = Embedding(lora=Lora(r=8), max_length=256, train=Training(checkpointing="off"))
    assert list(ladder(config.footprint(), ON_CARD)) == [
        ("train.checkpointing", "auto"),
        ("merge", "off"),
        ("quantize", "nf4"),
        ("max_length", 128),
        ("lora.r", 4),
    ]
    assert ("train.shard", "true") in list(ladder(config.footprint(), replace(ON_CARD, count=2)))
    assert list(ladder(Probe(max_length=128, quantize="nf4").footprint(), replace(ON_CARD, kind="cpu"))) == []


def test_advice_leaves_out_what_a_later_change_makes_needless() -> None:
    """Weights of 1.6 GB in bfloat16: neither shorter texts nor unmerged adapters help on 1.2 GB, 4 bits do."""

    def where(config: Any, card: Card) -> Forecast:
        return forecast(config, SHAPE, ROWS, card, seed=0)

    found = advise(Embedding(model="base"), find_card("1.2GB"), where)
    assert (found.settings, found.cards) == ({"quantize": "nf4"}, [])
    assert found.peak is not None
    assert found.peak <= 0.95 * 1.2e9
    assert advise(Embedding(model="base"), find_card("100MB"), where) == ({}, None, ["RTX 4080"])


def test_the_fullest_micro_batch_is_that_of_the_first_epoch() -> None:
    lengths = np.random.default_rng(1).integers(5, 150, 48)
    rows = Rows({"train": lengths, "valid": lengths[:9]}, ROWS.labels, known=True, counted="")
    work = a_pass(rows, "train", 10_000, batch=8, seed=7)
    order = updates(lengths, batch=8, budget=Budget(10_000), seed=7)
    assert work.tokens == max(int(lengths[next(order)[0].rows].sum()) for _ in range(6))
    assert (work.total, work.batches, work.several) == (lengths.sum(), 6, False)
    less = a_pass(rows, "train", 400, batch=8, seed=7)
    assert (less.tokens <= 400, less.several, less.batches) == (True, True, max(6, lengths.sum() / 400))
    assert a_pass(rows, "valid", 400).lengths[0] == lengths[:9].max()


def test_instruction_reads_its_prompt_and_answers() -> None:
    rows = dataset(8)  # three labels
    read = as_read(count(Splits(rows, rows, rows, ""), None), Instruction(model="tiny").footprint(), 1024)
    each = [len(name) // 4 + 2 for name in rows.labels.names]
    assert (read.prefix, read.taught, read.asked) == (80 // 4 + sum(each), max(each), sum(each))
    assert read.limit == 1024 - read.prefix - read.taught


def test_texts_are_cut_or_read_in_windows() -> None:
    long = suppose(10, 2000, 2, valid_share=0.1, test_share=0.1)
    for keep, tokens in (("head", 512), ("windows", 2000)):
        read = as_read(long, Embedding.model_validate({"long": {"keep": keep}}).footprint(), 1024)
        assert read.parts["train"].max() == tokens
    assert as_read(long, Embedding(long=Long(keep="windows", most=2)).footprint(), 1024).parts["test"].max() == 1024


def test_tokens_are_counted_or_estimated(folder: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = dataset(6)
    splits = Splits(rows, rows, rows, "")
    place = str(folder("llama"))
    counted = count(splits, find_file(place, None, "tokenizer.json", download=False))
    assert counted.counted == "by the model's tokenizer"
    whole = AutoTokenizer.from_pretrained(place)
    assert counted.parts["train"].tolist() == [len(ids) for ids in whole(list(rows.texts))["input_ids"]]
    for nowhere in (str(tmp_path), "somebody/not-here"):
        assert find_file(nowhere, None, "tokenizer.json", download=False) is None
    guessed = count(splits, None)
    assert guessed.counted == "estimated, 4 bytes of text a token"
    assert guessed.parts["train"].tolist() == [-(-len(text.encode()) // 4) for text in rows.texts]


def test_supposed_rows_are_split_as_real_ones() -> None:
    assert {part: len(lengths) for part, lengths in ROWS.parts.items()} == {"train": 700, "valid": 100, "test": 200}
    assert (len(ROWS.labels), ROWS.counted) == (3, "100 a row, as given")


def test_time_is_that_of_products_or_of_launches() -> None:
    fit = Fit(SHAPE, Embedding().footprint(), Card("", "cuda", 1e12, 1e12, 2, rate=1e12), 3)
    weights = 16 * SHAPE.matrices
    work = Work(np.array([64] * 4), total=256)
    attention = 4 * 16 * 4 * 64 * 64  # queries times keys, and their weights times values, of 4 heads of 64
    assert seconds(fit, work, 1) == pytest.approx(256 * (2 * weights + attention) / 0.35e12)
    assert seconds(fit, work, 3) == pytest.approx(3 * seconds(fit, work, 1))
    assert seconds(fit, Work(np.array([1]), batches=10, total=1), 1) == pytest.approx(10 * 70 * 16 * 6e-6)
    assert seconds(fit, Work(np.array([1]), batches=10, total=1), 2) == pytest.approx(10 * 280 * 16 * 6e-6)


def test_several_cards_share_an_epoch_and_if_asked_the_weights() -> None:
    card = find_card("4090")

    def on(count: int, *, shard: bool = False) -> Forecast:
        config = Embedding(model="base", lora=Lora(r=8), train=Training(batch=16, shard=shard))
        return forecast(config, SHAPE, ROWS, replace(card, count=count), seed=0)

    one, four, split = on(1), on(4), on(4, shard=True)
    assert one.epoch_seconds is not None
    assert four.epoch_seconds is not None
    assert one.epoch_seconds / 4 < four.epoch_seconds < one.epoch_seconds  # each launches operations of its own
    assert four.parts["weights"] == one.parts["weights"]
    block = 2 * SHAPE.block
    assert split.parts["weights"] == 2 * SHAPE.outside + 16 * block // 4 + block  # its share, and one that is gathered
    assert split.peak < four.peak
