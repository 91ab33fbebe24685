"""Products by oneDNN: what torch's own linear layer gives, forward and backward, and who keeps MKL."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasttoken.model import products


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """For tests that change the maker of the processor, which is asked for once a process."""
    products.one_dnn_linear.cache_clear()
    yield monkeypatch
    products.one_dnn_linear.cache_clear()


@pytest.fixture
def amd(maker: pytest.MonkeyPatch) -> None:
    maker.setattr(products, "processor", lambda: "AuthenticAMD")
    if products.one_dnn_linear() is None:
        pytest.skip("torch has no MKL here, or no oneDNN")


def output_and_grads(layer: nn.Linear, x: Tensor, *, trained: bool) -> list[Tensor]:
    layer.requires_grad_(trained)
    x = x.clone().requires_grad_()
    out = layer(x)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("shape", [(7, 64), (2, 5, 64), (0, 64)])
def test_output_and_gradients_are_those_of_an_ordinary_layer(
    amd: None, bias: bool, trained: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96, bias=bias), torch.randn(shape)
    wanted = output_and_grads(layer, x, trained=trained)
    products.install(layer)
    assert type(layer) is products.Linear
    found = output_and_grads(layer, x, trained=trained)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):  # another library sums in another order
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), wanted[0], rtol=1e-5, atol=1e-5)


def test_sums_onto_what_is_there(amd: None) -> None:
    torch.manual_seed(0)
    total, x, weight = torch.randn(5, 96), torch.randn(5, 8), torch.randn(96, 8)
    wanted = total + F.linear(x, weight)
    torch.testing.assert_close(products.plus_linear(total, x, weight), wanted, rtol=1e-5, atol=1e-5)


def test_other_precisions_keep_their_way(amd: None) -> None:
    layer = nn.Linear(64, 96)
    products.install(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(3, 64)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(3, 64).double()).dtype == torch.float64
    assert products.faster_library(torch.randn(3, 64).bfloat16()) is None


def test_intel_keeps_mkl(maker: pytest.MonkeyPatch) -> None:
    maker.setattr(products, "processor", lambda: "GenuineIntel")
    layer = nn.Linear(8, 8)
    products.install(layer)
    assert type(layer) is nn.Linear
    assert products.faster_library(torch.ones(2, 8)) is None
