"""Why a text got its label: scores that add up, words that matter, and what was not read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from precision import equal_but_for_rounding
from tiny import dataset

import lasttoken.explain.explanation
from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.settings import Long, Lora, Training
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, DataError
from lasttoken.explain.explanation import explain, probs_log_odds, words_of
from lasttoken.fitting.memory import is_recomputing
from lasttoken.infer.label_probs import answer_trees
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.predictor import Predictor

SPACE = LabelSpace(("music", "sport"))
QUICK = Training(epochs=6, batch=8, lr=0.01, budget=512, patience=9, metric="accuracy")


def one_word_tells(rows: int, seed: int) -> Dataset:
    """Texts of numbers with one word that says what they are about."""
    rng = np.random.default_rng(seed)
    targets = np.arange(rows) % 2
    texts = []
    for target in targets.tolist():
        words = rng.choice(["one", "two", "ten", "six"], 6).tolist()
        words[int(rng.integers(6))] = ("violin", "stadium")[target]
        texts.append(" ".join(words))
    return Dataset([str(i) for i in range(rows)], texts, targets, SPACE)


def config_of(method: str, folder: Callable[..., Path], **more: Any) -> Any:
    model, lora = str(folder("llama")), Lora(r=4, alpha=8.0)
    return {
        "embedding": lambda: Embedding(model=model, lora=lora, train=QUICK, **more),
        "instruction": lambda: Instruction(model=model, lora=lora, train=QUICK, **more),
        "encoder": lambda: Encoder(
            model=str(folder("bert")),
            head_init="random",
            train=QUICK.model_copy(update={"epochs": 20.0, "lr": 0.002}),
            **more,
        ),
        "probe": lambda: Probe(model=model, regularisation=(1.0,), **more),
        "linear": lambda: Linear(min_count=1, regularisation=(3.0,)),
    }[method]()


def fitted(method: str, folder: Callable[..., Path], **more: Any) -> Any:
    train, valid = one_word_tells(96, 1), one_word_tells(32, 2)
    return catalog.fit(
        config_of(method, folder, **more), train, valid, seed=0, device="cpu", journal=Journal()
    ).classifier


@pytest.mark.parametrize("method", ["embedding", "encoder", "probe", "instruction", "linear"])
def test_the_word_that_tells_is_the_heaviest_and_scores_add_up(folder: Callable[..., Path], method: str) -> None:
    model = fitted(method, folder)
    text = "one two  stadium ten six one"
    probs = model.predict_proba([text]).probs
    for by in ("removal",) if method == "linear" else ("gradients", "removal"):
        found = explain(Predictor(model), text, ["sport"], by=by, steps=64)[0]
        assert [text[a:b] for a, b in found.words] == text.split()
        if by == "gradients":
            assert found.log_odds == pytest.approx(float(probs_log_odds(probs, 1)[0]), abs=0.05)  # bfloat16 weights
            assert found.gap < 0.1
        learnt = probs[0, 1] > 0.9
        assert learnt or method == "instruction"  # which is slow to learn the word from a random model
        if learnt:
            inner = list(zip(found.scores, text.split(), strict=True))[:-1]  # a head on the last word weighs it anyhow
            assert max(inner)[1] == "stadium", (by, found.strongest())
    assert explain(Predictor(model), text)[0].label == SPACE.names[int(probs.argmax())]


@pytest.mark.parametrize("multi", [False, True])
def test_labels_too_many_for_one_tree_are_explained_the_same(
    multi: bool, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(6, multi=multi)
    config = Instruction(model=str(folder("llama")), train_model=False)
    model = catalog.fit(config, data, data, seed=0, device="cpu", journal=Journal()).classifier
    whole = explain(Predictor(model), data.texts[0], ["sport"], by="gradients", steps=8)[0]
    monkeypatch.setattr("lasttoken.infer.label_probs.MOST", 4)
    assert len(answer_trees(model.prompt, model.labels)) > 1
    parts = explain(Predictor(model), data.texts[0], ["sport"], by="gradients", steps=8)[0]
    # gradients summed in another order
    equal_but_for_rounding(np.array(parts.scores), np.array(whole.scores), model.backbone.compute, rtol=1e-3, atol=1e-4)


def test_a_model_whose_activations_were_recomputed_is_explained_like_any(folder: Callable[..., Path]) -> None:
    """What checkpointing asks of embeddings (gradients) is over with the training."""
    scores = []
    for checkpointing in ("off", "on"):
        train = QUICK.model_copy(update={"epochs": 1.0, "checkpointing": checkpointing})
        config = config_of("embedding", folder).model_copy(update={"train": train})
        model = catalog.fit(
            config, one_word_tells(24, 1), one_word_tells(12, 2), seed=0, device="cpu", journal=Journal()
        ).classifier
        assert not is_recomputing(model.backbone.whole)
        scores.append(explain(Predictor(model), "one two stadium", ["sport"], by="gradients", steps=8)[0].scores)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-3)


def test_removal_says_what_is_lost_without_a_word(folder: Callable[..., Path]) -> None:
    model = fitted("linear", folder)
    found = explain(Predictor(model), "one violin two", ["music"])[0]
    assert found.by == "removal"
    whole, without = probs_log_odds(model.predict_proba(["one violin two", "one two"]).probs, 0)
    assert found.scores[1] == pytest.approx(whole - without)


def test_words_behind_the_limit_have_no_score(folder: Callable[..., Path]) -> None:
    model = fitted("embedding", folder, max_length=24)
    text = " ".join(["one"] * 30 + ["stadium"])
    found = explain(Predictor(model), text, ["sport"], by="gradients", steps=4)[0]
    assert not math.isnan(found.scores[0])
    assert math.isnan(found.scores[-1])
    tail = fitted("embedding", folder, max_length=24, long=Long(keep="tail"))
    found = explain(Predictor(tail), text, ["sport"], by="gradients", steps=4)[0]
    assert math.isnan(found.scores[0])
    assert not math.isnan(found.scores[-1])
    windows = fitted("embedding", folder, max_length=24, long=Long(keep="windows"))
    found = explain(Predictor(windows), text, ["sport"], by="gradients", steps=32)[0]
    assert not np.isnan(found.scores).any()
    assert found.gap < 0.1
    suffix = fitted("embedding", folder, max_length=24, long=Long(keep="windows"), suffix=" so it is")
    found = explain(Predictor(suffix), text, ["sport"], by="gradients", steps=32)[0]
    assert len(found.words) == 31  # words of the text alone
    assert not np.isnan(found.scores).any()
    assert found.gap < 0.1


@pytest.mark.parametrize("method", ["embedding", "instruction"])
def test_several_labels_are_explained_one_by_one(folder: Callable[..., Path], method: str) -> None:
    data = dataset(24, multi=True)
    once = QUICK.model_copy(update={"epochs": 1.0, "metric": "micro_f1"})
    config = config_of(method, folder).model_copy(update={"train": once})
    model = catalog.fit(config, data, data, seed=0, device="cpu", journal=Journal()).classifier
    text = data.texts[0]
    probs = model.predict_proba([text]).probs
    for column, found in enumerate(explain(Predictor(model), text, data.labels.names, by="gradients", steps=16)):
        assert found.log_odds == pytest.approx(float(probs_log_odds(probs, column)[0]), abs=0.05)


@pytest.mark.parametrize("multi", [False, True])
def test_what_is_explained_is_what_is_predicted_without_the_prior(folder: Callable[..., Path], multi: bool) -> None:
    """With labels' prior taken out the log-odds are others, and a softmax of them weighs labels otherwise."""
    rows = dataset(12, multi=multi)
    config = config_of("instruction", folder, train_model=False, contextual=True)
    model = catalog.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier
    text = "ten violin six"
    found = explain(Predictor(model), text, [rows.labels.names[1]], by="gradients", steps=8)[0]
    expected = probs_log_odds(model.predict_proba([text]).probs, 1)[0]
    assert found.log_odds == pytest.approx(expected, abs=1e-4)
    plain = replace(model, prior=None)
    assert abs(probs_log_odds(plain.predict_proba([text]).probs, 1)[0] - expected) > 1e-3


