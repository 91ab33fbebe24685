"""A sentence encoder's files: its embedding by transformers alone, its limit and prompt, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import dataset, sentences
from transformers import AutoModel, AutoTokenizer

from lasttoken.config.methods import Probe
from lasttoken.errors import ArtifactError, ModelError
from lasttoken.infer.differentiable import embedding_of
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.methods.probe import Reader
from lasttoken.model.load import Source
from lasttoken.model.sentence import sentence_encoder

TEXTS = sentences(12)
TYPE = "sentence_transformers.models."


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def encoder(folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """encoder(kind, ..., pooling={...}) -> a BERT beside whose files modules.json names those modules."""

    def make(*kinds: str, pooling: dict[str, Any] | None = None) -> Path:
        place = tmp_path / "encoder"
        shutil.copytree(folder("bert"), place)
        names = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
        listed = [{"idx": i, "name": str(i), "path": names[i], "type": TYPE + kind} for i, kind in enumerate(kinds)]
        write(place, "modules.json", listed[::-1])  # in the order of idx, not of the file
        write(place, "1_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True})
        return place

    return make


def embedded(place: Path, texts: list[str] = TEXTS, **settings: Any) -> np.ndarray:
    """What the regression of a probe would read (N, H')."""
    config, way = probe.settle(Probe(model=str(place), layer="last", **settings))
    reader = Reader(config, probe.build(config, "cpu"), way)
    pooled = np.zeros((1, len(texts), reader.backbone.width), dtype=np.float32)
    probe.fill_pooled(pooled, reader.backbone, reader.encode(texts), config, [reader.backbone.depth])
    return reader.vectors(pooled[0], reader.backbone.depth)


@torch.no_grad()
def by_transformers(place: Path, pooling: str, texts: list[str] = TEXTS, limit: int = 256) -> np.ndarray:
    """Pooled last hidden states (N, H) of a padded batch."""
    batch = AutoTokenizer.from_pretrained(place)(
        texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
    )
    hidden = AutoModel.from_pretrained(place, dtype=torch.float32)(**batch).last_hidden_state  # (N, T, H)
    mask = batch["attention_mask"][:, :, None]
    pooled = {
        "mean": (hidden * mask).sum(1) / mask.sum(1),
        "max": hidden.masked_fill(mask == 0, -torch.inf).amax(1),
        "cls": hidden[:, 0],
        "lasttoken": hidden[torch.arange(len(texts)), mask[:, :, 0].sum(1) - 1],
    }
    return pooled[pooling].numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        ("mean", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}),
        ("cls", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}),
        ("lasttoken", {"pooling_mode": "lasttoken"}),
        ("max", {"pooling_mode": ["max"]}),
    ],
)
def test_the_embedding_is_pooled_and_normalised_as_the_files_say(
    pooling: str, said: dict[str, Any], encoder: Callable[..., Path]
) -> None:
    place = encoder("Transformer", "Pooling", "Normalize", pooling=said)
    # float32, in another order of sums
    np.testing.assert_allclose(embedded(place), unit(by_transformers(place, pooling)), rtol=0, atol=1e-5)


def test_dense_layers_follow_the_pooling(encoder: Callable[..., Path]) -> None:
    place = encoder("Transformer", "Pooling", "Dense", "Dropout", "Normalize")
    write(place, "2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"})
    weight, bias = torch.randn(16, 64, generator=torch.manual_seed(0)) / 8, torch.arange(16.0) / 16
    save_file({"linear.weight": weight, "linear.bias": bias}, place / "2_Dense" / "model.safetensors")
    wanted = unit(np.tanh(by_transformers(place, "mean") @ weight.numpy().T + bias.numpy()))
    np.testing.assert_allclose(embedded(place), wanted, rtol=0, atol=1e-5)


def test_the_limit_and_the_default_prompt_are_those_of_the_files(encoder: Callable[..., Path]) -> None:
    place = encoder("Transformer", "Pooling")
    write(place, "sentence_bert_config.json", {"max_seq_length": 8})
    said = {"prompts": {"query": "band: ", "document": ""}, "default_prompt_name": "query"}
    write(place, "config_sentence_transformers.json", said)
    wanted = by_transformers(place, "mean", [f"band: {text}" for text in TEXTS], limit=8)
    np.testing.assert_allclose(embedded(place), wanted, rtol=0, atol=1e-5)


def test_without_modules_json_it_is_the_mean_of_the_last_layer(folder: Callable[..., Path]) -> None:
    place = folder("bert")
    assert sentence_encoder(Source(str(place))) is sentence_encoder(Source("no/such-model")) is None
    np.testing.assert_allclose(embedded(place), by_transformers(place, "mean"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"pooling": "mean"}, {"bidirectional": True}])
