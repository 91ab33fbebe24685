"""Adapters around a backbone: counts of parameters, and what does not load."""

from pathlib import Path

import pytest
from torch import nn

from lasttoken.errors import ArtifactError
from lasttoken.model.adapter import load_adapter, total_parameters, trainable_parameters


def test_counts() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    layers[0].requires_grad_(False)
    assert trainable_parameters(layers) == 8
    assert total_parameters(layers) == 3 * 4 + 4 + 8


def test_a_missing_adapter_is_named(load_fresh, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/lora\.json: missing"):
        load_adapter(load_fresh("llama"), tmp_path / "nowhere")
