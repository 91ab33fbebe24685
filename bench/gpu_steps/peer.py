"""HF Trainer + PEFT + bitsandbytes on the same rows, model, precision and LoRA, in turns with ours."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from memory_models import LABELS, config_of, make, random_rows, to_nf4
from models import adapted
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

from gpu_steps.place import Place
from gpu_steps.trainee import NAMES, Method, Trainee, trainee
from gpu_steps.training import empty, noted
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.model.device import peak_memory, reset_peak
from lasttoken.model.precision import choose_precision

MICRO = 8192  # tokens of a peer's micro-batch, as our budget
AIM = "3 times the peer's rows a second"


def against_hf(place: Place) -> None:
    """8B in NF4 on 512 tokens, 8 rows an update; 1B by prompts on mixed lengths, 32 rows an update."""
    toy = place.toy
    cases: list[tuple[str, Method, str, int, int]] = [
        ("8B", "embedding", "48" if toy else "512", 8, 16 if toy else 64),
        ("1B", "instruction", "mix", 4 if toy else 32, 8 if toy else 256),
    ]
    for case in cases:
        name = f"{case[0]}, {case[1]}, rows of {case[2]}"
        with noted(name, place):
            compare(name, *case, place)
        empty()


def compare(name: str, size: str, method: Method, kind: str, batch: int, rows: int, place: Place) -> None:
    """Rates of both sides: a warm-up each, which shows the memory, then two epochs each in turns.

    Ours counts the validation of a row, with which a fit ends; what either side prepares before is left out.
    """
    quantize: Any = place.quantize if size == "8B" else "none"
    ours = trainee(size, method, place, quantize=quantize, batch=batch)
    data, _ = random_rows(kind, rows, ours.backbone.tokenizer)
    works: dict[str, Callable[[], float]] = {"ours": lambda: ours.fit(data, Journal()).cost.seconds}
    loaded = {"ours": bytes_of(ours.backbone.whole)}
    theirs = peer_model(size, method, place, quantize, ours.backbone.tokenizer)
    works["peer"], loaded["peer"] = peer_training(theirs, ours, data, place), bytes_of(theirs)
    rates: dict[str, list[float]] = {side: [] for side in works}
    memory: dict[str, int] = {}
    for side, work in works.items():
        reset_peak(place.device)
        work()
        peak = peak_memory(place.device)
        other = sum(size for one, size in loaded.items() if one != side)
        memory[side] = peak.bytes - (other if peak.kind == "allocated" else 0)
    for turn in range(1 if place.toy else 2):
        for side, work in list(works.items())[:: 1 if turn % 2 else -1]:
            rates[side].append(rows / work())
    found: dict[str, Any] = {f"{side}, rows/s": median(each) for side, each in rates.items()}
    found |= {f"{side}, GB": size / 1e9 for side, size in memory.items()}
    place.note(name, {**found, "ratio": median(rates["ours"]) / median(rates["peer"])}, AIM)


def peer_model(size: str, method: Method, place: Place, quantize: str, tokenizer: Any) -> Any:
    """Plain transformers and PEFT: the model in the same shape and precision, with LoRA and torch's fused attention."""
    auto: Any = AutoModelForCausalLM if method == "instruction" else AutoModelForSequenceClassification
    dtype = choose_precision(place.device).dtype
    config = config_of(NAMES[size], tokenizer, toy=place.toy, num_labels=len(LABELS))
    model = make(auto, config, dtype=dtype, device=place.device, attention="sdpa")
    if quantize == "nf4":
        to_nf4(model, dtype, keep=["score", "lm_head"])
    if method == "instruction":
        return adapted(model, "CAUSAL_LM")
    return adapted(model, "SEQ_CLS", modules_to_save=["score"])


def peer_training(model: nn.Module, ours: Trainee, data: Dataset, place: Place) -> Callable[[], float]:
    """Seconds of an epoch of HF Trainer, in the largest micro-batches under MICRO tokens."""
    rows, collator = rows_of(ours, data)
    batch, longest = ours.config.train.batch, max(len(row["input_ids"]) for row in rows)
    micro = 1 << min(batch, max(1, MICRO // longest)).bit_length() - 1
    optimizer = "adamw_bnb_8bit" if place.optimizer == "adamw8bit" else "adamw_torch"
    more = {"gradient_accumulation_steps": batch // micro, "optim": optimizer}
    arguments = settings(place.work, micro, False, place.device, **more)
    del arguments["train_sampling_strategy"]  # at random is the default, and older versions have no such name
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=rows,  # type: ignore[arg-type]
        processing_class=ours.backbone.tokenizer,
        data_collator=collator,
    )
    clock = with_clock(trainer, place.device)

    def run() -> float:
        trainer.train()
        return clock.seconds

    return run


def rows_of(ours: Trainee, data: Dataset) -> tuple[list[dict[str, Any]], Any]:
    """(tokenised rows, what pads them): the very tokens that ours trains on."""
    tokenizer = ours.backbone.tokenizer
    if ours.prompt is None:
        ids: Any = tokenizer(list(data.texts), verbose=False)["input_ids"]
        rows = [{"input_ids": x, "label": int(y)} for x, y in zip(ids, data.targets, strict=True)]
        return rows, DataCollatorWithPadding(tokenizer)
    config: Any = ours.config
    told = prompts(ours.backbone, ours.prompt, config, data)
    return [{"input_ids": row["input_ids"], "labels": masked(row)} for row in told], DataCollatorForSeq2Seq(tokenizer)


def masked(row: dict[str, list[int]]) -> list[int]:
    """Labels of a causal LM: -100 where no loss is taken."""
    return [i if keep else -100 for i, keep in zip(row["input_ids"], row["completion_mask"], strict=True)]


def bytes_of(model: torch.nn.Module) -> int:
    """Bytes that a model's weights take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
