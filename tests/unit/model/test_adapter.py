"""The parts of LoRA that are ours: dropout by bytes, and counts of parameters."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lasttoken.errors import ArtifactError
from lasttoken.model.adapter import ByteDropout, adapt, load_adapter, total_parameters, trainable_parameters


def test_dropout_rate_is_a_multiple_of_1_over_256_and_scaled_exactly() -> None:
    dropout = ByteDropout(0.05)
    assert dropout.p == 13 / 256
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, 100))
    assert sorted(set(out.flatten().tolist())) == [0.0, pytest.approx(256 / 243)]
    # the share of zeros among 100,000 has a standard deviation of .0007
    assert float((out == 0).float().mean()) == pytest.approx(13 / 256, abs=0.003)


def test_dropout_passes_its_gradient_where_it_passed_its_input() -> None:
    x = torch.ones(501, requires_grad=True)  # no multiple of eight bytes
    torch.manual_seed(0)
    out = ByteDropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_is_off_in_evaluation_and_at_rate_zero() -> None:
    x = torch.rand(5)
    assert ByteDropout(0.9).eval()(x) is x
    assert ByteDropout(0.001)(x) is x


def test_counts() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    layers[0].requires_grad_(False)
    assert trainable_parameters(layers) == 8
    assert total_parameters(layers) == 3 * 4 + 4 + 8


def test_dropout_of_adapters_is_by_bytes(load_fresh) -> None:
    adapted = adapt(load_fresh("llama"), r=2, alpha=4.0, dropout=0.1, seed=0)
    kinds = [type(m).__name__ for m in adapted.modules() if "Dropout" in type(m).__name__]
    assert kinds == ["ByteDropout"] * 14


def test_a_missing_adapter_is_named(load_fresh, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: the adapter does not load into"):
        load_adapter(load_fresh("llama"), tmp_path / "nowhere")
