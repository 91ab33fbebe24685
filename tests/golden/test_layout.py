"""A classifier in transformers' layout gives the logits of the classifier, whatever the text spells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tiny import dataset, make_tokenizer
from torch import nn
from transformers import AutoTokenizer

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ArtifactError, ConfigError, ExportRefused
from lasttoken.evaluation.policy import Policy
from lasttoken.export import hf, layout
from lasttoken.export.check import Reference, checked
from lasttoken.infer.portable import Portable
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Classifier

LABELS = ("music", "sport", "trade")
QUICK = Training(epochs=1.0, lr=1e-2, batch=8)
# sums of float32 in another order, and of the run's bfloat16 beside float32, after a softmax
CLOSE = {"float32": 1e-4, "bfloat16": 0.1}


def fitted(
    folder: Callable[..., Path], name: str, *, encoder: bool = False, multi: bool = False, **variant: Any
) -> Any:
    """A classifier on a tiny model, with the pooling of the layout."""
    place = str(folder(name, **variant))
    config = (
        Encoder(model=place, pooling="first", train=QUICK)
        if encoder
        else Embedding(model=place, lora=Lora(r=4, alpha=32.0), train=QUICK)
    )
    return catalog.fit(config, dataset(30, multi=multi), dataset(9, multi=multi, seed=1), device="cpu").classifier


def written(model: Classifier, folder: Path, temperature: float = 1.0) -> Any:
    """transformers' pipeline over the model in its layout."""
    plain = model.portable()
    assert isinstance(plain, Portable)
    layer = layout.divided(plain.layers, temperature)
    assert isinstance(layer, nn.Linear)
    whole = layout.sequence_classifier(plain, layer, model.labels)
    hf.write_classifier(whole, folder, dtype=torch.float32)
    padding = layout.padding_of(plain.tokenizer)
    hf.write_tokenizer(plain.tokenizer, plain.reading, folder, padding=padding, split=plain.pooling == "last")
    return hf.piping(str(folder), folder)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma2", "gpt2", "opt", "phi3"])
def test_a_causal_lm_with_a_head(
    name: str, multi: bool, precision: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    if name == "gemma2" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("this transformers leaves the soft cap of attention scores out where it chooses sdpa by itself")
    model = fitted(folder, name, multi=multi)
    texts = [*dataset(9, seed=3).texts, "guitar"]
    found = hf.piped(written(model, tmp_path), texts, model.labels)
    assert np.abs(found - model.predict_proba(texts).probs).max() < CLOSE[precision]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_with_a_head(name: str, precision: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    """Through a dense layer with a tanh that transformers puts before the last one."""
    model = fitted(folder, name, encoder=True)
    texts = dataset(9, seed=3).texts
    found = hf.piped(written(model, tmp_path), texts, model.labels)
    assert np.abs(found - model.predict_proba(texts).probs).max() < max(1e-3, CLOSE[precision])


def test_an_encoder_whose_head_is_normalised_is_refused(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformers' classifier for modernbert puts layers of its own"):
        written(fitted(folder, "modernbert", encoder=True), tmp_path)


def test_the_temperature_is_in_the_weights(precision: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    model, texts = fitted(folder, "llama"), dataset(9, seed=3).texts
    raw = model.predict_proba(texts).probs
    wanted = raw**0.5 / (raw**0.5).sum(axis=1, keepdims=True)
    assert np.abs(hf.piped(written(model, tmp_path, 2.0), texts, model.labels) - wanted).max() < CLOSE[precision]


@pytest.mark.parametrize("pad", ["own", "eos", "none"])
def test_a_text_that_spells_the_padding_token_is_pooled_at_its_end(
    pad: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    """transformers pools the last token that is not padding: a text that ends with the token's name would be pooled before it."""
    model = fitted(folder, "llama", pad=pad)
    pipe = written(model, tmp_path)
    spelled = f"guitar {pipe.tokenizer.pad_token}"
    alone, batch = (hf.piped(pipe, texts, model.labels)[0] for texts in ([spelled], [spelled, "song " * 20]))
    assert np.abs(alone - batch).max() < 1e-5
    ids = pipe.tokenizer(spelled)["input_ids"]
    assert pipe.tokenizer.pad_token_id not in ids[1:]
    plain = model.portable()
    with torch.inference_mode():
        wanted = plain.logits(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)).softmax(dim=1)
    assert alone == pytest.approx(wanted[0].numpy(), abs=1e-5)


def test_a_tokenizer_that_ends_texts_with_its_padding_gets_another() -> None:
    tokenizer = make_tokenizer(pad="eos", encoder=True)  # <s> text </s>, padded with </s>
    assert tokenizer.convert_ids_to_tokens(layout.padding_of(tokenizer)) == "<s>"


def test_texts_are_cut_where_the_run_cuts_them(precision: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    config = Embedding.model_validate(
        {"model": str(folder("llama")), "max_length": 6, "long": {"keep": "tail"}, "train": QUICK, "lora": Lora(r=4)}
    )
    model = catalog.fit(config, dataset(30), dataset(9, seed=1), device="cpu").classifier
    texts = ["guitar song market goal " * 10]
    found = hf.piped(written(model, tmp_path), texts, model.labels)
    assert np.abs(found - model.predict_proba(texts).probs).max() < CLOSE[precision]
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 6


def test_a_bias_becomes_weights_of_what_all_vectors_share() -> None:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.normal(size=(500, 16)) + 5).float()
    layer = nn.Linear(16, 3)
    plain = layout.without_bias(layer, vectors[:400])
    assert plain.bias is None
    with torch.no_grad():
        away = (plain(vectors[400:]) - layer(vectors[400:])).abs().mean()
        assert away < 0.1 * layer.bias.abs().mean()


def test_a_form_that_decides_otherwise_is_refused() -> None:
    """One row of any number may differ, as a tie may; two of a hundred are more than half a percent."""
    labels, policy = LabelSpace(LABELS), Policy()
    raw = np.eye(3)[np.arange(100) % 3] * 0.7 + 0.1

    def answers(wrong: int) -> Callable[..., np.ndarray]:
        return lambda texts: (
            np.roll(raw, 1, axis=1)[: len(texts)]
            if wrong < 0
            else np.concatenate([np.roll(raw[:wrong], 1, axis=1), raw[wrong:]])[: len(texts)]
        )

    ref = Reference([str(i) for i in range(100)], raw, policy, labels, answers(0))

    def check(wrong: int, required: float = 0.995, *, tie: bool = True) -> Any:
        return checked("onnx-int8", answers(wrong), answers(wrong), ref, required=required, tie=tie)

    assert check(0).agreement == 1
    assert check(1).agreement == 0.99
    with pytest.raises(ExportRefused, match=r"^onnx-int8: 98\.0% of 100 validation rows get the decision that the run"):
        check(2)
    assert check(2, required=0.98).largest == pytest.approx(0.7)
    with pytest.raises(ExportRefused, match=r"0\.0% of 100"):
        check(-1)
    with pytest.raises(ExportRefused, match=r"99\.0% of 100"):
        check(1, tie=False)  # the user's own bound has no exception
    with pytest.raises(ArtifactError, match="not finite"):
        checked("onnx-int8", lambda texts: raw * np.nan, answers(0), ref, required=0.0)
