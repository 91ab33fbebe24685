"""Speed on one GPU, in one call of under eight minutes, with nothing to download: ours, and HF Trainer + PEFT beside it.

    python bench/speed/gpu.py --out bench/speed/results/gpu.NAME.json [--minutes 7.5] [--only Llama-3.2-1B] [--toy]

Random weights in the shapes of Llama-3.2-1B, 3.2-3B, 3.1-8B (NF4 + LoRA to train, de-quantised and merged to predict) and
ModernBERT-base (all of it trained), on random words: rows of 128 and of 512 tokens, and lengths as AG News and patents
mix them. The file is written after each part; a part that there is no time for is listed and left out. Without a GPU only --toy
makes sense: it shows that the code runs, and the file says so.

A part is a way to work, and a generator: it makes both models, and for each kind of rows yields (kind, lengths, ours, the
peer's, our model, the peer's model); ours and the peer's do one pass and return its seconds. The models go when it ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import about, peak_flops, wait
from memory_models import LABELS, backbone_of, config_of, make, random_rows, to_nf4
from models import LINEARS, LORA, Quantize, adapted, flops, tokenizer_of
from peers import generate, padded_loop
from rounds import timed
from torch import nn
from trainers import prompts, settings, with_clock
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from lasttoken.config.methods import Embedding, Encoder, Instruction
from lasttoken.config.settings import Training
from lasttoken.data.dataset import Dataset
from lasttoken.fitting.head import fit_head
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.methods.encoder import EncoderModel
from lasttoken.methods.instruction import InstructionModel, encode_texts, fit_answers
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import choose_device, peak_memory, reset_peak
from lasttoken.model.files import TINY
from lasttoken.model.lora import merged
from lasttoken.model.pooling import Head
from lasttoken.model.precision import choose_precision
from lasttoken.text.prompt import Prompt, make_prompt

ROUNDS = 5
PEAK_SIZES = [4096, 8192]
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
    return fit_head(backbone, head, (data, one_row(data)), config, seed=0, journal=Journal()).cost.seconds


def our_prompt_training(backbone: Backbone, prompt: Prompt, config: Instruction, data: Dataset) -> float:
    """Seconds of an epoch of `fit_answers`."""
    both = data, one_row(data)
    return fit_answers(backbone, prompt, both, config, seed=0, journal=Journal(), state=None).cost.seconds


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
    dtype = torch.float32 if encoder else choose_precision(place.device).dtype
    config = config_of(name, place.tokenizer, toy=place.toy, num_labels=len(LABELS))
    model = make(auto, config, dtype=dtype, device=place.device, attention="sdpa")
    if not train:
        return model.to(choose_precision(place.device).dtype)
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


class Guard:
    """Time, dealt out: what is left is shared evenly among the cells that are left."""

    def __init__(self, minutes: float, cells: int):
        self.end = time.monotonic() + 60 * minutes
        self.cells = cells

    def share(self) -> float:
        """Seconds for the next cell."""
        left, self.cells = self.cells, max(1, self.cells - 1)
        return (self.end - time.monotonic()) / max(1, left)


def cell(part: Part, name: str, train: bool, seconds: float, peak: float, place: Place) -> dict[str, Any]:
    """Rates, memory and share of the peak of both sides, alternated for as many rounds as `seconds` allow, one at least."""
    kind, lengths, own, peer, our_model, its_model = part
    sides: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    for side, work, other in (("ours", own, its_model), ("peer", peer, our_model)):
        reset_peak(place.device)
        work()  # warms up, and shows the memory
        taken = peak_memory(place.device)
        memory = taken.bytes - (bytes_of(other) if taken.kind == "allocated" else 0)
        sides[side] = {"rates": [], "memory": memory}
    for number in range(1 if place.toy else ROUNDS):
        if number and time.monotonic() - began > seconds:
            break
        for side, work in (("ours", own), ("peer", peer))[:: 1 if number % 2 else -1]:
            sides[side]["rates"].append(len(lengths) / work())
    for side in sides.values():
        rate = median(side["rates"])
        side["tokens_a_second"] = rate * float(lengths.mean())
        side["share"] = rate * needed(name, lengths, train, place) / len(lengths) / peak
    return {
        "rows": kind,
        "n": len(lengths),
        "tokens_a_row": float(lengths.mean()),
        **sides,
    }


def told(side: str, one: dict[str, Any]) -> str:
    """One side of a cell, on one line."""
    rates = f"{median(one['rates']):.1f} rows/s, {one['tokens_a_second']:,.0f} tokens/s"
    return f"{side} {rates}, {one['share']:.0%} of the peak, {one['memory'] / 1e9:.2f} GB"


def needed(name: str, lengths: np.ndarray, train: bool, place: Place) -> float:
    """FLOP of the rows at least: their texts through the blocks; prompt, answers and vocabulary head are not counted."""
    config: Any = config_of(name, place.tokenizer, toy=place.toy)
    if not name.startswith("ModernBERT"):
        return flops(config, lengths, training=train, rank=LORA.r)
    width = config.hidden_size
    block = 4 * width**2 + 3 * width * config.intermediate_size
    return (6 if train else 2) * block * config.num_hidden_layers * float(lengths.sum())


def bytes_of(model: nn.Module) -> int:
    """Bytes that a model's tensors take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def wanted(only: list[str], toy: bool) -> list[tuple[str, str]]:
    """(model, part): what an encoder cannot do is left out."""
    models = ["Llama-3.2-1B", "ModernBERT-base"] if toy else list(TOKENS)
    pairs = [(name, what) for name in models for what in PARTS]
    return [
        (name, what)
        for name, what in pairs
        if (not only or name in only) and not (name.startswith("ModernBERT") and what.startswith("instruction"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.5, help="that everything may take")
    parser.add_argument("--only", default="", help="models, with commas")
    parser.add_argument("--toy", action="store_true", help="small: shows that the code runs")
    arguments = parser.parse_args()
    device = choose_device()
    gc.freeze()  # what was imported stays, and need not be looked through whenever memory is
    if device.type != "cuda" and not arguments.toy:
        parser.error("there is no CUDA device; --toy runs on a CPU")
    parts = wanted([x for x in arguments.only.split(",") if x], arguments.toy)
    guard = Guard(arguments.minutes, len(parts) * len(kinds_of(arguments.toy)))
    small = [512] if arguments.toy else PEAK_SIZES
    with tempfile.TemporaryDirectory() as work:
        place = Place(device, tokenizer_of(TINY), Path(work), arguments.toy)
        remark = "Measured at toy size: this shows that the code runs, and nothing else." if arguments.toy else ""
        remark += "" if place.quantize == "nf4" else " bitsandbytes is not installed: weights are in bf16, not NF4."
        result: dict[str, Any] = {
            "case": "gpu",
            "remark": remark.strip(),
            "batch": BATCH,
            "quantize": place.quantize,
            "lora": {**LORA.model_dump(), "targets": LINEARS},
            "peak_flops": peak_flops(device, small),
            **about(device),
            "parts": [],
            "left_out": [],
        }
        for name, what in parts:
            found: dict[str, Any] = {"model": name, "what": what, "cells": []}
            result["parts"].append(found)
            run_part(found, place, guard, result)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)


def run_part(found: dict[str, Any], place: Place, guard: Guard, result: dict[str, Any]) -> None:
    """The cells of one part, as far as time and memory go."""
    name, what = found["model"], found["what"]
    seconds = guard.share()
    if seconds <= 0:
        result["left_out"].append(f"{name}, {what}: no time")
        return
    try:
        for number, part in enumerate(PARTS[what](name, place)):
            seconds = guard.share() if number else seconds
            if seconds <= 0:
                result["left_out"].append(f"{name}, {what}, rows of {part[0]}: no time")
                continue
            one = cell(part, name, what.endswith("train"), seconds, result["peak_flops"], place)
            found["cells"].append(one)
            print(
                f"{name}, {what}, {one['rows']}: {'; '.join(told(side, one[side]) for side in ('ours', 'peer'))}",
                flush=True,
            )
    except torch.OutOfMemoryError:
        result["left_out"].append(f"{name}, {what}: out of memory")
    gc.collect()
    reset_peak(place.device)


if __name__ == "__main__":
    main()
