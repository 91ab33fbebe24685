"""Which form of an export answers where none is named."""

from __future__ import annotations

import pytest

from lasttoken.record.schema import Checked, Form
from lasttoken.runtime.exported import quickest


def form(name: str, rate: float, largest: float) -> Form:
    check = Checked(rows=43, agreement=1.0, required=0.98, largest=largest, rows_per_second=rate, ours=100.0)
    return Form(name=name, runtime="onnx", precision="float32", file=f"{name}.onnx", check=check)


@pytest.mark.parametrize(
    ("forms", "chosen"),
    [
        ([form("float32", 100.0, 1e-5), form("bfloat16", 200.0, 0.01), form("int8", 400.0, 0.13)], "bfloat16"),
        ([form("float32", 100.0, 1e-5), form("bfloat16", 105.0, 0.01)], "float32"),  # a tenth is noise
        ([form("dynamic", 100.0, 0.08), form("int8", 400.0, 0.13)], "dynamic"),  # none is near
    ],
)
def test_the_fastest_that_is_near_the_run(forms: list[Form], chosen: str) -> None:
    assert quickest(forms).name == chosen
