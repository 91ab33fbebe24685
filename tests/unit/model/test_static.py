"""Static embeddings in model2vec's format, against sums by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import WORDS, dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lasttoken.config.methods import Probe
from lasttoken.errors import ConfigError, ModelError
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.methods.probe import Reader

NAMES = ["[PAD]", "[UNK]", "[CLS]", *sorted(word for topic in WORDS.values() for word in topic)]
TABLE = np.random.default_rng(0).standard_normal((len(NAMES), 8)).astype(np.float32)
TEXTS = ["guitar song guitar", "goal", "Band of piano", "of the", "", "goal " * 40]


@pytest.fixture
def static(tmp_path: Path) -> Callable[..., Path]:
    """static(config=..., tensors=...) -> the folder of a model of whole words."""

    def make(config: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
        tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(NAMES)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
        tokenizer.enable_padding()
        place = tmp_path / "static"
        place.mkdir()
        tokenizer.save(str(place / "tokenizer.json"))
        save_file(tensors or {"embeddings": TABLE}, place / "model.safetensors")
        said = {"model_type": "model2vec", **(config or {})}
        (place / "config.json").write_text(json.dumps(said), encoding="utf-8")
        return place

    return make


def vectors(place: Path, **settings: Any) -> np.ndarray:
    """What the regression of a probe would read of TEXTS, (N, 8)."""
    config, way = probe.settle(Probe(model=str(place), **settings))
    reader = Reader(config, probe.build(config, "cpu"), way)
    pooled = np.zeros((1, len(TEXTS), 8), dtype=np.float32)
    probe.fill_pooled(pooled, reader.backbone, reader.encode(TEXTS), config, [0])
    return reader.vectors(pooled[0], 0)


def by_hand(table: np.ndarray, limit: int | None = None) -> np.ndarray:
    """The mean vector of each text's words, without unknown ones."""
    rows = []
    for text in TEXTS:
        words = [word for word in text.lower().split()[:limit] if word in NAMES]
        rows.append(np.mean([table[NAMES.index(word)] for word in words], axis=0) if words else np.zeros(8))
    return np.array(rows)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_text_is_the_mean_of_its_known_words(normalize: bool, static: Callable[..., Path]) -> None:
    wanted = by_hand(TABLE)
    if normalize:
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True) + 1e-32
    found = vectors(static({"normalize": normalize}))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)  # float32 sums of up to 40 words
    assert not found[3:5].any()  # texts of unknown words, and of none


def test_tokens_of_a_quantised_vocabulary_share_vectors(static: Callable[..., Path]) -> None:
    mapping, weights = np.arange(len(NAMES)) % 5, np.linspace(0.5, 2, len(NAMES)).astype(np.float32)
    shared = TABLE[:5].astype(np.float16)
    place = static(tensors={"embeddings": shared, "mapping": mapping, "weights": weights})
    wanted = by_hand(shared.astype(np.float32)[mapping] * weights[:, None])
    np.testing.assert_allclose(vectors(place), wanted, rtol=0, atol=1e-6)


def test_a_text_is_cut_at_the_lower_of_both_limits(static: Callable[..., Path]) -> None:
    place = static({"max_length": 3})
    np.testing.assert_allclose(vectors(place), by_hand(TABLE, 3), rtol=0, atol=1e-6)
    np.testing.assert_allclose(vectors(place, max_length=2), by_hand(TABLE, 2), rtol=0, atol=1e-6)


def test_a_probe_of_it_learns_and_predicts_the_same_when_loaded(static: Callable[..., Path], tmp_path: Path) -> None:
    rows, test, journal = dataset(60), dataset(30, seed=1), Journal()
    config = Probe(model=str(static({"normalize": True})))
    fitted = probe.fit(config, rows, rows, seed=0, device="cpu", journal=journal)
    model = fitted.classifier
    assert journal.notes[-1] == "the encoder's own embedding, mean pooling, the backbone not trained"
    assert (model.predict_proba(test.texts).probs.argmax(axis=1) == test.targets).mean() > 0.8  # of three classes
    assert fitted.cost.total_parameters == (len(NAMES) + 1) * 8
    assert not model.has_gradients
    run = tmp_path / "run"
    run.mkdir()
    model.save(run)
    loaded = probe.load(run, device="cpu")
    assert np.array_equal(loaded.predict_proba(TEXTS).probs, model.predict_proba(TEXTS).probs)


def test_files_that_do_not_belong_together_are_refused(static: Callable[..., Path]) -> None:
    place = static(tensors={"embeddings": TABLE[:-1]})
    with pytest.raises(ModelError, match=r"embeddings of shape \(26, 8\) for the 27 tokens of tokenizer.json; restore"):
        probe.build(Probe(model=str(place)), "cpu")
    (place / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"a static model of model2vec without model\.safetensors; restore it"):
        probe.build(Probe(model=str(place)), "cpu")


def test_windows_are_refused(static: Callable[..., Path]) -> None:
    config = Probe(model=str(static()), long={"keep": "windows"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"long\.keep: a static model reads texts of any length; raise max_length"):
        probe.build(config, "cpu")
