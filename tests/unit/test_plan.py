"""A plan against what really happens: bytes, parameters, arithmetic and choices of real trainings on small random models."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DECODERS, ENCODERS, dataset, write_model
from torch import Tensor
from transformers import AutoConfig, BertConfig, LlamaConfig, Qwen3Config

from lasttoken.config import Embedding, Encoder, Instruction, Lora, Probe, Training
from lasttoken.data.dataset import Splits
from lasttoken.errors import ConfigError, ModelError
from lasttoken.journal import Journal
from lasttoken.methods import memory
from lasttoken.methods.instruction import answer_tokens, encode_texts
from lasttoken.methods.instruction import build as load_instruction
from lasttoken.methods.memory import fit_into_memory, kept_bytes
from lasttoken.methods.packed import pack
from lasttoken.methods.scoring import lay_out_trees, score
from lasttoken.model.adapter import adapt, parameter_bytes, total_parameters, trainable_parameters
from lasttoken.model.backbone import load
from lasttoken.model.blocks import in_full
from lasttoken.model.lora import POOL
from lasttoken.model.pooling import Head
from lasttoken.plan.advice import ladder
from lasttoken.plan.batches import Texts, Work, packed
from lasttoken.plan.cards import Card, find_card, known_cards, this_machine
from lasttoken.plan.forecast import Clock, forecast
from lasttoken.plan.meter import Meter
from lasttoken.plan.phases import Scene, learning, merged_bytes, settled, state_bytes
from lasttoken.plan.rehearsal import Micro, Rehearsed, few_blocks, rehearse
from lasttoken.plan.rows import BYTES, Estimate, Rows, count, suppose, tokenizer_here
from lasttoken.plan.skeleton import Skeleton, build
from lasttoken.seed import generator
from lasttoken.text.batch import Budget, epochs
from lasttoken.text.tokenizer import Encoded
from lasttoken.text.tree import grow
from lasttoken.train.loss import class_loss
from lasttoken.train.optimizer import make_optimizer

CPU = torch.device("cpu")
LENGTHS = (40, 38, 17, 90)
SHAPE: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "head_dim": 64}
LARGE = LlamaConfig(hidden_size=2048, num_hidden_layers=16, intermediate_size=8192, **SHAPE)


class Real:
    """A real model, its head, and the loss of four texts, as methods/head.py puts them together."""

    def __init__(self, config: Embedding | Encoder, dtype: torch.dtype) -> None:
        if isinstance(config, Encoder):
            self.backbone = load(config.model, kind="encoder", device=CPU, dtype=torch.float32, compute=dtype)
            self.backbone.whole.requires_grad_(True)
        else:
            self.backbone = load(config.model, kind="decoder", device=CPU, dtype=dtype, quantize=config.quantize)
            adapt(self.backbone, **config.lora.model_dump(), seed=0)
        self.pooling, self.head = config.pooling, Head(self.backbone.width, 3, pooling=config.pooling)
        ids = [np.arange(n, dtype=np.int32) % 200 + 5 for n in LENGTHS]
        self.encoded = Encoded(ids, np.zeros(4, dtype=np.int64), 999)

    def loss_and_count(self, rows: np.ndarray) -> tuple[Tensor, float]:
        batch = pack(self.encoded, rows, self.backbone, pooling=self.pooling)
        with self.backbone.autocast():
            hidden = self.backbone.hidden(batch.inputs, batch.layout)
        return class_loss(self.head(hidden, batch.layout.ends), torch.zeros(len(rows), dtype=torch.int64))

    def step(self) -> tuple[int, int]:
        """(largest live bytes beside what is loaded, arithmetic) of a micro-batch forward and backward."""
        self.backbone.whole.train()
        meter = Meter()
        with meter:
            loaded = [*self.backbone.whole.parameters(), *self.backbone.whole.buffers(), *self.head.parameters()]
            for tensor in [*loaded, *POOL.draws.values()]:
                tensor.detach()  # shown to the meter
            base = meter.now
            meter.mark()
            self.loss_and_count(np.arange(4))[0].backward()
        return meter.peak - base, meter.flops


def skeleton(config: Any, model: Any = None, *, dtype: torch.dtype = torch.float32, classes: int = 3) -> Skeleton:
    return build(config, model or AutoConfig.from_pretrained(config.model), Estimate(), classes=classes, dtype=dtype)


def in_full_of(made: Skeleton, micro: Micro, **settings: Any) -> Rehearsed:
    """The rehearsal by which room in memory is judged, as `kept_bytes` judges it."""
    with in_full():
        return rehearse(made, micro, kind="cpu", **settings)


CASES = [
    *[(name, "none", torch.float32) for name in [*DECODERS, *ENCODERS]],
    *[("llama", "none", torch.bfloat16), ("llama", "nf4", torch.bfloat16), ("modernbert", "none", torch.bfloat16)],
]


@pytest.mark.parametrize(("name", "quantize", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_a_rehearsal_counts_what_a_real_micro_batch_takes(
    name: str, quantize: Any, dtype: torch.dtype, folder: Callable[..., Path]
) -> None:
    place = str(folder(name))
    config = Encoder(model=place, pooling="first") if name in ENCODERS else Embedding(model=place, quantize=quantize)
    real, made = Real(config, dtype), skeleton(config, dtype=dtype)
    kept = kept_bytes(real.backbone.whole, real.loss_and_count, np.arange(4))
    peak, flops = real.step()
    found = rehearse(made, Micro(LENGTHS), kind="cpu")
    modules = [real.backbone.whole, real.head]
    assert made.parameters == sum(map(total_parameters, modules))
    assert sum(made.trainable) == sum(map(trainable_parameters, modules))
    assert found.flops == flops
    # Equal but for kilobytes that the two ways attribute differently: masks of dropout and of windows, the loss itself.
    assert in_full_of(made, Micro(LENGTHS)).kept == pytest.approx(kept, rel=0.02)
    assert found.peak - found.pool == pytest.approx(peak, rel=0.01)


def test_the_arithmetic_of_a_block_that_runs_more_than_once(folder: Callable[..., Path]) -> None:
    config = Encoder(model=str(folder("albert")), pooling="first")
    _, flops = Real(config, torch.float32).step()
    assert rehearse(skeleton(config), Micro(LENGTHS), kind="cpu").flops == flops


@pytest.mark.parametrize(("width", "depth"), [(256, 4), (576, 8)])
def test_a_training_step_of_a_larger_model(width: int, depth: int, tmp_path: Path) -> None:
    """Weights, adapters, gradients, what autograd keeps, and the optimiser's states, each counted on the real thing."""
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 3 * width}
    write_model("llama", tmp_path / "base")
    whole = AutoConfig.from_pretrained(tmp_path / "base")
    whole.update({**sizes, "num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64})
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(whole, dtype=torch.float32).save_pretrained(tmp_path / "base")
    config = Embedding(model=str(tmp_path / "base"), lora=Lora(r=8))
    real, made = Real(config, torch.float32), skeleton(config)
    kept = kept_bytes(real.backbone.whole, real.loss_and_count, np.arange(4))
    peak, _ = real.step()
    weights = [p for m in (real.backbone.whole, real.head) for p in m.parameters() if p.requires_grad]
    optimizer = make_optimizer("adamw8bit", weights, lr=1e-3, weight_decay=0.0)
    optimizer.step()
    states = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    found = rehearse(made, Micro(LENGTHS), kind="cpu")
    buffers = sum(b.nbytes for b in real.backbone.whole.buffers())
    assert made.loaded == parameter_bytes(real.backbone.whole) + parameter_bytes(real.head) + buffers
    assert made.trained == sum(p.nbytes for p in weights)
    # r (in + out) for q, k, v, o of width H and gate, up, down to 3 H, in every block, and the head's 3 H + 3
    assert sum(made.trainable) == depth * 8 * (4 * 2 * width + 3 * 4 * width) + 3 * width + 3
    assert state_bytes("adamw8bit", made.trainable, "cpu") == (states, 0)
    assert in_full_of(made, Micro(LENGTHS)).kept == pytest.approx(kept, rel=0.01)  # the bound to hold is 10 %
    assert found.peak - found.pool == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("multi", [False, True])
def test_instruction_with_its_header_trees_and_vocabulary(multi: bool, folder: Callable[..., Path]) -> None:
    config = Instruction(model=str(folder("llama")), lora=Lora(r=4), questions=2)
    rows = dataset(8, multi=multi)
    backbone, prompt = load_instruction(config, rows.labels, CPU)
    adapt(backbone, **config.lora.model_dump(), seed=0)
    dtype = backbone.compute
    splits = Splits(rows, rows, rows, "")
    made = build(config, AutoConfig.from_pretrained(config.model), backbone.tokenizer, classes=3, dtype=dtype)
    texts = packed(config, made.backbone, count(splits, backbone.tokenizer, special=False), 0)
    encoded = encode_texts(backbone, prompt, rows.texts, config)
    np.testing.assert_array_equal(texts.lengths("train"), encoded.lengths)
    assert texts.header == len(prompt.header)
    assert texts.taught is not None
    trees = [texts.taught(row) for row in range(4)]
    told, laid_out = np.asarray(texts.answers), [len(texts.taught(row).tokens) for row in range(8)]
    np.testing.assert_array_equal(told, answer_tokens(prompt, rows, questions=2))
    np.testing.assert_allclose(told, laid_out, rtol=0.2 if multi else 0)  # of several labels, some are drawn

    def loss_and_count(chosen: np.ndarray) -> tuple[Tensor, float]:
        batch = lay_out_trees(backbone, prompt.header, [encoded.ids[i] for i in chosen], trees)
        return -torch.cat(score(backbone, batch)).sum(), 1.0

    kept = kept_bytes(backbone.whole, loss_and_count, np.arange(4))
    micro = Micro(tuple(encoded.lengths[:4].tolist()), len(prompt.header), tuple(trees))
    found = in_full_of(made, micro, multi=multi)
    assert found.kept == pytest.approx(kept, rel=0.05)  # trees have masks, which stay without autograd keeping them
    assert made.parameters == total_parameters(backbone.whole)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_few_blocks_stand_for_all(kind: str, checkpointing: bool) -> None:
    config = LlamaConfig(hidden_size=128, num_hidden_layers=9, intermediate_size=256, **SHAPE)
    made = skeleton(Embedding(model="base"), config)
    assert few_blocks(made.backbone, range(9)) == [([0, 1, 8], -5), ([0, 1, 2, 8], 6)]  # the last is a sort of its own
    whole, few = (
        rehearse(made, Micro(LENGTHS), kind=kind, checkpointing=checkpointing, short=short) for short in (False, True)
    )
    assert whole == few


def test_a_graphics_card_keeps_masks_and_no_attention_weights() -> None:
    """By hand: without dropout nothing but attention differs; with it, a byte for every input of an adapted linear."""
    config = LlamaConfig(hidden_size=128, num_hidden_layers=2, intermediate_size=256, **SHAPE)
    tokens = sum(LENGTHS)
    with_masks, without = (
        rehearse(
            skeleton(Embedding(model="base", lora=Lora(dropout=rate)), config, dtype=torch.bfloat16),
            Micro(LENGTHS),
            kind="cuda",
        )
        for rate in (0.05, 0.0)
    )
    # q, k, v, gate and up read H = 128, o reads 4 heads of 64, down reads 256; in the last block all but k and v read 16 tokens
    lower, last = tokens * (5 * 128 + 4 * 64 + 256), tokens * 2 * 128 + 16 * (3 * 128 + 4 * 64 + 256)
    assert with_masks.kept - without.kept == lower + last
    long, short = (
        rehearse(skeleton(Embedding(model="base"), config, dtype=torch.bfloat16), Micro((n,) * (512 // n)), kind="cuda")
        for n in (512, 64)
    )
    assert long.kept == pytest.approx(short.kept, rel=0.01)  # kept bytes do not depend on who sees whom


def test_arithmetic_is_four_operations_a_frozen_weight() -> None:
    made = skeleton(Embedding(model="base", lora=Lora(r=4)), LARGE)
    found = rehearse(made, Micro((64,) * 4), kind="cuda")
    keys, others = 2048 * 2 * 128, 2048 * (2 * 256 + 3 * 8192)  # k and v; q and o, gate, up and down
    products = 16 * keys * 256 + (15 * 256 + 16) * others  # in the last block the others run for 16 tokens
    # two forward and two backward; adapters, attention among 64 tokens and the head come to less than 3 % on top
    assert 1.0 < found.flops / (4 * products) < 1.03
    again = rehearse(made, Micro((64,) * 4), kind="cuda", checkpointing=True)
    assert again.flops / found.flops == pytest.approx(1.5, rel=0.01)


def test_4_bit_weights_take_what_the_format_says() -> None:
    plain, packed_ = (skeleton(Probe(model="base", quantize=q), LARGE, dtype=torch.bfloat16) for q in ("none", "nf4"))
    numbers = 16 * 2048 * (2 * 256 + 2 * 128 + 3 * 8192)
    saved = plain.loaded - packed_.loaded
    # 16 bits against 4 + 8 / 64 + 32 / (64 * 256); code books take some bytes a layer
    assert saved == pytest.approx(numbers * (16 - 4 - 8 / 64 - 32 / (64 * 256)) / 8, rel=1e-4)
    assert plain.parameters == packed_.parameters


def test_optimiser_states() -> None:
    trainable = (100, 4096, 200_000)
    assert state_bytes("adamw8bit", trainable, "cpu") == (8 * 204_196, 0)
    assert state_bytes("adamw", trainable, "cuda") == (8 * 204_196, 0)
    # eight bytes a number where a tensor is small, else two and a float32 scale for each 256 of each state
    assert state_bytes("adamw8bit", trainable, "cuda") == (800 + 8192 + 8 * 16 + 400_000 + 8 * 782, 0)
    assert state_bytes("paged_adamw32bit", trainable, "cuda") == (8 * 4196, 1_600_000)


def test_merged_weights_stand_beside_the_others_where_the_rule_finds_room() -> None:
    made = skeleton(Embedding(model="base", quantize="nf4"), LARGE, dtype=torch.bfloat16)
    dense = 2 * 16 * 2048 * (2 * 256 + 2 * 128 + 3 * 8192)
    roomy = merged_bytes(made, find_card("80GB"))
    assert roomy[0] == dense
    assert roomy[2] == 12 * 2048 * 8192  # W, B A and their sum in float32, of the largest layer
    packed_ = 16 * 2048 * (2 * 256 + 2 * 128 + 3 * 8192) // 2
    assert roomy[1] == dense - packed_
    assert merged_bytes(made, find_card("2.3GB")) == (0, roomy[1], roomy[2])  # for good only
    assert merged_bytes(made, find_card("1GB")) == (0, 0, 0)
    off = skeleton(Embedding(model="base", merge="off"), LARGE)
    assert merged_bytes(off, find_card("80GB")) == (0, 0, 0)


@pytest.mark.parametrize("room", [400_000_000, 3_000_000, 1_500_000, 300_000])
def test_the_budget_is_the_one_that_training_chooses(
    room: int, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rule on the same bytes: once on a real model that finds `room`, once on its skeleton."""
    config = Embedding(model=str(folder("llama")))
    real, made = Real(config, torch.float32), skeleton(config)
    monkeypatch.setattr(memory, "free_memory", lambda device: room)
    lengths = np.array(LENGTHS)
    wanted = fit_into_memory(
        real.backbone.whole, real.loss_and_count, lengths, budget=8192, checkpointing="auto", journal=Journal()
    )
    rows = dataset(4)
    texts = Texts(Rows(lengths, lengths, lengths, rows.labels, rows, ""), 256)
    card = Card("", "cpu", 1e12, made.loaded + room, torch.float32, None, None)
    budget, checkpointing = settled(Scene(made, texts, card, 0), Training())
    assert budget == pytest.approx(wanted.tokens, rel=0.02, abs=1)  # both are cut to whole tokens
    assert checkpointing == real.backbone.whole.is_gradient_checkpointing


def test_where_memory_is_full_the_budget_halves_until_it_fits() -> None:
    made = skeleton(Embedding(model="base"), LARGE, dtype=torch.bfloat16)
    rows = suppose(1000, 100, 3, valid_share=0.1, test_share=0.2)
    texts = Texts(rows, 512)
    plenty = learning(Scene(made, texts, find_card("80GB"), 0), Training(checkpointing="off"))
    assert (plenty.budget, plenty.work.fullest.tokens, plenty.work.several) == (8192, 8 * 512, False)
    need = made.loaded + plenty.states + plenty.seen.peak
    tight = Card("", "cuda", 1e12, need - 1, torch.bfloat16, None, None)
    short = learning(Scene(made, texts, tight, 0), Training(checkpointing="off"))
    assert made.loaded + short.states + short.seen.peak <= need - 1
    assert short.work.fullest.tokens < 8 * 512


def test_the_fullest_micro_batch_is_that_of_the_real_order() -> None:
    rows = dataset(50)
    lengths = np.random.default_rng(1).integers(5, 200, 50)
    texts = Texts(Rows(lengths, lengths[:9], lengths[:5], rows.labels, rows, ""), 150)
    work = texts.training(Training(epochs=3.0), 400, seed=7)
    cut = np.minimum(lengths, 150)
    order = generator(7, "order of the training rows")
    drawn = list(itertools.islice(epochs(cut, batch=8, budget=Budget(400), rng=order), 21))
    assert work.fullest.tokens == max(int(cut[rows].sum()) for update in drawn for rows in update)
    assert work.count == sum(map(len, drawn)) / 3
    assert (work.tokens, work.several) == (cut.sum(), True)
    longest = texts.predicting("valid", 400)
    assert longest.fullest.lengths[0] == cut[:9].max()
    trees = tuple(grow([([], [1] * size)]) for size in (31, 101))  # of 30 and of 100 nodes
    twice = replace(texts, asked=trees).predicting("valid", 400)
    assert twice.tokens == 2 * cut[:9].sum() + 9 * (30 + 100)
    assert twice.fullest.trees is not None
    assert (twice.fullest.trees[0], twice.fullest.lengths[0]) == (trees[1], cut[:9].max())


def test_tokens_are_counted_or_estimated(folder: Callable[..., Path], tmp_path: Path) -> None:
    rows = dataset(6)
    splits = Splits(rows, rows, rows, "")
    tokenizer = tokenizer_here("tiny", revision=None, trust_remote_code=False)
    counted = count(splits, tokenizer, special=True)
    assert counted.origin == "by the model's tokenizer"
    assert counted.train.tolist() == [len(ids) for ids in tokenizer(list(rows.texts))["input_ids"]]
    LARGE.save_pretrained(tmp_path)
    for nowhere in (str(tmp_path), "somebody/not-here"):
        assert isinstance(tokenizer_here(nowhere, revision=None, trust_remote_code=False), Estimate)
    guessed = count(splits, Estimate(), special=True)
    assert guessed.origin == "estimated, 4.3 bytes of text a token"
    assert guessed.train.tolist() == [1 + round(len(text.encode()) / BYTES) for text in rows.texts]


def test_an_estimate_gives_equal_pieces_equal_ids() -> None:
    one, other = Estimate()(["a question about A", "a question about B"], add_special_tokens=False)["input_ids"]
    assert len(one) == round(18 / 4.3)
    assert one[:-1] == other[:-1]
    assert one != other
    assert Estimate()("")["input_ids"] == [0]


def test_supposed_rows_are_split_as_real_ones() -> None:
    rows = suppose(1000, 120, 4, valid_share=0.1, test_share=0.2)
    assert [len(part) for part in (rows.train, rows.valid, rows.test)] == [700, 100, 200]
    assert (len(rows.labels), rows.origin) == (4, "120 a row, as given")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("rtx-6000-ada", "RTX 6000 Ada"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("a10", "A10"),
        ("T4", "T4"),
        ("l40s", "L40S"),
        ("b200", "B200"),
    ],
)
def test_cards_by_the_names_people_and_drivers_use(asked: str, name: str) -> None:
    assert find_card(asked).name == name


def test_an_amount_of_memory_is_a_card_too() -> None:
    card = find_card("24GB")
    assert (card.memory, card.rate, card.dtype) == (24e9, None, torch.bfloat16)
    assert find_card("16 GiB").memory == 16 * 2**30
    assert find_card("800MB").memory == 8e8


def test_older_cards_compute_in_float32() -> None:
    assert {card.name for card in known_cards() if card.dtype == torch.float32} == {"T4", "V100 16GB", "V100 32GB"}
    assert (find_card("t4").rate, find_card("h200").rate) == (8.1e12, 989.4e12)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("4900", "no card known here; did you mean RTX 4090"),
        ("A100", "comes as A100 40GB and A100 80GB; name one of them"),
        ("-5GB", r"^--gpu: '-5GB' is no memory of a card; write it as 24GB$"),
        ("0GB", "is no memory of a card"),
        ("abacus", r"no card known here; .* or give its memory: --gpu 24GB"),
        ("", "no card known here; known are RTX 3080, "),
        ("24", "no card known here; for a card of 24 GB write --gpu 24GB$"),
    ],
)
def test_unknown_cards(asked: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_card(asked)


def test_this_machine_is_timed() -> None:
    card = this_machine(CPU)
    assert card.measured
    assert card.rate is not None
    assert 1e8 < card.rate < 1e15  # a matrix product, not nothing and not free
    assert 0 < card.memory < 2**50


def test_a_pass_takes_the_longest_of_arithmetic_launches_and_reading() -> None:
    card = Card("", "cuda", 1.0, 1.0, torch.bfloat16, 1e12, 1e9)
    seen = Rehearsed(tokens=100, kept=0, peak=0, pool=0, flops=7e12, operations=1000)
    work = Work(Micro((100,)), count=10, tokens=500.0)  # half as full as the one that was seen, on average
    assert Clock(card, 0).of(seen, work, 2) == pytest.approx(10 * 3.5e12 / 0.35e12)
    assert Clock(card, 10**12).of(seen, work, 2) == pytest.approx(10 * 2000.0)
    small = Rehearsed(tokens=100, kept=0, peak=0, pool=0, flops=7.0, operations=1000)
    assert Clock(card, 0).of(small, work, 2) == pytest.approx(10 * 6e-3)
    unknown = Card("", "cuda", 1.0, 1.0, torch.bfloat16, None, None)
    assert Clock(unknown, 0).of(seen, work, 2) is None


def test_a_forecast_is_whole() -> None:
    rows = suppose(1000, 100, 3, valid_share=0.1, test_share=0.2)
    found = forecast(Embedding(model="base"), LARGE, Estimate(), rows, find_card("4090"), seed=0)
    assert found.fits
    assert found.parts["weights"] == pytest.approx(2 * (found.parameters - found.trainable), rel=1e-3)
    assert found.parts["adapters and head"] == found.parts["gradients"] == 4 * found.trainable
    assert found.peak == max(found.phases.values())
    assert (found.rows, found.epoch_tokens, found.micro_tokens) == (700, 70_000, 8 * 512)
    assert found.seconds is not None
    assert found.epoch_seconds is not None
    assert found.seconds > 20 * found.epoch_seconds
    lower = forecast(Embedding(model="base", trunk=8), LARGE, Estimate(), rows, find_card("4090"), seed=0)
    assert lower.disk == 80_000 * 2048 * 2  # rows to train on and to validate with, bfloat16
    assert lower.trainable - (3 * 2048 + 3) == (found.trainable - (3 * 2048 + 3)) // 2
    drawn = forecast(Embedding(model="base", head_init="random"), LARGE, Estimate(), rows, find_card("4090"), seed=0)
    assert drawn.epoch_seconds == found.epoch_seconds
    assert drawn.seconds is not None
    assert "head" not in drawn.phases
    many = suppose(100_000, 100, 3, valid_share=0.1, test_share=0.2)
    more = forecast(Embedding(model="base"), LARGE, Estimate(), many, find_card("4090"), seed=0)
    vectors = 4 * 2048 * 80_000  # rows to train on and to validate with
    assert 0.98 * vectors < more.phases["head"] - found.phases["head"] < 1.02 * vectors
    a_pass = found.seconds - drawn.seconds  # without gradients
    assert 0.2 * found.epoch_seconds < a_pass < 0.5 * found.epoch_seconds
    probe = forecast(Probe(model="base"), LARGE, Estimate(), rows, find_card("4090"), seed=0)
    assert (probe.trainable, list(probe.phases)) == (0, ["prediction"])
    named = forecast(Embedding(model="base"), LARGE, Estimate(), rows, find_card("24GB"), seed=0)
    assert (named.seconds, named.epoch_seconds) == (None, None)


def test_help_comes_in_the_order_of_harm() -> None:
    config = Embedding(lora=Lora(r=8), max_length=256, train=Training(checkpointing="off"))
    assert [list(rung.items())[-1] for rung in ladder(config, find_card("24GB"))] == [
        ("train.checkpointing", "auto"),
        ("merge", "off"),
        ("quantize", "nf4"),
        ("max_length", 128),
        ("lora.r", 4),
    ]
    here = Card("", "cpu", 1.0, 1.0, torch.float32, None, None)
    assert next(iter(ladder(Encoder(), here))) == {"train.budget": 1024}


@pytest.mark.parametrize(
    ("config", "architecture", "said"),
    [
        (Embedding(model="base"), "BertForMaskedLM", "is an encoder .* use --method encoder"),
        (Encoder(model="base"), "LlamaForCausalLM", "causal language model, not an encoder; use --method embedding"),
    ],
)
def test_the_wrong_family_is_refused_before_its_download(config: Any, architecture: str, said: str) -> None:
    model = LlamaConfig(architectures=[architecture], hidden_size=64, num_hidden_layers=1, **SHAPE)
    with pytest.raises(ModelError, match=said):
        skeleton(config, model)


def test_an_encoder_whose_config_names_no_head_is_refused_too() -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    with pytest.raises(ModelError, match=r"is an encoder .* use --method encoder"):
        skeleton(Embedding(model="base"), BertConfig(architectures=["BertModel"], **shape))
    assert skeleton(Encoder(model="base"), BertConfig(architectures=["BertModel"], **shape)).parameters


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_a_folder_of_a_config_alone_has_no_tokenizer(kind: Any, tmp_path: Path) -> None:
    kind(**SHAPE).save_pretrained(tmp_path)  # of some models transformers makes an empty one up
    assert isinstance(tokenizer_here(str(tmp_path), revision=None, trust_remote_code=False), Estimate)


@pytest.mark.parametrize(
    ("name", "said"), [("mamba", "attention that packed texts need"), ("t5", "is an encoder-decoder")]
)
def test_models_that_cannot_be_used_are_refused(name: str, said: str, folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=said):
        rehearse(skeleton(Probe(model=str(folder(name)))), Micro((5, 7)), kind="cpu", train=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("method", [Embedding, Instruction])
def test_the_peak_of_a_card_is_within_a_tenth(method: Any, quantize: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lasttoken import catalog
    from lasttoken.model.device import peak_memory, reset_peak

    device = torch.device("cuda", 0)
    write_model("llama", tmp_path)
    whole = AutoConfig.from_pretrained(tmp_path)
    whole.update({"hidden_size": 1024, "num_hidden_layers": 12, "intermediate_size": 2816, "num_attention_heads": 16})
    whole.update({"num_key_value_heads": 8, "head_dim": 64})
    AutoModelForCausalLM.from_config(whole, dtype=torch.bfloat16).save_pretrained(tmp_path)
    rows = dataset(64)
    config = method(model=str(tmp_path), quantize=quantize, train=Training(epochs=2.0, batch=64))
    reset_peak(device)
    catalog.fit(config, rows, rows, device="cuda")
    tokens = count(Splits(rows, rows, rows, ""), AutoTokenizer.from_pretrained(tmp_path), special=method is Embedding)
    found = forecast(config, whole, AutoTokenizer.from_pretrained(tmp_path), tokens, this_machine(device), seed=0)
    assert found.peak == pytest.approx(peak_memory(device)["bytes"], rel=0.1)
