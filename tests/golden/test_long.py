"""Texts longer than the model reads: an end of them, or windows whose results are put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from precision import equal_but_for_rounding
from tiny import sentences
from transformers import AutoModel

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Probe
from lasttoken.config.parse import parse
from lasttoken.config.settings import Long, Lora, Training
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError
from lasttoken.infer.batches import pack
from lasttoken.infer.head import head_probs
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.model.load import load
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import encode, encode_windows

SPACE = LabelSpace(("music", "sport"))
QUICK = Training(epochs=6, batch=8, lr=0.01, budget=256, patience=9, metric="accuracy")
GENTLE = QUICK.model_copy(update={"epochs": 8.0, "lr": 0.002})  # every weight of it trains
WINDOWS = Long(keep="windows", overlap=0.25, most=16)


def told_at_the_end(rows: int, seed: int) -> Dataset:
    """Long texts whose last words alone say what they are."""
    rng = np.random.default_rng(seed)
    fillers = [" ".join(rng.choice(["one", "two", "ten", "six"], 20)) for _ in range(rows)]
    targets = np.arange(rows) % 2
    words = ("violin concert melody", "goal match stadium")
    texts = [f"{fillers[i]} {words[t]}" for i, t in enumerate(targets.tolist())]
    return Dataset([str(i) for i in range(rows)], texts, targets, SPACE)


def configs(model: Path, encoder: Path) -> dict[str, Callable[..., Any]]:
    lora = Lora(r=4, alpha=8.0)
    return {
        "embedding": lambda long: Embedding(model=str(model), lora=lora, max_length=24, long=long, train=QUICK),
        "encoder": lambda long: Encoder(model=str(encoder), max_length=24, long=long, train=GENTLE),
        "probe": lambda long: Probe(model=str(model), max_length=24, long=long, regularisation=(1.0,)),
    }


@pytest.mark.parametrize("combine", ["mean", "max", "attention"])
def test_windows_are_each_read_alone_and_put_together(folder: Callable[..., Path], combine: Any) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=torch.device("cpu"))
    plain = AutoModel.from_pretrained(folder("llama"), dtype=backbone.compute, attn_implementation="eager").eval()
    torch.manual_seed(0)
    head = Head(backbone.width, 2, windows=combine).eval()
    if head.windows.query is not None:
        torch.nn.init.normal_(head.windows.query)
    texts = told_at_the_end(5, 0).texts
    encoded = encode_windows(backbone.tokenizer, [*texts, "goal"], limit=24, overlap=0.25, most=8)
    assert encoded.windows is not None
    assert len(encoded.windows[-1]) == 1
    assert min(map(len, encoded.windows[:-1])) > 2
    found = head_probs(backbone, head, encoded, SPACE, budget=200)
    for i, windows in enumerate(encoded.windows):
        pieces = np.split(encoded.ids[i].astype(np.int64), np.cumsum(windows)[:-1])
        pooled = torch.cat([plain(torch.from_numpy(p)[None]).last_hidden_state[0, -1:].float() for p in pieces])
        if combine == "attention":
            query = head.windows.query
            assert query is not None
            pooled = ((pooled @ query / backbone.width**0.5).softmax(0)[:, None] * pooled).sum(0, keepdim=True)
            logits = head.layers(pooled)[0]
        else:
            each = head.layers(pooled)
            logits = each.mean(0) if combine == "mean" else each.amax(0)
        expected = logits.double().softmax(0).detach().numpy()
        equal_but_for_rounding(found[i], expected, backbone.compute, rtol=0, atol=1e-5)  # sums in another order


def test_texts_that_fit_are_read_as_ever(folder: Callable[..., Path]) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=torch.device("cpu"))
    head = Head(backbone.width, 2).eval()
    texts = sentences(4, seed=3)
    plain = encode(backbone.tokenizer, texts, limit=200)
    windows = encode_windows(backbone.tokenizer, texts, limit=200, overlap=0.5, most=2)
    rows = np.arange(4)
    assert pack(windows, rows, backbone).inputs.tolist() == pack(plain, rows, backbone).inputs.tolist()
    assert (
        head_probs(backbone, head, windows, SPACE, budget=99) == head_probs(backbone, head, plain, SPACE, budget=99)
    ).all()


@pytest.mark.parametrize("method", ["embedding", "encoder", "probe"])
def test_what_stands_at_the_end_is_seen_by_its_tail_and_by_windows(
    folder: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    make = configs(folder("llama"), folder("bert"))[method]
    train, valid, test = (told_at_the_end(rows, seed) for rows, seed in ((80, 1), (40, 2), (40, 3)))
    scores = {}
    for long in (Long(), Long(keep="tail"), Long(keep="head_tail"), WINDOWS):
        made = catalog.fit(make(long), train, valid, seed=0, device="cpu", journal=Journal()).classifier
        said = made.predict_proba(test.texts)
        probs = said.probs
        scores[long.keep] = float((probs.argmax(axis=1) == test.targets).mean())
        assert said.lost.shape == (40,)
        assert said.truncation.lost == said.lost.sum()
        assert (min(said.lost) > 0) == (long.keep != "windows")
        (tmp_path / long.keep).mkdir()
        made.save(tmp_path / long.keep)
        again = catalog.load(tmp_path / long.keep, device="cpu")
        assert (again.predict_proba(test.texts).probs == probs).all()  # how long texts are read is kept
    assert scores["head"] < 0.75
    assert min(scores["tail"], scores["head_tail"], scores["windows"]) > 0.9, scores


def test_a_frozen_trunk_takes_windows_too(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    train, valid = told_at_the_end(24, 1), told_at_the_end(8, 2)
    once = Training(epochs=1, batch=8, lr=0.01, budget=256)
    found = []
    for trunk in (0, 1):
        lora = Lora(r=4, targets=("q_proj",), dropout=0.0)
        config = Embedding(model=str(folder("llama")), lora=lora, max_length=24, long=WINDOWS, train=once, trunk=trunk)
        made = catalog.fit(config, train, valid, seed=0, device="cpu", journal=Journal()).classifier
        found.append(made.predict_proba(valid.texts).probs)
    again = catalog.fit(
        Embedding(model=str(folder("llama")), lora=Lora(r=4), max_length=24, long=Long(keep="tail"), train=once, trunk=1),
        train, valid, seed=0, device="cpu", journal=(journal := Journal()),
    ).classifier  # fmt: skip
    assert again.predict_proba(valid.texts).probs.shape == found[0].shape
    assert not any("from the cache" in note for note in journal.notes)  # other tokens are other states


def test_instruction_reads_the_end_that_it_is_told(folder: Callable[..., Path]) -> None:
    model = str(folder("llama"))
    texts = told_at_the_end(4, 0).texts
    zero = {"model": model, "train_model": False, "max_length": 110}
    data = told_at_the_end(8, 1)
    head, tail = (
        catalog.fit(
            parse(Instruction, zero | {"long": {"keep": keep}}), data, data, seed=0, device="cpu", journal=Journal()
        )
        .classifier.predict_proba(texts)
        .probs
        for keep in ("head", "tail")
    )
    assert np.abs(head - tail).max() > 1e-6


def test_settings_that_a_method_cannot_use_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention has to be learnt, and a probe trains nothing; choose mean or max"):
        parse(Probe, {"long": {"keep": "windows", "combine": "attention"}})
    with pytest.raises(ConfigError, match=r"long.keep: input should be 'head', 'tail' or 'head_tail', got 'windows'"):
        parse(Instruction, {"long": {"keep": "windows"}})
