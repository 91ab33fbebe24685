"""Every text model that transformers can make runs here as it does by itself, or is refused for a reason on a list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from every_model import PAGE, in_a_batch, one_by_one, outcome
from toy_models import BROKEN, TYPES

from lasttoken.model.adapter import adapt
from lasttoken.model.attention import NAME
from lasttoken.model.verify import difference, sample_answers

ROUNDING = 1e-5  # float32 sums in another order: the largest of all models is 1e-6
TEXT = PAGE.read_text(encoding="utf-8")
KNOWN = dict(re.findall(r"^\| `(\S+)` \| (.*) \|$", TEXT, flags=re.M))

pytestmark = pytest.mark.skipif(
    f"transformers {transformers.__version__} " not in TEXT, reason="the page is of another version"
)


def test_the_page_has_every_model() -> None:
    assert set(KNOWN) == set(TYPES)
    refused = {name for name, row in KNOWN.items() if "| refused |" in row}
    assert refused >= set(BROKEN)
    assert len(refused) == 15  # of 227


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_gives_the_states_of_each_text_alone_or_is_refused(model_type: str, tmp_path: Path) -> None:
    found, backbones = outcome(model_type, tmp_path)
    assert KNOWN[model_type] == found.row, "run `make models` and look at what changed"
    for backbone in backbones:
        assert difference(in_a_batch(backbone), one_by_one(backbone)) < ROUNDING
    for backbone in backbones[1:]:  # a decoder: an adapter on all linear layers learns
        ids, layout = sample_answers(backbone)
        adapted = adapt(backbone, r=2, alpha=4, dropout=0.05, seed=0)
        backbone.whole.set_attn_implementation("eager" if backbone.padded else NAME)  # one_by_one has changed it
        backbone.hidden(torch.from_numpy(ids), layout).square().mean().backward()
        assert any(p.grad is not None and p.grad.any() for p in adapted.parameters())
