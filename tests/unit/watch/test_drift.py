"""Drift: no more alarms than promised where nothing changed, and one where something did."""

from __future__ import annotations

import numpy as np
import pytest

from lasttoken.watch.drift import LEVEL, Sample, drift, verdict

WORDS = [f"word{i}" for i in range(200)]


def sample(
    rows: int, seed: int, *, length: float = 12, words: int = 200, sure: float = 3.0, shift: float = 0.0
) -> Sample:
    """Texts of random words, and probabilities of three labels."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS[-words:], rng.poisson(length) + 1)) for _ in range(rows)]
    logits = rng.normal(size=(rows, 3)) * sure + np.array([shift, 0, 0])
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Sample(texts, probs, probs.argmax(axis=1))


KNOWN, MORE = sample(150, 0), sample(300, 1).texts


def test_no_more_false_alarms_than_promised() -> None:
    alarms = sum(verdict(drift(sample(150, 7000 + i), sample(120, 9000 + i), MORE, "abc")) != "calm" for i in range(60))
    assert alarms <= 7  # 3 are expected of 60 at one in twenty; 8 or more have probability .01


@pytest.mark.parametrize(
    ("change", "of"),
    [
        ({"length": 25}, "length"),
        ({"words": 20}, "classifier"),
        ({"sure": 0.5}, "confidence"),
        ({"shift": 4.0}, "labels"),
    ],
)
def test_what_changed_is_named_first_or_second(change: dict[str, float], of: str) -> None:
    found = drift(KNOWN, sample(200, 5, **change), MORE, "abc")
    assert of in [one.of for one in found[:2]]
    assert next(one for one in found if one.of == of).p < LEVEL
    assert verdict(found) == "worry"


def test_several_labels_and_texts_without_words() -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((40, 3))
    blank = Sample(["..."] * 40, probs, probs > 0.5)
    found = drift(blank, blank, [], "abc")
    assert verdict(found) == "calm"
    assert {one.of: one.effect for one in found}["classifier"] == 0.5
