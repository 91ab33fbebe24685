"""Layers that read one input: the outputs and gradients of each alone, one dropout mask, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lasttoken.model import lora_group
from lasttoken.model.lora import lora_layers, speed_up
from lasttoken.model.shared_input import Holder, Siblings


class Attention(nn.Module):
    """q, k and v of one input, or of two."""

    def __init__(self, key: Callable[[Tensor], Tensor] = lambda x: x):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(16, 12), nn.Linear(16, 4, bias=False), nn.Linear(16, 4)
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(self.key(x)), self.v_proj(x)
        return torch.cat([q, k * v], dim=-1)


class Model(nn.Module):
    def __init__(self, **given: Any):
        super().__init__()
        self.attention = Attention(**given)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


def adapted(dropout: float = 0.0, ranks: dict[str, int] | None = None, **given: Any) -> PeftModel:
    torch.manual_seed(0)
    names = ["q_proj", "k_proj", "v_proj"]
    config = LoraConfig(r=4, target_modules=names, lora_dropout=dropout, rank_pattern=ranks or {})
    model = get_peft_model(Model(**given), config)
    for layer in lora_layers(model):
        nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    return model.train()


def siblings(model: PeftModel) -> Siblings:
    (holder,) = [module for module in model.modules() if isinstance(module, Holder)]
    (found,) = holder.siblings
    return found


def trained(model: PeftModel, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of every adapter."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Layers of each group that was computed."""
    found, real = list[int](), lora_group.Group.outputs
    monkeypatch.setattr(
        lora_group.Group, "outputs", lambda self, *given: found.append(len(self.bases)) or real(self, *given)
    )
    return found


def test_outputs_and_gradients_are_those_of_peft(calls: list[int]) -> None:
    model, x = adapted(), torch.randn(2, 5, 16)
    wanted = trained(model, x)
    speed_up(model)
    for ours, theirs in zip(trained(model, x), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert calls == [3]
    model.eval()(x)
    assert calls == [3, 1, 1, 1]  # other threads may predict at the same time


def test_one_mask_serves_all_and_the_gradients_are_those_of_the_masked_output() -> None:
    model = adapted(dropout=0.5).double()
    speed_up(model)
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)

    def same_mask(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return model(tensors[0])

    assert torch.autograd.gradcheck(same_mask, (x, *(p for p in model.parameters() if p.requires_grad)))


@pytest.mark.parametrize("given", [{"key": lambda x: x + 1}, {"ranks": {"k_proj": 2}}], ids=["inputs", "ranks"])
def test_layers_that_differ_are_computed_alone(given: dict[str, Any], calls: list[int]) -> None:
    model, x = adapted(**given), torch.randn(5, 16)
    wanted = trained(model, x)
    speed_up(model)
    for _ in range(2):
        for ours, theirs in zip(trained(model, x), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert siblings(model).apart
    assert calls[-3:] == [1, 1, 1]


def test_an_error_on_the_way_leaves_nothing_behind() -> None:
    def failing(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    model = adapted(key=failing)
    speed_up(model)
    with pytest.raises(torch.OutOfMemoryError):
        model(torch.randn(5, 16))
    assert (siblings(model).outputs, siblings(model).source) == ({}, None)
    assert not siblings(model).apart  # the batch is halved and runs again, with the same masks


def test_recomputed_activations_give_the_same_gradients(calls: list[int]) -> None:
    model, x = adapted(dropout=0.5), torch.randn(5, 16)
    speed_up(model)
    torch.manual_seed(3)
    wanted, again = trained(model, x), model.get_base_model().attention
    plain = again.forward
    again.forward = lambda x: torch.utils.checkpoint.checkpoint(plain, x, use_reentrant=False)  # type: ignore[method-assign]
    torch.manual_seed(3)
    for ours, theirs in zip(trained(model, x), wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert calls == [3, 3, 3]
