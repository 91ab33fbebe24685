"""What an export is to hold: targets and their precisions, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lasttoken.errors import ConfigError

FORMS = {  # target -> its precisions
    "hf": ("bfloat16", "float32"),
    "peft": ("float32",),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8", "int8-dynamic"),
}
REQUIRED = {"int8": 0.98, "int8-dynamic": 0.98}  # share of equal decisions; of a float precision:
FLOAT = 0.995
ROWS = 1000  # validation rows that a form is checked on, at most


@dataclass(frozen=True)
class Wanted:
    """The forms to make."""

    targets: Sequence[str]
    precisions: Sequence[str] = ()  # empty: all that a target has; of hf that of the base model's weights
    agreement: float | None = None  # least share of equal decisions; None: FLOAT, or REQUIRED, and one row may differ
    rows: int = ROWS

    def __post_init__(self) -> None:
        """Raises ConfigError on a precision that a target does not have."""
        for target in self.targets:
            if self.precisions and not self.chosen(target):
                raise ConfigError([f"--precision: {target} has {', '.join(FORMS[target])}; name one of them too"])
        if len(self.chosen("hf")) > 1 and "hf" in self.targets:
            raise ConfigError(["--precision: hf is one folder of weights; name bfloat16 or float32 alone"])

    def chosen(self, target: str) -> list[str]:
        """The precisions of a target that were named."""
        return [one for one in self.precisions if one in FORMS[target]]

    def of(self, target: str, *, own: str) -> list[str]:
        """The precisions to make of a target. own: that of the base model's weights."""
        return self.chosen(target) or ([own] if target == "hf" else list(FORMS[target]))

    def required(self, precision: str) -> float:
        """The least share of equal decisions."""
        return REQUIRED.get(precision, FLOAT) if self.agreement is None else self.agreement
