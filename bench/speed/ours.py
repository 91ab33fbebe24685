"""The package's own ways to do the work, through its own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from models import CPU, LORA, Quantize
from rounds import Contender, Pass, timed
from rows import Slice

from lasttoken.config import Embedding, Instruction, Probe, Training
from lasttoken.data.dataset import Dataset
from lasttoken.experiment import compile_classifier
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import embedding, instruction, probe
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.methods.head import fit_head
from lasttoken.methods.instruction import InstructionModel
from lasttoken.model.adapter import adapt
from lasttoken.model.compiled import compile_blocks
from lasttoken.model.depth import depth_of
from lasttoken.model.device import choose_dtype
from lasttoken.model.lora import merge
from lasttoken.text.prompt import make_prompt
from lasttoken.train.world import ALONE

WORDS = {"nf4": "NF4", "none": str(choose_dtype(CPU)).removeprefix("torch.")}  # of weights, as names have it
PROMPT_LIMIT = 1024  # tokens of an instruction row, on both sides
OurWay = tuple[Quantize, int, bool]  # precision, rows an update, compiled
TOLERANCE = 0.001  # of a probability, where there are many labels


def once_over(batch: int, compile: bool = False) -> Training:
    """One epoch in updates of `batch` rows, at a rate that changes next to nothing."""
    return Training(
        epochs=1.0, lr=1e-5, schedule="constant", warmup=0.0, batch=batch, compile=compile, optimizer="adamw"
    )


def embedding_config(
    folder: Path, *, quantize: Quantize, batch: int, limit: int, compile: bool = False, **more: Any
) -> Embedding:
    """The settings of approach 1."""
    how: dict[str, Any] = {
        "lora": LORA,
        "head_init": "random",
        "train": once_over(batch, compile),
    }  # as the peers begin
    return Embedding(model=str(folder), quantize=quantize, max_length=limit, **how, **more)


def instruction_config(
    folder: Path, *, quantize: Quantize = "none", batch: int = 8, compile: bool = False, **more: Any
) -> Instruction:
    """The settings of approach 2."""
    train = once_over(batch, compile)
    return Instruction(model=str(folder), quantize=quantize, lora=LORA, max_length=PROMPT_LIMIT, train=train, **more)


def shortest(data: Dataset) -> Dataset:
    """One row to validate on, since a fit ends with a validation: next to no work."""
    return data.take(np.array([min(range(len(data)), key=lambda i: len(data.texts[i]))]))


def embedding_training(folder: Path, part: Slice, ways: Sequence[OurWay], least: int) -> list[Contender]:
    """`fit_head` over the rows, for each (precision, rows an update, compiled). Time is all but reading and loading."""
    found, loaded = [], {}
    for quantize, batch, compile in ways:
        config = embedding_config(
            folder, quantize=quantize, batch=batch, limit=part.limit, compile=compile, merge="off"
        )
        if quantize not in loaded:
            backbone, head = embedding.build(config, part.data.labels, CPU, seed=0)
            adapt(backbone, **LORA.model_dump(), seed=0)
            loaded[quantize] = backbone, head
        backbone, head = loaded[quantize]
        rows = part.part(max(batch, least))
        train = part.data.take(rows)

        def run(backbone=backbone, head=head, config=config, train=train) -> Pass:
            journal = Journal()
            fit_head(backbone, head, train, shortest(train), config=config, seed=0, world=ALONE, journal=journal)
            return Pass(journal.facts["train_seconds"])

        found.append(training(quantize, batch, compile, rows, run))
    return found


def training(quantize: Quantize, batch: int, compile: bool, rows: np.ndarray, run: Callable[[], Pass]) -> Contender:
    """One of our trainings; a compiled one is compiled by a pass of its own before it is timed."""
    name, prepared = f"lasttoken, {WORDS[quantize]}, batch {batch}", 0.0
    if compile:
        first, second = run().seconds, run().seconds
        name, prepared = f"{name}, compiled", first - second
    return Contender(name, rows, run, ours=True, batch=batch, prepared=prepared)


def embedding_model(folder: Path, part: Slice) -> EmbeddingModel:
    """What a fit leaves behind: the adapter merged."""
    config = embedding_config(folder, quantize="none", batch=8, limit=part.limit)
    backbone, head = embedding.build(config, part.data.labels, CPU, seed=0)
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    merge(backbone.whole, config.merge)
    return EmbeddingModel(config, part.data.labels, backbone, adapter, head)


def predictions(make: Callable[[], Any], part: Slice) -> list[Contender]:
    """`predict_proba` of what `make` gives, as it is and compiled."""
    plain, fast, name = make(), make(), f"lasttoken, {WORDS['none']}, merged"
    seconds = compile_classifier(fast)
    return [prediction(name, plain, part), prediction(f"{name}, compiled", fast, part, prepared=seconds)]


def prediction(name: str, model: Any, part: Slice, *, prepared: float = 0.0) -> Contender:
    """`predict_proba` from the texts on."""

    def run() -> Pass:
        with timed() as seconds:
            probs = model.predict_proba(part.texts)
        return Pass(seconds(), probs)

    return Contender(name, part.part(part.size), run, ours=True, prepared=prepared)


def instruction_training(folder: Path, part: Slice, ways: Sequence[OurWay], least: int) -> list[Contender]:
    """`fit` over the rows, for each (precision, rows an update, compiled). Loading the model is no part of the time."""
    found = []
    for quantize, batch, compile in ways:
        config = instruction_config(folder, quantize=quantize, batch=batch, compile=compile, merge="off")
        rows = part.part(max(batch, least))
        train = part.data.take(rows)

        def run(config=config, train=train) -> Pass:
            journal = Journal()
            instruction.fit(config, train, shortest(train), seed=0, device="cpu", journal=journal)
            return Pass(journal.facts["train_seconds"])

        found.append(training(quantize, batch, compile, rows, run))
    return found


def instruction_model(folder: Path, labels: LabelSpace) -> InstructionModel:
    """What a fit leaves behind, for any label space."""
    config = instruction_config(folder)
    backbone, prompt = instruction.build(config, labels, CPU)
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    merge(backbone.whole, config.merge)
    return InstructionModel(config, labels, backbone, adapter, prompt)


def taught_to_answer(folder: Path, train: Dataset, *, epochs: float) -> InstructionModel:
    """A model that has been trained to answer, and scores to a tolerance."""
    learning = Training(epochs=epochs, lr=2e-3, schedule="cosine", batch=32, optimizer="adamw")
    config = Instruction(model=str(folder), max_length=PROMPT_LIMIT, tolerance=TOLERANCE, train=learning)
    return instruction.fit(config, train, shortest(train), seed=0, device="cpu", journal=Journal())


def with_labels(model: InstructionModel, labels: LabelSpace) -> InstructionModel:
    """The same weights, asked for other labels, scored to their end."""
    prompt = make_prompt(model.backbone.tokenizer, labels)
    return replace(model, config=model.config.model_copy(update={"tolerance": 0.0}), labels=labels, prompt=prompt)


def features(folder: Path, part: Slice) -> list[Contender]:
    """The probe's features, by a model as it is and by a compiled one: the last layer, mean over tokens."""
    config, found = Probe(model=str(folder), max_length=part.limit), []
    for compiled in (False, True):
        backbone = probe.build(config, "cpu")
        seconds_before = compile_blocks(backbone) if compiled else 0.0

        def run(backbone=backbone) -> Pass:
            with timed() as seconds:
                states = probe.pooled(backbone, part.texts, config, [depth_of(backbone)])[0]
            return Pass(seconds(), states)

        name = f"lasttoken, {WORDS['none']}" + (", compiled" if compiled else "")
        found.append(Contender(name, part.part(part.size), run, ours=True, prepared=seconds_before))
    return found
