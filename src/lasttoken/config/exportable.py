"""What transformers' own layout of a classifier can express, as settings: `train --exportable` chooses them, `export` asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lasttoken.config.run import Run
from lasttoken.config.settings import Settings
from lasttoken.errors import ConfigError

POOLED = {"embedding": "last", "encoder": "first"}  # token that the layout reads
AUTO = "auto_temperature"
NO_NETWORK = "linear: TF-IDF is no neural network to export; `lasttoken predict` and `serve` run it without torch"
ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert")  # types whose classifier in transformers can hold ours


def exportable_settings(method: str) -> list[str]:
    """Settings, as --set takes them, under which a run of the method can be exported. Raises ConfigError where none can."""
    if method == "instruction":
        return []
    if method not in POOLED:
        able = "; `lasttoken export --to onnx` takes it without" if method == "probe" else ""
        raise ConfigError([f"--exportable: {method} has no layout of transformers; leave it out{able}"])
    return [f"method.pooling={POOLED[method]}", f"decision.calibration={AUTO}"]


def check_targets(method: str, targets: Sequence[str]) -> None:
    """Raises ConfigError on a target that no run of the method has."""
    if method == "linear":
        raise ConfigError([NO_NETWORK])
    if method == "instruction" and set(targets) != {"hf"}:
        raise ConfigError(
            ["--to: a model that answers in words is exported to hf alone; fit --method embedding for the others"]
        )


def refuse_encoder(model: str, kind: str) -> None:
    """Raises ConfigError on an encoder of a type whose classifier in transformers cannot hold ours."""
    if kind not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigError(
            [
                f"--exportable: {model} is of type {kind}, and hf takes {known} (minilm is one); name one with --model, or leave it out"
            ]
        )


def exportable_problems(run: Run) -> list[str]:
    """What keeps a run with --exportable from being exported to hf, of all that is known before it is trained."""
    values: dict[str, Any] = run.method.model_dump()
    if values["method"] == "instruction":
        wrong = {"method.decode": values["decode"] == "generate", "method.contextual": values["contextual"]}
        found = [
            f"{name}: an exported model scores its labels; leave it out" for name, is_set in wrong.items() if is_set
        ]
    else:
        found = layout_problems(run.method)
        if run.decision.calibration not in ("off", "temperature", AUTO):
            found.append(f"decision.calibration: the layout has one temperature, here it is {run.decision.calibration}")
    if (values.get("lora") or {}).get("dora"):
        found.append("method.lora.dora: such an adapter cannot be merged here; leave it out")
    return found


def layout_problems(config: Settings) -> list[str]:
    """Everything about a method's settings that the layout cannot express."""
    values: dict[str, Any] = config.model_dump()
    method, found = values["method"], list[str]()
    if method not in POOLED:
        return [f"method: {method} has no layout of transformers"]
    if values["pooling"] != POOLED[method]:
        found.append(f"method.pooling: the layout reads the {POOLED[method]} token, here it is {values['pooling']}")
    if values.get("head", "linear") != "linear":
        found.append("method.head: the layout has one linear layer, here it is mlp")
    if values.get("suffix"):
        found.append("method.suffix: the layout reads the text alone")
    if values["long"]["keep"] in ("head_tail", "windows"):
        found.append(f"method.long.keep: a tokenizer cuts one end of a text, here it is {values['long']['keep']}")
    return found
