"""README.md of an export: a model card with the scores of the run, how to load it, and what was checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from lasttoken.evaluation.policy import Policy
from lasttoken.labels import LabelSpace
from lasttoken.record.schema import Environment as Made
from lasttoken.record.schema import Export, Metrics
from lasttoken.wording import figure, rate, span

# metrics of the card, and what the Hub calls their kind
SCORES = {"accuracy": "accuracy", "micro_f1": "f1", "macro_f1": "f1", "ece": "expected calibration error"}


def card(facts: Export, measures: Metrics, made: Made, labels: LabelSpace, policy: Policy, how: Sequence[str]) -> str:
    """The text of README.md. how: blocks of code that load the exported forms."""
    test = measures.splits["test"]
    shown = [name for name in SCORES if name in test.metrics]
    data = Path(made.data.source).stem
    results = [
        EvalResult(
            "text-classification", "table", data, SCORES[name], round(test.metrics[name].estimate, 4), metric_name=name
        )
        for name in shown
    ]
    local = facts.model is None or "/" not in facts.model or Path(facts.model).exists()
    head = ModelCardData(
        model_name=facts.run,
        eval_results=results,
        library_name=library(facts),
        pipeline_tag="text-generation" if library(facts) == "lasttoken" else "text-classification",
        base_model=None if local else facts.model,
        tags=["lasttoken"],
    )
    text = template().render(
        facts=facts,
        head=head.to_yaml(),
        labels=labels,
        test=test,
        shown=shown,
        how=how,
        beyond=beyond(facts, policy, labels),
        figure=figure,
        span=span,
        rate=rate,
    )
    return text.rstrip() + "\n"


def template() -> Template:
    """card.md.jinja."""
    text = (Path(__file__).parent / "card.md.jinja").read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined).from_string(text)


def library(facts: Export) -> str:
    """The library that the Hub names beside the model."""
    runtimes = [form.runtime for form in facts.forms]
    return next((known for known in ("transformers", "lasttoken", "peft") if known in runtimes), runtimes[0])


def beyond(facts: Export, policy: Policy, labels: LabelSpace) -> list[str]:
    """What is decided outside of the weights, a sentence each."""
    found: list[str] = []
    if facts.reading is not None:
        long = {"head": "the first", "tail": "the last", "head_tail": "the first and last"}[facts.reading.keep]
        reading = facts.reading
        found.append(f"Texts are read to {reading.limit} tokens: {long} of longer ones.")
        if reading.keep == "head_tail":
            found.append("The tokenizer cuts the end of a longer text alone; `lasttoken predict` keeps both ends.")
        for word, part in (("before", reading.prefix), ("after", reading.suffix)):
            if part:
                found.append(f"Every text was read with {part!r} {word} it; put it there.")
    kind = policy.calibration.method
    if kind == "temperature":
        found.append(f"Probabilities are calibrated: the temperature {facts.temperature:.3g} is in the weights.")
    elif kind == "none":
        found.append("Probabilities are as the model gives them; the run has no calibration.")
    else:
        found.append(f"Probabilities are as the model gives them; the run's calibration ({kind}) is in policy.json.")
    if labels.multi:
        limits = policy.rule.thresholds
        given = {} if limits is None else {n: round(float(x), 4) for n, x in zip(labels.names, limits, strict=True)}
        listed = f"its own threshold on: {json.dumps(given, ensure_ascii=False)}" if given else "a probability of .5 on"
        found.append(f"A label is given from {listed}.")
    if policy.rule.abstain_below:
        found.append(f"The run abstains where its confidence is below {policy.rule.abstain_below:.3f}.")
    if policy.rule.costs is not None:
        found.append("The run decides by the costs of mistakes in policy.json, not by the highest probability.")
    return found
