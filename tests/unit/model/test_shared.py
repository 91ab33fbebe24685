"""Several runs over one model: the weights are the same tensors, and what is done to one leaves the other as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import dataset

from lasttoken import catalog
from lasttoken.catalog import load
from lasttoken.config.methods import Embedding, Instruction
from lasttoken.model.layout import lay_out
from lasttoken.model.load import Source
from lasttoken.model.shared import Shared

ROWS = dataset(24)
CPU = torch.device("cpu")


def weights(model: Any) -> set[int]:
    """Where the frozen weights of a classifier lie in memory."""
    return {p.data_ptr() for name, p in model.backbone.whole.named_parameters() if "lora_" not in name}


@pytest.fixture
def two(folder: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Two runs on one model, of different seeds."""
    found = []
    for seed in (1, 2):
        kind, more = request.param
        config = kind(model=str(folder("llama")), max_length=128, train={"epochs": 1, "lr": 0.01}, **more)
        fitted = catalog.fit(config, ROWS, ROWS, seed=seed, device="cpu")
        found.append(tmp_path / str(seed))
        found[-1].mkdir()
        fitted.classifier.save(found[-1])
    return found


TWO = [(Embedding, {"head_init": "random"}), (Instruction, {})]


@pytest.mark.parametrize("two", TWO, indirect=True, ids=["embedding", "instruction"])
def test_runs_over_one_model_predict_what_each_does_alone(two: list[Path]) -> None:
    alone = [load(run, device="cpu", merge="off").predict_proba(ROWS.texts).probs for run in two]
    shared = Shared()
    beside = [load(run, device="cpu", merge="off", shared=shared) for run in two]
    found = [model.predict_proba(ROWS.texts).probs for model in beside]
    assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))
    assert not np.array_equal(found[0], found[1])
    assert weights(beside[0]) == weights(beside[1])
    assert np.array_equal(beside[0].predict_proba(ROWS.texts).probs, alone[0])  # the second left it as it was


def test_other_options_are_another_model(folder: Callable[..., Path]) -> None:
    shared, source = Shared(), Source(str(folder("llama")))
    given: dict[str, Any] = {"kind": "decoder", "device": CPU}
    first, same = shared.load(source, **given), shared.load(source, **given)
    other = shared.load(source, **given, vocabulary=True)
    assert first.module is not same.module
    assert {p.data_ptr() for p in first.whole.parameters()} == {p.data_ptr() for p in same.whole.parameters()}
    assert not {p.data_ptr() for p in first.module.parameters()} & {p.data_ptr() for p in other.module.parameters()}
    assert same.module in list(same.whole.modules())
    assert other.vocabulary is not None
    assert {id(p) for p in other.vocabulary.parameters()} <= {id(p) for p in other.whole.parameters()}


def test_four_bits_are_shared_too(folder: Callable[..., Path]) -> None:
    shared, source = Shared(), Source(str(folder("llama")))
    pair = [shared.load(source, kind="decoder", device=CPU, quantize="nf4") for _ in range(2)]
    with torch.inference_mode(), pair[0].autocast():
        states = [each.hidden(torch.arange(3, 15), lay_out([12])) for each in pair]
    assert torch.equal(*states)
