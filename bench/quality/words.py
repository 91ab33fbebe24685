"""How docs/explain/quality.md writes a figure, a difference, a metric and an entry of an experiment."""

from __future__ import annotations

from collections.abc import Mapping

from lasttoken.evaluation.intervals import Interval

WORDS = {
    "embedding-last": "embedding, last token",
    "embedding-mean": "embedding, mean pooling",
    "embedding-suffix": "embedding, suffix",
    "embedding-r8": "embedding, r = 8",
    "embedding-nf4": "embedding, NF4",
    "embedding-half-rate": "embedding, rate .0007",
    "embedding-double-rate": "embedding, rate .003",
    "embedding-probe-start": "embedding, head begun without names",
    "instruction-half-rate": "instruction, rate .0007",
    "instruction-base": "instruction, no chat template",
    "zero-shot-contextual": "zero-shot, contextual",
    "probe-minilm": "probe (MiniLM)",
    "setfit": "SetFit (MiniLM)",
    "random": "embedding, random weights",
    "embedding-bias": "embedding, head with a bias",
    "instruction-numbers": "instruction, answered by number",
    "trainer": "HF Trainer + PEFT, last token",
    "encoder": "encoder (MiniLM, 22 M)",
    "k0": "LoRA on all six blocks",
    "head": "head alone, cross-entropy",
    **{f"head-{loss}": f"head alone, {loss}" for loss in ("asymmetric", "balanced", "focal", "logit_adjusted")},
    "random-1": "random head, 1 epoch",
    "probe-1": "probe head, 1 epoch",
    **{f"k{k}": f"on the upper {6 - k}, trunk = {k}" for k in range(2, 6)},
}
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "micro_f1": "micro-F1", "ece": "ECE"}


def figure(value: float) -> str:
    """.812, without the leading zero."""
    return f"{value:.3f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """+.012 or -.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def ends(one: Mapping[str, float]) -> str:
    """.041 [.005, .058]."""
    return f"{figure(one['estimate'])} [{figure(one['low'])}, {figure(one['high'])}]"


def interval(found: Interval) -> str:
    """+.012 [-.003, +.027], no difference shown."""
    told = ", no difference shown" if found.low <= 0 <= found.high else ""
    return f"{signed(found.estimate)} [{signed(found.low)}, {signed(found.high)}]{told}"
