"""The package's own ways to do the work, through its own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from models import CPU, LORA, Quantize
from rounds import Contender, Pass, timed
from rows import Slice

from lasttoken.config.methods import Embedding, Instruction, Probe
from lasttoken.config.settings import Training
from lasttoken.data.dataset import Dataset
from lasttoken.fitting.head import fit_head
from lasttoken.infer.reading import read_texts
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import embedding, instruction
from lasttoken.methods.classifier import Classifier
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.methods.instruction import InstructionModel
from lasttoken.methods.probe import build as build_probe
from lasttoken.methods.probe import fill_pooled
from lasttoken.model.adapter import adapt
from lasttoken.model.lora import Merge
from lasttoken.model.lora import merge as merge_adapter
from lasttoken.model.precision import choose_precision
from lasttoken.text.prompt import make_prompt

WORDS = {"nf4": "NF4", "none": str(choose_precision(CPU).dtype).removeprefix("torch.")}  # of weights, as names have it
WORDS |= {name: name for name in ("float32", "bfloat16")}  # of peers in their best precision
PROMPT_LIMIT = 1024  # tokens of an instruction row, on both sides
OurWay = tuple[Quantize, int]  # precision, rows an update
TOLERANCE = 0.001  # of a probability, where there are many labels


def once_over(batch: int) -> Training:
    """One epoch in updates of `batch` rows, at a rate that changes next to nothing."""
    return Training(epochs=1.0, lr=1e-5, schedule="constant", warmup=0.0, batch=batch, optimizer="adamw")


def embedding_config(folder: Path, *, quantize: Quantize, batch: int, limit: int, merge: Merge = "auto") -> Embedding:
    """The settings of approach 1. The head begins at random, as the peers' heads do."""
    return Embedding(
        model=str(folder),
        quantize=quantize,
        max_length=limit,
        lora=LORA,
        head_init="random",
        merge=merge,
        train=once_over(batch),
    )


def instruction_config(
    folder: Path, *, quantize: Quantize = "none", batch: int = 8, merge: Merge = "auto"
) -> Instruction:
    """The settings of approach 2."""
    return Instruction(
        model=str(folder), quantize=quantize, lora=LORA, max_length=PROMPT_LIMIT, merge=merge, train=once_over(batch)
    )


def shortest(data: Dataset) -> Dataset:
    """One row to validate on, since a fit ends with a validation: next to no work."""
    return data.take(np.array([min(range(len(data)), key=lambda i: len(data.texts[i]))]))


def embedding_training(folder: Path, part: Slice, ways: Sequence[OurWay], least: int) -> list[Contender]:
    """`fit_head` over the rows, for each (precision, rows an update). Time is all but reading and loading."""
    found, loaded = [], {}
    for quantize, batch in ways:
        config = embedding_config(folder, quantize=quantize, batch=batch, limit=part.limit, merge="off")
        if quantize not in loaded:
            backbone, head = embedding.build(config, part.data.labels, CPU, seed=0)
            adapt(backbone, **LORA.model_dump(), seed=0)
            loaded[quantize] = backbone, head
        backbone, head = loaded[quantize]
        rows = part.part(max(batch, least))
        train = part.data.take(rows)

        def run(backbone=backbone, head=head, config=config, train=train) -> Pass:
            trained = fit_head(backbone, head, (train, shortest(train)), config, seed=0, journal=Journal())
            return Pass(trained.cost.seconds)

        found.append(training(quantize, batch, rows, run))
    return found


def training(quantize: Quantize, batch: int, rows: np.ndarray, run: Callable[[], Pass]) -> Contender:
    """One of our trainings."""
    return Contender(f"lasttoken, {WORDS[quantize]}, batch {batch}", rows, run, ours=True, batch=batch)


def embedding_model(folder: Path, part: Slice) -> EmbeddingModel:
    """What a fit leaves behind: the adapter merged."""
    config = embedding_config(folder, quantize="none", batch=8, limit=part.limit)
    backbone, head = embedding.build(config, part.data.labels, CPU, seed=0)
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    merge_adapter(backbone.whole, config.merge)
    return EmbeddingModel(config, part.data.labels, backbone, adapter, head)


def merged_prediction(model: Classifier, part: Slice) -> Contender:
    """`predict_proba` with the adapter merged."""
    return prediction(f"lasttoken, {WORDS['none']}, merged", model, part)


def prediction(name: str, model: Classifier, part: Slice) -> Contender:
    """`predict_proba` from the texts on."""

    def run() -> Pass:
        with timed() as seconds:
            probs = model.predict_proba(part.texts).probs
        return Pass(seconds(), probs)

    return Contender(name, part.part(part.size), run, ours=True)


def instruction_training(folder: Path, part: Slice, ways: Sequence[OurWay], least: int) -> list[Contender]:
    """`fit` over the rows, for each (precision, rows an update). Loading the model is no part of the time."""
    found = []
    for quantize, batch in ways:
        config = instruction_config(folder, quantize=quantize, batch=batch, merge="off")
        rows = part.part(max(batch, least))
        train = part.data.take(rows)

        def run(config=config, train=train) -> Pass:
            fitted = instruction.fit(config, train, shortest(train), seed=0, device="cpu", journal=Journal())
            return Pass(fitted.cost.seconds)

        found.append(training(quantize, batch, rows, run))
    return found


def instruction_model(folder: Path, labels: LabelSpace) -> InstructionModel:
    """What a fit leaves behind, for any label space."""
    config = instruction_config(folder)
    backbone, prompt = instruction.build(config, labels, CPU)
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    merge_adapter(backbone.whole, config.merge)
    return InstructionModel(config, labels, backbone, adapter, prompt)


def taught_to_answer(folder: Path, train: Dataset, *, epochs: float) -> InstructionModel:
    """A model that has been trained to answer, and scores to a tolerance."""
    learning = Training(epochs=epochs, lr=2e-3, schedule="cosine", batch=32, optimizer="adamw")
    config = Instruction(model=str(folder), max_length=PROMPT_LIMIT, tolerance=TOLERANCE, train=learning)
    model = instruction.fit(config, train, shortest(train), seed=0, device="cpu", journal=Journal()).classifier
    assert isinstance(model, InstructionModel)
    return model


def with_labels(model: InstructionModel, labels: LabelSpace) -> InstructionModel:
    """The same weights, asked for other labels, scored to their end."""
    prompt = make_prompt(model.backbone.tokenizer, labels)
    return replace(model, config=model.config.model_copy(update={"tolerance": 0.0}), labels=labels, prompt=prompt)


def features(folder: Path, part: Slice) -> Contender:
    """The probe's features: the last layer, mean over tokens."""
    config = Probe(model=str(folder), max_length=part.limit)
    backbone = build_probe(config, "cpu")

    def run() -> Pass:
        states = np.zeros((1, len(part.texts), backbone.width), dtype=np.float32)
        with timed() as seconds:
            encoded = read_texts(backbone, config, part.texts)
            fill_pooled(states, backbone, encoded, config, [backbone.depth])
        return Pass(seconds(), states[0])

    return Contender(f"lasttoken, {WORDS['none']}", part.part(part.size), run, ours=True)
