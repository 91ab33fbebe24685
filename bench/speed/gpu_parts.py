"""What gpu.py times: for each way to work, ours and the peer on the same random rows, ready to be called.

A part is a generator: it makes both models, and for each kind of rows yields (kind, lengths, ours, the peer's, our model,
the peer's model); ours and the peer's do one pass and return its seconds. The models go when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import wait
from memory_models import LABELS, backbone_of, config_of, make, random_rows, to_nf4
from models import LORA, Quantize, adapted
from peers import generate, padded_loop
from rounds import timed
from torch import Tensor, nn
from trainers import prompts, settings, with_clock
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from lasttoken.config import Embedding, Encoder, Instruction, Training
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.methods.encoder import EncoderModel
from lasttoken.methods.fitting import fit_weights
from lasttoken.methods.head import fit_head
from lasttoken.methods.instruction import InstructionModel, encode_texts, lesson
from lasttoken.methods.scoring import lay_out_trees, score
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import choose_dtype
from lasttoken.model.lora import merged
from lasttoken.model.pooling import Head
from lasttoken.seed import generator
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.train.world import ALONE

TOKENS = {"Llama-3.2-1B": 65536, "Llama-3.2-3B": 32768, "Llama-3.1-8B": 16384, "ModernBERT-base": 131072}  # a pass
BATCH = 32  # rows an update, on both sides
MICRO = 8192  # tokens of a peer's micro-batch, as our budget
LIMIT = 1024  # tokens of a text
KINDS = ("128", "512", "mix")
Part = tuple[str, np.ndarray, Callable[[], float], Callable[[], float], nn.Module, nn.Module]


@dataclass(frozen=True, eq=False)
class Place:
    """Where the parts run, and how small."""

    device: torch.device
    tokenizer: Any
    work: Path
    toy: bool

    @property
    def quantize(self) -> Quantize:
        return "nf4" if find_spec("bitsandbytes") else "none"

    @property
    def optimizer(self) -> dict[str, str]:
        """8-bit AdamW on both sides where there is one."""
        eight = self.device.type == "cuda" and find_spec("bitsandbytes") is not None
        return {"ours": "adamw8bit", "peer": "adamw_bnb_8bit"} if eight else {"ours": "adamw", "peer": "adamw_torch"}


def training(place: Place) -> Training:
    """One epoch at a rate that changes next to nothing."""
    own: Any = place.optimizer["ours"]
    return Training(epochs=1.0, lr=1e-6, schedule="constant", warmup=0.0, batch=BATCH, optimizer=own)


def one_row(data: Dataset) -> Dataset:
    """What a fit validates on at its end: next to no work."""
    return data.take(np.array([0]))


def our_head_training(backbone: Backbone, head: Head, config: Embedding | Encoder, data: Dataset) -> float:
    """Seconds of an epoch of `fit_head`."""
    journal = Journal()
    fit_head(backbone, head, data, one_row(data), config=config, seed=0, world=ALONE, journal=journal)
    return journal.facts["train_seconds"]


def prompt_loss(
    backbone: Backbone, prompt: Prompt, config: Instruction, data: Dataset, seed: int = 0
) -> tuple[Callable[[np.ndarray], tuple[Tensor, float]], np.ndarray]:
    """(the loss of `instruction.fit` on the rows of a micro-batch, their lengths), for a backbone that was made in memory.

    `instruction.fit` loads its model itself; tests/integration/test_bench_speed.py shows that the losses are the same.
    """
    rows, pick = encode_texts(backbone, prompt, data.texts, config), generator(seed, "labels asked about")

    def loss_and_count(chosen: np.ndarray) -> tuple[Tensor, float]:
        taught = [lesson(prompt, backbone, data, int(i), config.questions, pick) for i in chosen]
        batch = lay_out_trees(backbone, prompt.header, [rows.ids[i] for i in chosen], [tree for tree, _ in taught])
        with backbone.autocast():
            scores = score(backbone, batch)
        weights = torch.from_numpy(np.concatenate([weight for _, weight in taught])).float().to(backbone.device)
        tokens = torch.from_numpy(np.concatenate([np.bincount(t.path, minlength=t.paths) for t, _ in taught]))
        return -(torch.cat(scores) * weights).sum(), float((tokens.to(backbone.device) * weights).sum())

    return loss_and_count, rows.lengths + len(prompt.footer)


def our_prompt_training(backbone: Backbone, prompt: Prompt, config: Instruction, data: Dataset) -> float:
    """Seconds of an epoch of `fit_weights` on the prompts."""
    loss, lengths = prompt_loss(backbone, prompt, config, data)
    journal, valid = Journal(), one_row(data)
    guess = np.full((1, len(data.labels)), 1 / len(data.labels))
    fit_weights(
        [backbone.whole],
        loss,
        lengths,
        valid,
        lambda: guess,
        settings=config.train,
        width=backbone.width,
        seed=0,
        world=ALONE,
        journal=journal,
    )
    return journal.facts["train_seconds"]


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long `work` takes, the device's part included."""
    wait(device)
    with timed() as seconds:
        work()
        wait(device)
    return seconds()


