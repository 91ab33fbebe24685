"""A classifier as plain torch says what the classifier says: on padded rows, with the adapter merged, in transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import dataset, sentences

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.settings import Long, Lora, Training
from lasttoken.errors import ConfigError, ModelError
from lasttoken.infer.head import probabilities
from lasttoken.infer.portable import Portable, PortableLM
from lasttoken.text.tokenizer import Encoded

LORA, QUICK = Lora(r=4, alpha=32.0), Training(epochs=1.0, lr=1e-2, batch=8)
CONFIGS: dict[str, Callable[[Callable[..., Path]], Any]] = {
    "llama": lambda folder: Embedding(model=str(folder("llama")), lora=LORA, train=QUICK),
    "unmerged": lambda folder: Embedding(model=str(folder("llama")), lora=LORA, train=QUICK, merge="off"),
    "nf4": lambda folder: Embedding(model=str(folder("mistral")), lora=LORA, train=QUICK, quantize="nf4"),
    "nf4 unmerged": lambda folder: Embedding(
        model=str(folder("qwen3")), lora=LORA, train=QUICK, quantize="nf4", merge="off"
    ),
    "gpt2": lambda folder: Embedding(model=str(folder("gpt2")), lora=LORA, train=QUICK, pooling="mean"),
    "gemma2": lambda folder: Embedding(model=str(folder("gemma2")), lora=LORA, train=QUICK, pooling="max"),
    "gemma3, nested": lambda folder: Embedding(model=str(folder("gemma3-nested")), lora=LORA, train=QUICK),
    "opt": lambda folder: Embedding(model=str(folder("opt")), lora=LORA, train=QUICK, head="mlp", pooling="attention"),
    "no adapter": lambda folder: Embedding(model=str(folder("smollm3")), lora=Lora(r=0), train=QUICK),
    "suffix": lambda folder: Embedding(model=str(folder("llama")), lora=LORA, train=QUICK, suffix="\nTopic:"),
    "tail": lambda folder: Embedding(
        model=str(folder("llama")), lora=LORA, train=QUICK, max_length=6, long=Long(keep="tail")
    ),
    "jamba": lambda folder: Embedding(model=str(folder("jamba")), lora=LORA, train=QUICK),
    "modernbert": lambda folder: Encoder(model=str(folder("modernbert")), train=QUICK),
    "roberta": lambda folder: Encoder(model=str(folder("roberta")), pooling="first", train=QUICK),
    "t5": lambda folder: Encoder(model=str(folder("t5")), head_init="random", train=QUICK),
    "probe": lambda folder: Probe(model=str(folder("bert"))),
    "probe of a lower layer": lambda folder: Probe(model=str(folder("llama")), layer=1, pooling="last"),
    "probe of the embeddings": lambda folder: Probe(model=str(folder("qwen3")), layer=0),
    "probe of the last": lambda folder: Probe(model=str(folder("qwen3")), layer="last"),
}


def padded(encoded: Encoded, *, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of rows padded on the right, (B, L) int64."""
    ids = torch.full((len(encoded), int(encoded.lengths.max())), filler)
    mask = torch.zeros_like(ids)
    for row, own in enumerate(encoded.ids):
        ids[row, : len(own)], mask[row, : len(own)] = torch.from_numpy(own.astype(np.int64)), 1
    return ids, mask


# sums of float32 in another order, and of bfloat16 beside float32, after a softmax
CLOSE = {"float32": 1e-4, "bfloat16": 0.1}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_the_same(name: str, precision: str, folder: Callable[..., Path]) -> None:
    multi = name in ("unmerged", "modernbert")
    train, valid = dataset(30, multi=multi), dataset(9, multi=multi, seed=1)
    model = catalog.fit(CONFIGS[name](folder), train, valid, device="cpu").classifier
    texts = [*sentences(9, seed=4), "", "guitar"]
    wanted = model.predict_proba(texts).probs
    plain = model.portable()
    assert isinstance(plain, Portable)
    assert type(plain.trunk).__module__.startswith("transformers.")
    ids, mask = padded(plain.reading(plain.tokenizer, texts), filler=7)
    with torch.inference_mode():
        found = probabilities(plain.logits(ids, mask).double(), multi)
    assert np.abs(found - wanted).max() < CLOSE[precision]
    assert np.ptp(wanted, axis=0).max() > 1e-2  # answers that differ at all


def test_the_pad_token_need_not_be_the_text_s_end(precision: str, folder: Callable[..., Path]) -> None:
    """A text that spells the pad token, and ends with it: the pooled token is still its last one."""
    model = catalog.fit(CONFIGS["llama"](folder), dataset(20), dataset(9, seed=1), device="cpu").classifier
    plain = model.portable()
    assert isinstance(plain, Portable)
    texts = ["guitar <pad>", "guitar <pad><pad>", "guitar"]
    ids, mask = padded(plain.reading(plain.tokenizer, texts), filler=plain.tokenizer.pad_token_id)
    with torch.inference_mode():
        found = probabilities(plain.logits(ids, mask).double(), False)
    assert np.abs(found - model.predict_proba(texts).probs).max() < CLOSE[precision]
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_an_answering_model_keeps_its_prompt(precision: str, folder: Callable[..., Path]) -> None:
    config = Instruction(model=str(folder("llama")), lora=LORA, train=QUICK)
    model = catalog.fit(config, dataset(20), dataset(9, seed=1), device="cpu").classifier
    plain = model.portable()
    assert isinstance(plain, PortableLM)
    ids = plain.tokenizer("guitar song", add_special_tokens=False)["input_ids"]
    scores = []
    with torch.inference_mode():
        for answer in plain.prompt.answers:  # log p(answer and its end | prompt), a pass a label
            row = torch.tensor([[*plain.prompt.header.tolist(), *ids, *plain.prompt.footer, *answer]])
            found = plain.model(input_ids=row).logits[0].float().log_softmax(dim=-1)
            start = row.shape[1] - len(answer)
            scores.append(sum(found[start + k - 1, token] for k, token in enumerate(answer)))
    wanted = model.predict_proba(["guitar song"]).probs[0]
    assert torch.stack(scores).softmax(dim=0).numpy() == pytest.approx(wanted, abs=CLOSE[precision])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (lambda folder: Linear(), "linear: TF-IDF is no neural network to export"),
        (
            lambda folder: Embedding(model=str(folder("llama")), lora=LORA, train=QUICK, long=Long(keep="windows")),
            "long.keep = windows: an exported model reads one window of a text; train with long.keep = head to export",
        ),
        (
            lambda folder: Probe(model=str(folder("llama")), bidirectional=True),
            "bidirectional: no runtime drops the causal mask of this model; train without it to export",
        ),
        (
            lambda folder: Instruction(model=str(folder("llama")), train_model=False, contextual=True),
            "contextual = true: an exported model scores its labels; train without it to export",
        ),
    ],
)
def test_what_has_no_such_form_is_refused(config: Callable[..., Any], told: str, folder: Callable[..., Path]) -> None:
    model = catalog.fit(config(folder), dataset(30), dataset(9, seed=1), device="cpu").classifier
    with pytest.raises(ConfigError, match=told):
        model.portable()


def test_dora_is_refused(folder: Callable[..., Path]) -> None:
    config = Embedding(model=str(folder("mistral")), lora=Lora(r=4, dora=True), train=QUICK)
    model = catalog.fit(config, dataset(20), dataset(9, seed=1), device="cpu").classifier
    with pytest.raises(ModelError, match="a DoRA adapter cannot be merged here"):
        model.portable()
