"""A probe: the layer it takes, features that are kept, and only the blocks below its layer when loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import dataset

from lasttoken.config.methods import Probe
from lasttoken.fitting.regression import fold_of, held_out_losses
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.methods.probe import Reader, choose_layer, standardised
from lasttoken.model.sentence import SentenceEncoder


@pytest.mark.parametrize(("layer", "blocks"), [(0, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_blocks_above_the_layer_are_not_loaded(
    name: str, layer: int, blocks: int, folder: Callable[..., Path], tmp_path: Path
) -> None:
    rows = dataset(20)
    config = Probe(model=str(folder(name)), layer=layer)
    fitted = probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier
    fitted.save(tmp_path)
    loaded = probe.load(tmp_path, device="cpu")
    assert fitted.backbone.depth == loaded.backbone.depth == blocks
    assert np.array_equal(loaded.predict_proba(rows.texts).probs, fitted.predict_proba(rows.texts).probs)


def test_auto_takes_the_layer_of_the_lowest_cross_validated_loss(folder: Callable[..., Path]) -> None:
    rows, model = dataset(60), str(folder("llama"))
    losses = {}
    for layer in range(3):
        config = Probe(model=model, layer=layer)
        reader = Reader(config, probe.build(config, "cpu"), None)
        vectors = standardised(np.array(probe.cached("train", reader, rows.texts, [layer], Journal())[0][0]))[0]
        parts = fold_of(rows.targets, 3, seed=0)
        losses[layer] = held_out_losses(vectors, rows.targets, 3, parts, 0.1, False, seed=0).mean()
    assert len(set(losses.values())) == 3
    journal = Journal()
    config = Probe(model=model, regularisation=(0.1,))
    chosen = probe.fit(config, rows, rows, seed=0, device="cpu", journal=journal).classifier
    assert chosen.layer == min(losses, key=lambda layer: losses[layer]) != 2
    told = ", ".join(f"{layer}: {loss:.3f}" for layer, loss in losses.items())
    assert journal.notes == [f"3-fold log-loss by layer {told}", "layer 0 of 2, mean pooling, the backbone not trained"]


@pytest.mark.parametrize(("more", "own", "chosen"), [(0.2, True, 2), (0.2, False, 1), (2.0, True, 1), (2.0, False, 1)])
def test_an_own_embedding_is_left_only_for_what_is_clearly_better(
    more: float, own: bool, chosen: int, folder: Callable[..., Path]
) -> None:
    """Layers are signal and noise: most noise in 0, and in the last the noise that is in 1 and `more`."""
    rng, rows = np.random.default_rng(0), dataset(90)
    config = Probe(model=str(folder("bert")))
    encoder = SentenceEncoder("mean", torch.nn.Sequential()) if own else None
    reader = Reader(config, probe.build(config, "cpu"), encoder)
    signal = np.eye(3)[rows.targets]
    noise = rng.standard_normal((2, 90, 3))
    middle = signal + 0.5 * noise[0]
    layers = [signal + 9 * noise[0], middle, middle + more * noise[1]]
    features = np.array(layers, dtype=np.float32)
    assert choose_layer(reader, [0, 1, 2], features, rows, 1.0, 0, Journal()) == chosen


def test_every_layer_is_compared_at_a_tuned_strength(folder: Callable[..., Path]) -> None:
    """What a fixed C fits too closely is ordered by how much it overfits."""
    journal, rows = Journal(), dataset(40)
    config = Probe(model=str(folder("llama")), regularisation=(0.001, 0.1, 100.0))
    probe.fit(config, rows, rows, seed=0, device="cpu", journal=journal)
    assert journal.notes[0].startswith("logistic regression: C = 100 by 3-fold log-loss")
    assert journal.notes[1].startswith("3-fold log-loss by layer 0: ")
    at_best = journal.notes[0].partition(" 100: ")[2][:6]
    assert float(journal.notes[1].rpartition("2: ")[2]) == pytest.approx(float(at_best), abs=6e-4)  # as printed


def test_last_is_the_last_layer(folder: Callable[..., Path]) -> None:
    rows, journal = dataset(21), Journal()
    config = Probe(model=str(folder("llama")), layer="last", regularisation=(0.1,))
    model = probe.fit(config, rows, rows, seed=0, device="cpu", journal=journal).classifier
    assert model.layer == 2
    assert journal.notes == ["layer 2 of 2, mean pooling, the backbone not trained"]


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

    assert fit()[0] == 1
    again, notes = fit()
    assert again == 0
    assert "features from the cache" in notes
    assert fit(seed=1)[0] == 1
    assert fit(pooling="last")[0] == 1
    assert fit(max_length=9)[0] == 1
