"""What autograd keeps, and how a training is made to fit: against sums done by hand, and against training without."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import dataset
from torch import Tensor, nn

from lasttoken.config.methods import Embedding, Instruction
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ConfigError
from lasttoken.fitting import memory
from lasttoken.fitting.memory import fit_into_memory, free_memory, kept_bytes
from lasttoken.journal import Journal
from lasttoken.methods import embedding, instruction
from lasttoken.text.batch import Budget, MicroBatch


def test_kept_bytes_of_a_layer_that_can_be_counted_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh())

    def loss_and_count(micro: MicroBatch) -> tuple[Tensor, float]:
        return model(torch.ones(len(micro.rows), 4)).sum(), 1.0

    # the input (N, 4) and the output of tanh (N, 8), float32; weights are not counted
    assert kept_bytes(model, loss_and_count, MicroBatch(np.arange(10), 0, 0)) == 10 * (4 + 8) * 4
    assert model.training


def test_counting_holds_on_to_nothing() -> None:
    """What an operation saves of its own output keeps the operation, which keeps what it saves: a micro-batch a fit was lost."""
    model, outputs = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), []

    def loss_and_count(micro: MicroBatch) -> tuple[Tensor, float]:
        out = model(torch.ones(len(micro.rows), 4))
        outputs.append(weakref.ref(out))
        return out.sum(), 1.0

    kept_bytes(model, loss_and_count, MicroBatch(np.arange(10), 0, 0))
    gc.collect()
    assert outputs[0]() is None


def settle(
    model: Any, monkeypatch: pytest.MonkeyPatch, *, room: int | None, checkpointing: str = "auto", kept: int = 1000
) -> tuple[Budget, list[str]]:
    """(budget, notes) for rows of 10 and 2,000 tokens, a token keeping `kept` bytes."""
    journal = Journal()
    monkeypatch.setattr(memory, "free_memory", lambda device: room)
    monkeypatch.setattr(memory, "kept_bytes", lambda model, loss, rows: kept * 2000)
    found = fit_into_memory(
        model,
        lambda rows: (torch.zeros(()), 1.0),
        np.array([10, 2000]),
        budget=8192,
        checkpointing=checkpointing,
        journal=journal,
    )
    return found, journal.notes


def test_with_memory_enough_nothing_changes(load_fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_fresh("llama").whole
    for room in (2**30, None):
        assert settle(model, monkeypatch, room=room) == (Budget(8192), [])
        assert not model.is_gradient_checkpointing


def test_a_row_that_is_too_much_is_recomputed_and_then_refused(
    load_fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, journal, room = load_fresh("llama").whole, Journal(), [0]
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**7)

    def without_room(model: Any, loss: Any, rows: np.ndarray) -> int:
        if not model.is_gradient_checkpointing or not room[0]:
            raise torch.OutOfMemoryError
        return 2000 * 100

    monkeypatch.setattr(memory, "kept_bytes", without_room)
    ask: dict[str, Any] = {"budget": 8192, "journal": journal}
    lengths, loss = np.array([10, 2000]), lambda rows: (torch.zeros(()), 1.0)
    with pytest.raises(
        ConfigError, match=r"ran out of memory on a single row of 2000 tokens; set train\.checkpointing=on"
    ):
        fit_into_memory(model, loss, lengths, checkpointing="auto", **ask)
    room[0] = 1
    assert fit_into_memory(model, loss, lengths, checkpointing="auto", **ask) == Budget(8192)
    assert model.is_gradient_checkpointing
    assert (
        journal.notes[-1] == "activation checkpointing is on: without it memory has no room for a row of 2,000 tokens"
    )


def test_a_little_short_the_budget_shrinks(load_fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_fresh("llama").whole
    budget, notes = settle(model, monkeypatch, room=5_000_000)  # .8 * 5 MB at 1,000 bytes a token
    assert budget == Budget(4000)
    assert notes == ["a micro-batch holds 4,000 tokens in place of 8,192, which is what memory has room for"]
    assert not model.is_gradient_checkpointing


def test_too_short_for_the_longest_row_activations_are_recomputed(
    load_fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_fresh("llama").whole
    budget, notes = settle(model, monkeypatch, room=20_000_000, kept=10_000)
    assert model.is_gradient_checkpointing
    # one of two blocks is kept, and the float32 input of both: 5,000 + 2 * 64 * 4 bytes a token
    assert budget == Budget(int(0.8 * 20_000_000 / 5512))
    assert notes[0] == "activation checkpointing is on: 0.0 MiB a token leave room for 1,600 tokens of 0.0 GiB"


def test_off_is_off_and_on_is_on(load_fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_fresh("llama").whole
    assert settle(model, monkeypatch, room=1_000_000, checkpointing="off")[0] == Budget(800)
    assert not model.is_gradient_checkpointing
    settle(model, monkeypatch, room=None, checkpointing="on")
    assert model.is_gradient_checkpointing


def test_a_model_that_cannot_recompute_is_refused() -> None:
    class Stubborn(nn.Linear):
        def activation_checkpointing_enable(self) -> None:
            raise ValueError("Stubborn does not support activation checkpointing.")

    with pytest.raises(
        ConfigError, match=r"train.checkpointing: Stubborn does not support activation checkpointing.; use"
    ):
        memory.recompute(Stubborn(1, 1))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("method", ["embedding", "instruction"])
def test_recomputing_changes_memory_and_nothing_else(method: str, dropout: float, folder: Callable[..., Path]) -> None:
    kinds: Any = {"embedding": (Embedding, embedding), "instruction": (Instruction, instruction)}
    config, module = kinds[method]
    rows, probs = dataset(12), []
    for checkpointing in ("off", "on"):
        train = Training(epochs=2.0, lr=1e-2, batch=4, checkpointing=checkpointing)
        settings = config(model=str(folder("qwen3")), lora=Lora(r=2, dropout=dropout), train=train)
        fitted = module.fit(settings, rows, rows, seed=0, device="cpu", journal=Journal())
        probs.append(fitted.classifier.predict_proba(rows.texts).probs)
    np.testing.assert_array_equal(probs[0], probs[1])


def test_the_memory_of_this_machine_is_known() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None
