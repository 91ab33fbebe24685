"""What transformers' own layout of a classifier can express, as settings: `train --exportable` chooses them, `export` asks for them."""

from __future__ import annotations

from typing import Any

from lasttoken.config.settings import Settings
from lasttoken.errors import ConfigError

POOLED = {"embedding": "last", "encoder": "first"}  # token that the layout reads
AUTO = "auto_temperature"


def exportable_settings(method: str) -> list[str]:
    """Settings, as --set takes them, under which a run of the method can be exported. Raises ConfigError where none can."""
    if method == "instruction":
        return []
    if method not in POOLED:
        raise ConfigError(
            [f"--exportable: {method} has no layout of transformers; leave it out (lasttoken export --to onnx)"]
        )
    return [f"method.pooling={POOLED[method]}", f"decision.calibration={AUTO}"]


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
