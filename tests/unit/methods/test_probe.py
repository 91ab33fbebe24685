"""A probe: the layer it takes, features that are kept, and only the blocks below its layer when loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config import Probe
from lasttoken.evaluation.metrics import METRICS
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.model.depth import depth_of


@pytest.mark.parametrize(("layer", "blocks"), [(0, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_blocks_above_the_layer_are_not_loaded(
    name: str, layer: int, blocks: int, folder: Callable[..., Path], tmp_path: Path
) -> None:
    rows = dataset(20)
    config = Probe(model=str(folder(name)), layer=layer)
    fitted = probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal())
    fitted.save(tmp_path)
    loaded = probe.load(tmp_path, device="cpu")
    assert depth_of(fitted.backbone) == depth_of(loaded.backbone) == blocks
    assert np.array_equal(loaded.predict_proba(rows.texts), fitted.predict_proba(rows.texts))


def test_auto_takes_the_layer_that_is_best_on_validation(folder: Callable[..., Path]) -> None:
    rows, valid = dataset(60), dataset(30, seed=1)
    scores, model, depth = {}, str(folder("llama")), 2
    for layer in range(depth + 1):
        config = Probe(model=model, layer=layer, regularisation=(0.1,))
        fitted = probe.fit(config, rows, valid, seed=0, device="cpu", journal=Journal())
        scores[layer] = METRICS["macro_f1"](valid.targets, fitted.predict_proba(valid.texts))
    assert len(set(scores.values())) > 1
    journal = Journal()
    config = Probe(model=model, regularisation=(0.1,))
    chosen = probe.fit(config, rows, valid, seed=0, device="cpu", journal=journal)
    assert chosen.layer == max(scores, key=lambda layer: (scores[layer], -layer))
    told = ", ".join(f"{layer}: {score:.3f}" for layer, score in scores.items())
    assert f"macro-F1 of validation by layer {told}" in journal.notes


def test_features_are_computed_once_for_the_same_texts_and_settings(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    runs: list[int] = []
    run = probe.fill_pooled

    def counted(*arguments: Any) -> None:
        runs.append(1)
        run(*arguments)

    monkeypatch.setattr(probe, "fill_pooled", counted)

    def fit(seed: int = 0, **settings: Any) -> tuple[int, str]:
        runs.clear()
        journal, rows = Journal(), dataset(20, seed=seed)
        probe.fit(Probe(model=str(folder("llama")), **settings), rows, rows, seed=0, device="cpu", journal=journal)
        return len(runs), "\n".join(journal.notes)

    assert fit()[0] == 1  # train and valid are the same texts here
    again, notes = fit()
    assert again == 0
    assert "features from the cache" in notes
    assert fit(seed=1)[0] == 1
    assert fit(pooling="last")[0] == 1
    assert fit(max_length=9)[0] == 1
