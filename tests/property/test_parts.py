"""What holds of a model taken apart, wherever it is cut and whatever it has learnt: its parts give what the whole gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from precision import ROUNDINGS

from lasttoken.infer.batches import pack
from lasttoken.infer.frozen_blocks import trunk_states
from lasttoken.journal import Journal
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import load
from lasttoken.model.lora import lora_layers, merged
from lasttoken.model.upper_blocks import above
from lasttoken.text.tokenizer import Encoded

FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.lists(st.lists(st.integers(3, 299), min_size=1, max_size=40), min_size=1, max_size=8)


def as_encoded(rows: list[list[int]]) -> Encoded:
    return Encoded([np.array(row, dtype=np.int32) for row in rows], np.zeros(len(rows), dtype=np.int64), 64)


def hidden(backbone: Backbone, source: object) -> torch.Tensor:
    """Hidden states of all rows, packed together."""
    batch = pack(source, np.arange(len(source)), backbone)  # type: ignore[arg-type]
    with torch.no_grad(), backbone.autocast():
        return backbone.hidden(batch.inputs, batch.layout).float()


@pytest.fixture
def whole(precision: str, folder: Callable[..., Path]) -> Backbone:
    """`tiny`'s architecture at its real depth, weights in float32."""
    cpu = torch.device("cpu")
    return load("tiny", kind="decoder", device=cpu, precision=precision, weights=torch.float32)


@FEW
@given(rows=ROWS, block=st.integers(1, 5), budget=st.integers(1, 300))
def test_a_kept_trunk_gives_what_recomputing_it_gives(
    rows: list[list[int]], block: int, budget: int, whole: Backbone
) -> None:
    """Whatever the cut, the rows and the batches that the trunk was computed in; in bfloat16 up to its rounding."""
    encoded = as_encoded(rows)
    kept = trunk_states(
        whole, encoded, block, base={"name": "tiny"}, texts=[repr(rows)], budget=budget, journal=Journal()
    )
    found, wanted = hidden(above(whole, block), kept), hidden(whole, encoded)
    bound = 1e-4 if whole.compute == torch.float32 else 0.03  # of bfloat16's 2^-8 a rounding, through six blocks
    assert float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@FEW
@given(rows=ROWS, rank=st.integers(1, 9), alpha=st.floats(0.5, 32), seed=st.integers(0, 99))
def test_merged_is_applied(
    name: str, rows: list[list[int]], rank: int, alpha: float, seed: int, load_fresh: Callable[..., Backbone]
) -> None:
    """Whatever rank, scale and weights an adapter has; outside of `merged` all is as it was, bit for bit."""
    backbone = load_fresh(name)
    adapted = adapt(backbone, r=rank, alpha=alpha, dropout=0.0, targets="all-linear", rslora=False, dora=False, seed=0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(adapted):
            layer.lora_B["default"].weight.normal_(0, 0.05)
    encoded = as_encoded(rows)
    apart = hidden(backbone, encoded)
    with merged(backbone.whole, "auto"):
        assert all(layer.merged for layer in lora_layers(adapted))
        inside = hidden(backbone, encoded)
    # float32: sums in another order; bfloat16: merged weights are rounded once more than those that are apart
    bound = 1e-4 if backbone.compute == torch.float32 else ROUNDINGS * torch.finfo(backbone.compute).eps
    assert float((inside - apart).norm() / apart.norm()) < bound
    assert torch.equal(hidden(backbone, encoded), apart)