def peer_model(auto: Any, name: str, place: Place, *, train: bool) -> Any:
    """A peer's model: NF4 with LoRA to train (an encoder whole), dense to predict, as after merging."""
    encoder = name.startswith("ModernBERT")
    dtype = torch.float32 if encoder else choose_dtype(place.device)
    config = config_of(name, place.tokenizer, toy=place.toy, num_labels=len(LABELS))
    model = make(auto, config, dtype=dtype, device=place.device, attention="sdpa")
    if not train:
        return model.to(choose_dtype(place.device))
    if encoder:
        return model.requires_grad_(True)
    if place.quantize == "nf4":
        to_nf4(model, dtype, keep=["score", "lm_head"])
    kept = {"modules_to_save": ["score"]} if auto is AutoModelForSequenceClassification else {}
    return adapted(model, "SEQ_CLS" if kept else "CAUSAL_LM", **kept)


def peer_training(model: nn.Module, rows: list[dict[str, Any]], collator: Any, place: Place) -> Callable[[], float]:
    """HF Trainer over tokenised rows in updates of BATCH, in the largest micro-batches under MICRO tokens: seconds of an epoch."""
    longest = max(len(row["input_ids"]) for row in rows)
    micro = 1 << min(BATCH, max(1, MICRO // longest)).bit_length() - 1
    arguments = settings(
        place.work,
        micro,
        False,
        place.device,
        gradient_accumulation_steps=BATCH // micro,
        optim=place.optimizer["peer"],
    )
    del arguments["train_sampling_strategy"]  # at random is the default, and older versions have no such name
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=rows,  # type: ignore[arg-type]
        processing_class=place.tokenizer,
        data_collator=collator,
    )
    clock = with_clock(trainer, place.device)

    def run() -> float:
        trainer.train()
        return clock.seconds

    return run


def head_training(name: str, place: Place) -> Iterator[Part]:
    """Embedding, or an encoder: a head on the hidden states."""
    backbone = backbone_of(name, place.tokenizer, device=place.device, quantize=place.quantize, toy=place.toy)
    config = our_config(name, place)
    head = Head(backbone.width, len(LABELS), pooling=config.pooling).to(place.device)
    if isinstance(config, Embedding):
        adapt(backbone, **LORA.model_dump(), seed=0)
    model = peer_model(AutoModelForSequenceClassification, name, place, train=True)
    for kind, data, lengths in yield_rows(name, place):
        ids = place.tokenizer(list(data.texts), verbose=False)["input_ids"]
        rows = [{"input_ids": x, "label": int(y)} for x, y in zip(ids, data.targets, strict=True)]
        peer = peer_training(model, rows, DataCollatorWithPadding(place.tokenizer), place)
        own = bind(our_head_training, backbone, head, config, data)
        yield kind, lengths, own, peer, backbone.whole, model


def head_prediction(name: str, place: Place) -> Iterator[Part]:
    """Texts to probabilities of a head."""
    backbone = backbone_of(name, place.tokenizer, device=place.device, quantize=place.quantize, toy=place.toy)
    config, labels = our_config(name, place), LabelSpace(LABELS)
    head = Head(backbone.width, len(LABELS), pooling=config.pooling).to(place.device).eval()
    adapter = adapt(backbone, **LORA.model_dump(), seed=0) if isinstance(config, Embedding) else None
    own: Any = (
        EmbeddingModel(config, labels, backbone, adapter, head)
        if isinstance(config, Embedding)
        else EncoderModel(config, labels, backbone, head)
    )
    model = peer_model(AutoModelForSequenceClassification, name, place, train=False)
    with merged(backbone.whole, "auto"):
        for kind, data, lengths in yield_rows(name, place):
            texts = list(data.texts)
            batch = min(BATCH, max(1, MICRO // int(lengths.max())))
            loop = bind(padded_loop, model, place.tokenizer, texts, batch=batch, limit=LIMIT, grouped=True)
            both = [bind(seconds_of, work, place.device) for work in (bind(own.predict_proba, texts), loop)]
            yield kind, lengths, *both, backbone.whole, model


def prompt_training(name: str, place: Place) -> Iterator[Part]:
    """Instruction: the loss on the label."""
    backbone = backbone_of(name, place.tokenizer, device=place.device, quantize=place.quantize, toy=place.toy)
    config = Instruction(lora=LORA, merge="off", train=training(place))
    adapt(backbone, **LORA.model_dump(), seed=0)
    model = peer_model(AutoModelForCausalLM, name, place, train=True)
    for kind, data, lengths in yield_rows(name, place):
        prompt = make_prompt(place.tokenizer, data.labels)
        rows = [
            {"input_ids": row["input_ids"], "labels": masked(row)} for row in prompts(backbone, prompt, config, data)
        ]
        peer = peer_training(model, rows, DataCollatorForSeq2Seq(place.tokenizer), place)
        yield kind, lengths, bind(our_prompt_training, backbone, prompt, config, data), peer, backbone.whole, model


def prompt_prediction(name: str, place: Place) -> Iterator[Part]:
    """Texts to probabilities of the labels; the peer generates as many tokens as the longest label has."""
    backbone = backbone_of(name, place.tokenizer, device=place.device, quantize=place.quantize, toy=place.toy)
    config = Instruction(lora=LORA, train=training(place))
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    model = peer_model(AutoModelForCausalLM, name, place, train=False)
    with merged(backbone.whole, "auto"):
        for kind, data, lengths in yield_rows(name, place):
            prompt = make_prompt(place.tokenizer, data.labels)
            own = InstructionModel(config, data.labels, backbone, adapter, prompt)
            work = bind(generate_all, model, backbone, prompt, config, data)
            both = [bind(seconds_of, w, place.device) for w in (bind(own.predict_proba, data.texts), work)]
            yield kind, lengths, *both, backbone.whole, model


def generate_all(model: Any, backbone: Backbone, prompt: Prompt, config: Instruction, data: Dataset) -> None:
    """Batched greedy generation, sorted by length."""
    ids = encode_texts(backbone, prompt, data.texts, config).ids
    whole = [np.concatenate([prompt.header, text, prompt.footer]).astype(np.int64) for text in ids]
    order = np.argsort([-len(row) for row in whole], kind="stable")
    for start in range(0, len(order), BATCH):
        chosen = [whole[i] for i in order[start : start + BATCH]]
        generate(model, backbone.tokenizer, chosen, max(map(len, prompt.answers)))


PARTS: dict[str, Callable[[str, Place], Iterator[Part]]] = {
    "embedding, train": head_training,
    "embedding, predict": head_prediction,
    "instruction, train": prompt_training,
    "instruction, predict": prompt_prediction,
}


def our_config(name: str, place: Place) -> Embedding | Encoder:
    """The settings of ours."""
    if name.startswith("ModernBERT"):
        return Encoder(head_init="random", max_length=LIMIT, train=training(place))  # as the peer begins
    return Embedding(head_init="random", lora=LORA, merge="off", max_length=LIMIT, train=training(place))


def bind(work: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], Any]:
    """`work` with its arguments, to be called later."""
    return lambda: work(*arguments, **named)


def masked(row: dict[str, list[int]]) -> list[int]:
    """Labels of a causal LM: -100 where no loss is taken."""
    return [i if keep else -100 for i, keep in zip(row["input_ids"], row["completion_mask"], strict=True)]


def kinds_of(toy: bool) -> tuple[str, ...]:
    """The kinds of rows; at toy size without the long ones."""
    return ("128", "mix") if toy else KINDS


def yield_rows(name: str, place: Place) -> Iterator[tuple[str, Dataset, np.ndarray]]:
    """(kind, rows, their lengths) for every kind."""
    for kind in kinds_of(place.toy):
        yield kind, *rows_of(name, kind, place)


def rows_of(name: str, kind: str, place: Place) -> tuple[Dataset, np.ndarray]:
    """(rows, their lengths): as many as TOKENS allow, a multiple of BATCH; four at toy size."""
    typical = 122 if kind == "mix" else int(kind)
    count = 4 if place.toy else max(BATCH, TOKENS[name] // typical // BATCH * BATCH)
    return random_rows(kind, count, place.tokenizer)
