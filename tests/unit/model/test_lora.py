"""LoRA's own arithmetic: what PEFT computes, forward and backward; its dropout; merged weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lasttoken.model import lora
from lasttoken.model.dropout import keep_mask
from lasttoken.model.lora import lora_layers, merge, merge_layer, merged, speed_up


class One(nn.Module):
    """A single linear layer, ordinary or transposed as in GPT-2."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def adapted(layer: nn.Module | None = None, *, dropout: float = 0.0, dora: bool = False) -> PeftModel:
    torch.manual_seed(0)
    layer = layer or nn.Linear(64, 96)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["layer"],
        lora_dropout=dropout,
        use_dora=dora,
        fan_in_fan_out=isinstance(layer, Conv1D),
    )
    model = get_peft_model(One(layer), config)
    nn.init.normal_(lora_layers(model)[0].lora_B["default"].weight, std=0.1)
    return model


def output_and_grads(model: PeftModel, x: Tensor) -> list[Tensor]:
    layer: Any = lora_layers(model)[0]
    x = x.clone().requires_grad_()
    out = model(x)
    model.zero_grad()
    out.square().sum().backward()
    return [out.detach(), x.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(64, 96), lambda: nn.Linear(64, 96, bias=False), lambda: Conv1D(96, 64)]
)
def test_output_and_gradients_are_those_of_peft(make) -> None:
    model, x = adapted(make()), torch.randn(3, 7, 64)
    plain = output_and_grads(model, x)
    speed_up(model)
    assert isinstance(lora_layers(model)[0], lora.FastLora)
    for ours, theirs in zip(output_and_grads(model, x), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_dropout_drops_in_the_branch_only_and_backward_sees_the_same_mask() -> None:
    model = adapted(dropout=0.5).double().train()
    speed_up(model)
    x = torch.randn(4, 64, dtype=torch.float64, requires_grad=True)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def same_mask(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return model(tensors[0])

    assert torch.autograd.gradcheck(same_mask, (x, *parameters))
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("threshold", [13, 128, 255])
def test_dropout_drops_the_share_that_is_asked_for(threshold: int) -> None:
    torch.manual_seed(0)
    kept = keep_mask(torch.Size([1000, 101]), threshold, torch.device("cpu"))
    assert (kept.shape, kept.dtype) == ((1000, 101), torch.uint8)
    # the share of zeros among 101,000 has a standard deviation of .0016 at most
    assert float(1 - kept.float().mean()) == pytest.approx(threshold / 256, abs=0.006)


def test_every_byte_of_a_draw_is_even() -> None:
    """Eight masks come from one draw of 64 bits: none of them may drop more or less than the others."""
    torch.manual_seed(0)
    kept = keep_mask(torch.Size([80_000]), 128, torch.device("cpu")).view(-1, 8).float().mean(dim=0)
    assert kept.tolist() == pytest.approx([0.5] * 8, abs=0.02)  # of 10,000 each: standard deviation .005


def test_masks_repeat_from_the_seed_and_differ_between_draws() -> None:
    shape, cpu = torch.Size([50, 64]), torch.device("cpu")
    torch.manual_seed(1)
    first, second = (keep_mask(shape, 26, cpu) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(keep_mask(shape, 26, cpu), first)
    assert not torch.equal(first, second)
    assert keep_mask(shape, 128, torch.device("meta")).shape == shape  # the way of every device but the CPU


def test_dora_keeps_the_way_of_peft_and_is_not_merged() -> None:
    model, x = adapted(dora=True), torch.randn(2, 64)
    before = model(x)
    speed_up(model)
    assert torch.equal(model(x), before)
    assert not merge(model, "auto")


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 96), lambda: Conv1D(96, 64)])
def test_merged_predicts_the_same_and_leaves_no_trace(make) -> None:
    model, x = adapted(make()).eval(), torch.randn(5, 64)
    speed_up(model)
    layer, before = lora_layers(model)[0], model(x)
    base = layer.base_layer
    with merged(model, "auto"):
        assert layer.merged
        assert not torch.equal(base.weight, layer.base_layer.weight)
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert layer.base_layer is base
    assert torch.equal(model(x), before)
    with merged(model, "off"):
        assert layer.base_layer is base


def test_what_stops_in_the_midst_of_merging_leaves_nothing_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    two: Any = nn.Sequential(One(nn.Linear(64, 64)), One(nn.Linear(64, 96)))
    model = get_peft_model(two, LoraConfig(r=4, target_modules=["layer"])).eval()
    speed_up(model)
    before, calls = [layer.base_layer for layer in lora_layers(model)], []

    def second_fails(layer: nn.Module) -> None:
        calls.append(layer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        merge_layer(layer)

    monkeypatch.setattr(lora, "merge_layer", second_fails)
    with pytest.raises(KeyboardInterrupt), merged(model, "auto"):
        pass
    assert len(calls) == 2
    assert all(layer.base_layer is base for layer, base in zip(lora_layers(model), before, strict=True))
    assert not any(layer.merged for layer in lora_layers(model))


def test_merging_needs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted().eval()
    speed_up(model)
    monkeypatch.setattr(lora, "device_memory", lambda device: 1000)
    assert not merge(model, "auto")
    with merged(model, "auto"):
        assert not lora_layers(model)[0].merged


def test_layers_that_find_no_memory_stay_as_they_are_and_compute_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two: Any = nn.Sequential(One(nn.Linear(64, 64)), One(nn.Linear(64, 96)))
    model = get_peft_model(two, LoraConfig(r=4, target_modules=["layer"])).eval()
    for layer in lora_layers(model):
        nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    speed_up(model)
    x, calls = torch.randn(5, 64), []
    apart = model(x)

    def first_fits(layer: nn.Module) -> None:
        calls.append(layer)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        merge_layer(layer)

    monkeypatch.setattr(lora, "merge_layer", first_fits)
    with merged(model, "auto"):
        assert not any(layer.merged for layer in lora_layers(model))
        assert torch.equal(model(x), apart)
    calls.clear()
    assert not merge(model, "auto")
    assert torch.equal(model(x), apart)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("no memory to merge the adapter into the weights: predictions use it unmerged")


def test_a_merged_adapter_is_saved_as_it_was(tmp_path: Path) -> None:
    model, x = adapted().eval(), torch.randn(5, 64)
    base = One(nn.Linear(64, 96))
    base.load_state_dict(
        {k.replace(".base_layer", ""): v for k, v in model.base_model.model.state_dict().items() if "lora" not in k}
    )
    speed_up(model)
    assert merge(model, "auto")
    assert not merge(model, "auto")  # it is done
    model.save_pretrained(str(tmp_path))
    torch.testing.assert_close(PeftModel.from_pretrained(base, str(tmp_path))(x), model(x), rtol=1e-5, atol=1e-5)