def test_who_sets_the_pooling_or_the_mask_reads_the_plain_model(
    settings: dict[str, Any], encoder: Callable[..., Path]
) -> None:
    place = encoder("Transformer", "Pooling", "Normalize", pooling={"pooling_mode": "cls"})
    np.testing.assert_allclose(embedded(place, **settings), by_transformers(place, "mean"), rtol=0, atol=1e-5)


def test_gradients_go_through_the_own_embedding(encoder: Callable[..., Path]) -> None:
    rows = dataset(24)
    config = Probe(model=str(encoder("Transformer", "Pooling", "Normalize")), layer="last", regularisation=(1.0,))
    model = probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier
    assert model.has_gradients
    read = model.differentiable(TEXTS[0])
    with torch.no_grad():
        logits = read.forward(embedding_of(read.backbone)(torch.from_numpy(read.tokens).long())[None])
    np.testing.assert_allclose(logits.softmax(1).numpy(), model.predict_proba(TEXTS[:1]).probs, rtol=0, atol=1e-5)


def test_a_prompt_has_no_place_in_the_text(encoder: Callable[..., Path]) -> None:
    place, rows = encoder("Transformer", "Pooling"), dataset(24)
    said = {"prompts": {"query": "band: "}, "default_prompt_name": "query"}
    write(place, "config_sentence_transformers.json", said)
    config = Probe(model=str(place), layer="last", regularisation=(1.0,))
    assert not probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier.has_gradients


@pytest.mark.parametrize(
    ("kinds", "files", "said"),
    [
        (("Transformer", "Pooling"), {"modules.json": "[{"}, r"modules\.json is no JSON \(Expecting .*\); restore it$"),
        (("Transformer", "Pooling"), {"modules.json": [{"idx": 0}]}, "is no list of modules with idx, type and path"),
        (
            ("Transformer", "Pooling"),
            {"1_Pooling/config.json": [1]},
            "1_Pooling/config.json holds no settings by name; r",
        ),
        (
            ("Transformer",),
            {"modules.json": [{"idx": 0, "type": "custom_st.Transformer", "path": ""}]},
            "a module that is not supported there: custom_st.Transformer; set",
        ),
        (
            ("Transformer", "WeightedLayerPooling"),
            {},
            "a module that is not supported there: WeightedLayerPooling; set",
        ),
        (("Pooling",), {}, "a module that is not supported there: Pooling; set pooling, to mean for example"),
        (("Transformer", "Pooling", "LSTM"), {}, r"a module that is not supported: 2_LSTM \(LSTM\); set pooling"),
        (
            ("Transformer", "Pooling"),
            {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            "its pooling is not supported: mean and max; set pooling",
        ),
        (
            ("Transformer", "Pooling"),
            {"1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}},
            "its pooling is not supported: weightedmean_tokens",
        ),
        (("Transformer", "Pooling", "Dense"), {}, r"2_Dense has no model\.safetensors; restore it"),
        (
            ("Transformer", "Pooling", "Dense"),
            {"2_Dense/config.json": {"activation_function": "torch.nn.modules.activation.Softplus"}},
            "2_Dense has an activation that is not supported: Softplus",
        ),
        (
            ("Transformer", "Pooling"),
            {
                "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
                "config_sentence_transformers.json": {"prompts": {"q": "q: "}, "default_prompt_name": "q"},
            },
            "leaves the prompt out",
        ),
    ],
)
def test_what_is_broken_or_not_supported_is_named(
    kinds: tuple[str, ...], files: dict[str, Any], said: str, encoder: Callable[..., Path]
) -> None:
    place = encoder(*kinds)
    for name, value in files.items():
        write(place, name, value)
    with pytest.raises(ModelError, match=said):
        sentence_encoder(Source(str(place)))


def test_a_run_refuses_other_files_than_it_was_trained_with(encoder: Callable[..., Path], tmp_path: Path) -> None:
    place, rows = encoder("Transformer", "Pooling", "Normalize"), dataset(24)
    config = Probe(model=str(place), layer="last", regularisation=(1.0,))
    fitted = probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier
    run = tmp_path / "run"
    run.mkdir()
    fitted.save(run)
    loaded = probe.load(run, device="cpu")
    assert np.array_equal(loaded.predict_proba(TEXTS).probs, fitted.predict_proba(TEXTS).probs)
    write(place, "1_Pooling/config.json", {"pooling_mode": "cls"})
    with pytest.raises(
        ArtifactError, match=r"files of sentence-transformers are others .*; restore them, or fit again"
    ):
        probe.load(run, device="cpu")
