"""Probabilities to a tolerance against exact ones, on every architecture, and how much less is run for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from precision import ROUNDINGS, equal_but_for_rounding
from tiny import DECODERS, NESTED

from lasttoken.infer.label_probs import label_probs
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import Backbone
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.text.tokenizer import Encoded, encode

# prefixes of one another, equal beginnings, one word and many
NAMES = (
    "card",
    "card lost",
    "card lost abroad",
    "card stolen",
    "fee",
    "fee charged twice",
    "rate",
    "the rate of today",
)
TEXTS = ["alpha beta gamma", "delta", "epsilon zeta alpha eta theta beta", "gamma gamma delta"]
ROUNDING = 2e-5  # float32 log-probabilities of a dozen tokens, summed in another order


def question(backbone: Backbone) -> tuple[Prompt, Encoded, LabelSpace]:
    labels = LabelSpace(NAMES)
    return make_prompt(backbone.tokenizer, labels), encode(backbone.tokenizer, TEXTS, limit=60, special=False), labels


@pytest.mark.parametrize("name", sorted(DECODERS | NESTED))
def test_a_tolerance_of_next_to_nothing_is_exact(name: str, load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared(name, vocabulary=True)
    prompt, encoded, labels = question(backbone)
    exact = label_probs(backbone, prompt, encoded, labels, budget=4096)
    found = label_probs(backbone, prompt, encoded, labels, budget=4096, tolerance=1e-12)
    equal_but_for_rounding(found, exact, backbone.compute, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 0.002])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_no_probability_is_further_from_the_exact_one_than_the_tolerance(
    name: str, tolerance: float, load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, vocabulary=True)
    prompt, encoded, labels = question(backbone)
    exact = label_probs(backbone, prompt, encoded, labels, budget=4096)
    found = label_probs(backbone, prompt, encoded, labels, budget=4096, tolerance=tolerance)
    # bfloat16: the exact one too is only right to its rounding
    rounding = ROUNDING if backbone.compute == torch.float32 else ROUNDINGS * torch.finfo(backbone.compute).eps
    assert np.abs(found - exact).max() <= tolerance + rounding
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("budget", [1, 9, 40])
def test_batches_change_nothing(budget: int, load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("mistral", vocabulary=True)  # its window is shorter than header and text
    prompt, encoded, labels = question(backbone)
    whole = label_probs(backbone, prompt, encoded, labels, budget=4096, tolerance=1e-3)
    found = label_probs(backbone, prompt, encoded, labels, budget=budget, tolerance=1e-3)
    equal_but_for_rounding(found, whole, backbone.compute, rtol=0, atol=ROUNDING)


def test_what_cannot_matter_is_not_run(load_shared: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_shared("llama", vocabulary=True)
    prompt, encoded, labels = question(backbone)
    run: list[int] = []
    hidden = type(backbone).hidden

    def counted(self: Backbone, inputs: torch.Tensor, layout: Any) -> torch.Tensor:
        run.append(len(inputs))
        return hidden(self, inputs, layout)

    monkeypatch.setattr(type(backbone), "hidden", counted)
    counts = {}
    for tolerance in (1e-100, 0.5):
        run.clear()
        label_probs(backbone, prompt, encoded, labels, budget=4096, tolerance=tolerance)
        assert run[0] == len(prompt.header)  # once for all texts
        assert run[1] == encoded.lengths.sum() + len(TEXTS) * len(prompt.footer)
        counts[tolerance] = sum(run[2:])
    nodes = {tuple(answer[:n]) for answer in prompt.answers for n in range(1, len(answer))}
    assert counts[1e-100] == len(TEXTS) * len(nodes)  # every beginning once for each text, in however many passes
    assert counts[0.5] < counts[1e-100]


@torch.inference_mode()
def test_a_header_of_no_tokens_is_allowed(load_shared: Callable[..., Backbone]) -> None:
    backbone, labels = load_shared("llama", vocabulary=True), LabelSpace(NAMES)
    prompt = make_prompt(backbone.tokenizer, labels, template="{text} =")
    prompt = Prompt.of({**prompt.to_dict(), "header": []})
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    exact = label_probs(backbone, prompt, encoded, labels, budget=4096)
    found = label_probs(backbone, prompt, encoded, labels, budget=4096, tolerance=1e-12)
    equal_but_for_rounding(found, exact, backbone.compute, rtol=0, atol=ROUNDING)
