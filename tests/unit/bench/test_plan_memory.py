"""The plan's formulas against bytes that real models take, and its constants against the code that they describe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

CASES = [
    ("llama", "float32", False),
    ("llama", "bfloat16", True),
    ("qwen3", "bfloat16", False),
    ("gemma2", "float32", True),
    ("phi3", "bfloat16", False),
    ("olmo2", "float32", False),
    ("bert", "float32", False),
    ("bert", "bfloat16", True),
    ("modernbert", "bfloat16", False),
    ("modernbert", "float32", True),
]


@pytest.fixture(autouse=True)
def bench(scripts_of: Callable[[str], None]) -> None:
    scripts_of("speed")


@pytest.mark.parametrize(("name", "dtype", "checkpointing"), CASES)
def test_a_training_step_takes_what_is_predicted(name: str, dtype: str, checkpointing: bool) -> None:
    """15 % is what the issue of the plan asks for; measured, errors stay below 11 % (docs/lab.md)."""
    from plan_memory import compare

    found = compare(name, (40, 38, 17, 90, 200), dtype=dtype, checkpointing=checkpointing, blocks=3)
    assert abs(found.error) < 0.15
    if not checkpointing:
        assert found.predicted[0] == pytest.approx(found.measured[0], rel=0.1)


def test_attention_that_keeps_scores_and_attention_that_does_not() -> None:
    from plan_memory import compare

    plain, fused = (compare("llama", (n,), dtype="float32", checkpointing=False, blocks=2) for n in (1008, 1024))
    assert plain.measured[0] > 1.5 * fused.measured[0]  # what is measured changes, and the prediction with it
    assert fused.predicted[0] == pytest.approx(fused.measured[0], rel=0.1)
