"""A training that is stopped after any update, written and read, ends in the same bits as one that was not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed import Stopped, fitted

from lasttoken.config.methods import Embedding, Encoder, Instruction
from lasttoken.config.parse import to_toml
from lasttoken.config.run import Run
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ArtifactError
from lasttoken.model.backbone import Backbone
from lasttoken.train.state import TrainState

LORA = Lora(r=2, dropout=0.2)  # whose draws would tell
TRAIN = Training(epochs=2, batch=8, lr=0.01, warmup=0.2, budget=40, patience=9)  # several micro-batches an update
UPDATES = 6


def case(name: str, folder: Callable[..., Path]) -> tuple[Any, bool]:
    """(config, whether rows have several labels)."""
    llama, bert = str(folder("llama")), str(folder("bert"))
    embedding: dict[str, Any] = {"model": llama, "lora": LORA, "train": TRAIN}
    stale = TRAIN.model_copy(update={"epochs": 9, "patience": 2, "evaluations": 3})
    return {
        "embedding": (Embedding(**embedding, head_init="random"), False),
        "head_init": (Embedding(**embedding, head_init="probe"), False),
        "trunk": (Embedding(**embedding, trunk=1), False),
        "early stopping": (Embedding(**embedding | {"train": stale}, head_init="random"), False),
        "instruction": (Instruction(model=llama, lora=LORA, train=TRAIN), False),
        "labels asked about": (Instruction(model=llama, lora=LORA, train=TRAIN, questions=1), True),
        "encoder": (Encoder(model=bert, train=TRAIN), True),
    }[name]


CASES = ["embedding", "head_init", "trunk", "early stopping", "instruction", "labels asked about", "encoder"]


@pytest.mark.parametrize("name", CASES)
def test_stopped_after_any_update_and_gone_on_is_the_same(
    name: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    config, multi = case(name, folder)
    whole = fitted(config, multi=multi)
    count = len(whole[0])
    assert count == UPDATES or name == "early stopping"
    for until in sorted({1, 2, count // 2, count - 1, count}):
        with pytest.raises(Stopped):
            fitted(config, multi=multi, until=until, into=tmp_path)
        torch.rand(7)  # whatever else draws in between
        assert fitted(config, multi=multi, state=TrainState.read(tmp_path)) == whole, f"from update {until} on"


def test_a_budget_that_was_halved_stays_halved(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, multi = case("embedding", folder)
    config = config.model_copy(update={"train": TRAIN.model_copy(update={"budget": 4000})})
    plain = fitted(config, multi=multi)
    hidden = Backbone.hidden

    def short_of_memory(self: Backbone, inputs: torch.Tensor, layout: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(inputs) > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(self, inputs, layout)

    monkeypatch.setattr("lasttoken.fitting.memory.kept_bytes", lambda *given: 1)  # as if all would fit
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "hidden", short_of_memory)
        whole = fitted(config, multi=multi)
        with pytest.raises(Stopped):
            fitted(config, multi=multi, until=2, into=tmp_path)
    assert whole != plain  # smaller micro-batches draw other masks of dropout
    assert fitted(config, multi=multi, state=TrainState.read(tmp_path)) == whole  # with memory enough again


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "shard"), [(1, False), (2, False), (2, True), (4, True)])
def test_in_new_processes(processes: int, shard: bool, folder: Callable[..., Path], tmp_path: Path) -> None:
    config, _ = case("head_init", folder)
    config = config.model_copy(update={"train": TRAIN.model_copy(update={"shard": shard})})
    (tmp_path / "run.toml").write_text(to_toml(Run(method=config)))
    (tmp_path / "state").mkdir()

    def run(out: str, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "tests/resumed.py", str(tmp_path / "run.toml"), "single", str(tmp_path / out), *more]
        running = [
            subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(processes)
        ]
        assert [one.wait(timeout=300) for one in running] == [0] * processes

    state = ["--state", str(tmp_path / "state")]
    run("whole.json")
    run("none", "--until", "3", *state)
    run("resumed.json", *state)
    whole, resumed = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "resumed.json"))
    assert resumed == whole
    assert len(whole[0]) == UPDATES


def test_a_state_that_is_not_whole_is_refused(folder: Callable[..., Path], tmp_path: Path) -> None:
    config, multi = case("embedding", folder)
    with pytest.raises(ArtifactError, match=r"no complete training state .*; start the training again$"):
        TrainState.read(tmp_path)
    with pytest.raises(Stopped):
        fitted(config, multi=multi, until=2, into=tmp_path)
    (tmp_path / "state.json").write_text((tmp_path / "state.json").read_text()[:-9])
    with pytest.raises(ArtifactError, match="no complete training state"):
        TrainState.read(tmp_path)


def test_a_state_of_another_training_is_refused(folder: Callable[..., Path], tmp_path: Path) -> None:
    config, multi = case("embedding", folder)
    with pytest.raises(Stopped):
        fitted(config, multi=multi, until=2, into=tmp_path)
    other = config.model_copy(update={"lora": Lora(r=4)})
    with pytest.raises(ArtifactError, match="has other weights than this training; start again from scratch"):
        fitted(other, multi=multi, state=TrainState.read(tmp_path))