def test_auto_goes_over_to_removal_where_gradients_do_not_add_up(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tried = fitted("embedding", folder), list[int]()
    exact = lasttoken.explain.explanation.by_gradients

    def short(*given: Any, missing: float) -> Any:
        tried.append(given[-1])
        return replace(exact(*given), gap=missing)

    for missing, by, steps in ((0.05, "gradients", [8]), (0.5, "removal", [8])):
        monkeypatch.setattr(lasttoken.explain.explanation, "by_gradients", partial(short, missing=missing))
        (found,) = explain(Predictor(model), "one two stadium", ["sport"], steps=8)
        assert (found.by, tried) == (by, steps)
        tried.clear()


def test_very_long_texts_are_left_out_several_words_at_a_time(folder: Callable[..., Path]) -> None:
    model = fitted("linear", folder)
    found = explain(Predictor(model), " ".join(["one"] * 999 + ["violin"]), ["music"])[0]
    assert len(found.scores) == 1000
    assert found.scores[-1] > 0


def test_an_empty_text_and_unknown_labels(folder: Callable[..., Path]) -> None:
    model = fitted("linear", folder)
    assert explain(Predictor(model), "", ["music"])[0].scores == []
    assert words_of("") == []
    with pytest.raises(DataError, match="unknown label"):
        explain(Predictor(model), "one", ["dance"])
    with pytest.raises(ConfigError, match="a linear model has none; use --by removal"):
        explain(Predictor(model), "one", ["music"], by="gradients")
