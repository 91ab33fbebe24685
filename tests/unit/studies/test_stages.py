"""No stage of a fit is silent: each is told to the journal when it begins, by the code that does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import dataset

from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.run import Run
from lasttoken.config.settings import Lora, Training
from lasttoken.data.dataset import Splits
from lasttoken.journal import Journal
from lasttoken.studies.one import run_method

TRAIN = Training(epochs=2, batch=8)
AFTER = ["predicting validation rows", "predicting test rows", "judging", "explaining mistakes", "writing"]
FEATURES = ["features of the frozen model"]
HEAD = ["reading the texts", *FEATURES, "fitting the head", "preparing training", "validating"]


def case(name: str, folder: Callable[..., Path]) -> tuple[Any, list[str]]:
    """(config, the stages of its fit after its model is loaded)."""
    llama, bert = str(folder("llama")), str(folder("bert"))
    training = ["training", "validating", "training"]
    found: dict[str, tuple[Any, list[str]]] = {
        "linear": (Linear(min_count=1), ["counting words", "logistic regression"]),
        "probe": (Probe(model=llama), [*FEATURES, "logistic regression", "trying layers"]),
        "embedding": (Embedding(model=llama, lora=Lora(r=2), train=TRAIN), [*HEAD, *training]),
        "trunk": (
            Embedding(model=llama, lora=Lora(r=2), train=TRAIN, trunk=1),
            ["reading the texts", "frozen blocks", *HEAD[1:], *training],
        ),
        "encoder": (Encoder(model=bert, train=TRAIN), [*HEAD, *training]),
        "instruction": (
            Instruction(model=llama, lora=Lora(r=2), train=TRAIN),
            ["reading the texts", "preparing training", *training],
        ),
    }
    return found[name]


@pytest.mark.parametrize("name", ["linear", "probe", "embedding", "trunk", "encoder", "instruction"])
def test_every_stage_is_told(name: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    config, stages = case(name, folder)
    told: list[tuple[str, int, int]] = []
    journal = Journal(tell=lambda sentence: None, progress=lambda *seen: told.append(seen))
    train, valid, test = (dataset(rows, seed=seed) for seed, rows in enumerate((24, 30, 27)))
    splits = Splits(train, valid, test, "made here")
    run_method(Run(method=config, device="cpu"), splits, tmp_path / "out", name=name, journal=journal)
    titles = [what.partition(",")[0] for what, *_ in told]
    changes = [title for before, title in zip(["", *titles], titles, strict=False) if title != before]
    first = list(dict.fromkeys(changes))
    loading = f"loading {getattr(config, 'model', 'linear')}"
    assert first == list(dict.fromkeys([loading, *stages, *AFTER]))
    if "training" in stages:
        assert changes.count("validating") == 2 + ("fitting the head" in stages)  # two epochs, and the fitted head
    for what in ("predicting validation rows", "predicting test rows"):
        seen = [(done, total) for title, done, total in told if title == what]
        rows = len(valid if "validation" in what else test)
        assert seen[0] == (0, rows)
        assert name == "linear" or seen[-1] == (rows, rows)
