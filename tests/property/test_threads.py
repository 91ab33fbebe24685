"""A predictor that is called from eight threads at once gives each bit for bit what it gives alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny import dataset, sentences

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.settings import Long, Lora, Training
from lasttoken.predictor import Predictor

QUICK = Training(epochs=1, batch=8, lr=0.01)
LORA = Lora(r=2)
WINDOWS: dict[str, Any] = {"max_length": 9, "long": Long(keep="windows", most=3)}


def cases(llama: str, bert: str) -> dict[str, Any]:
    """Configs by name: every way in which a method reads and answers."""
    embedding = {
        f"embedding, {pooling}": Embedding(model=llama, lora=LORA, train=QUICK, pooling=pooling, head_init="random")
        for pooling in ("last", "mean", "max", "attention")
    }
    zero: dict[str, Any] = {"model": llama, "train_model": False}
    return embedding | {
        "embedding, windows": Embedding(model=llama, lora=LORA, train=QUICK, **WINDOWS),
        "embedding, adapter beside": Embedding(model=llama, lora=LORA, train=QUICK, merge="off"),
        "embedding, nf4": Embedding(model=llama, lora=LORA, train=QUICK, quantize="nf4", merge="off"),
        "instruction, score": Instruction(model=llama, lora=LORA, train=QUICK),
        "instruction, tolerance": Instruction(**zero, tolerance=0.01),
        "instruction, generate": Instruction(**zero, decode="generate"),
        "encoder": Encoder(model=bert, train=QUICK),
        "encoder, windows": Encoder(model=bert, train=QUICK, **WINDOWS),
        "probe, layer 0": Probe(model=llama, layer=0),
        "probe, layer 1": Probe(model=llama, layer=1),
        "probe, last layer": Probe(model=llama, layer=2, pooling="last"),
        "probe, windows": Probe(model=llama, layer=1, **WINDOWS),
        "probe, both ways": Probe(model=llama, layer=1, bidirectional=True),
        "linear": Linear(),
    }


@pytest.mark.parametrize("name", list(cases("llama", "bert")))
def test_eight_threads_get_what_each_gets_alone(name: str, folder: Callable[..., Path]) -> None:
    config = cases(str(folder("llama")), str(folder("bert")))[name]
    train = dataset(24)
    classifier = catalog.fit(config, train, train, device="cpu").classifier
    calls = [sentences(1 + i % 5, seed=i) for i in range(24)]
    alone = [Predictor(classifier)(texts) for texts in calls]
    shared = Predictor(classifier)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shared, [*calls] * 2))
    for i, found in enumerate(together):
        wanted = alone[i % len(calls)]
        np.testing.assert_array_equal(found.probs, wanted.probs)
        np.testing.assert_array_equal(found.decisions, wanted.decisions)
        assert found.lost.tolist() == wanted.lost.tolist()


def test_threads_that_were_set_to_other_numbers_change_nothing(folder: Callable[..., Path]) -> None:
    """Sums are ordered by how many threads run them: a model keeps the number that it was loaded with."""
    import torch

    config, train = Embedding(model=str(folder("llama")), lora=LORA, train=QUICK), dataset(24)
    predictor, texts = Predictor(catalog.fit(config, train, train, device="cpu").classifier), sentences(40, seed=9)
    wanted = predictor(texts).probs
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert np.array_equal(Predictor(predictor.classifier)(texts).probs, wanted)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name",
    ["embedding, mean", "embedding, windows", "instruction, score", "instruction, generate", "probe, layer 1"],
)
def test_eight_threads_whose_batches_run_side_by_side(name: str, folder: Callable[..., Path]) -> None:
    """As on a machine of two cores, where the batches of one call take turns on two threads of their own."""
    config, train = cases(str(folder("llama")), str(folder("bert")))[name], dataset(24)
    settings = {"budget": 60} if name.startswith("probe") else {"train": config.train.model_copy(update={"budget": 60})}
    fitted = catalog.fit(config.model_copy(update=settings), train, train, device="cpu").classifier
    classifier: Any = replace(cast("Any", fitted), backbone=replace(cast("Any", fitted).backbone, threads=2))
    calls = [sentences(1 + 5 * (i % 4), seed=i) for i in range(16)]
    alone = [Predictor(classifier)(texts).probs for texts in calls]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(Predictor(classifier), [*calls] * 2))
    for i, found in enumerate(together):
        np.testing.assert_array_equal(found.probs, alone[i % len(calls)])
