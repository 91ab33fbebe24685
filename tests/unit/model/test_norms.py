"""RMS norms by torch's own kernel: the same numbers, and only where they are the plain kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lasttoken.model.backbone import Backbone
from lasttoken.model.layout import lay_out
from lasttoken.model.norms import FusedNorm, install, is_plain


def count(module: nn.Module) -> int:
    return sum(isinstance(norm, FusedNorm) for norm in module.modules())


@pytest.mark.parametrize(("name", "norms"), [("llama", 5), ("qwen3", 9), ("gemma3", 0), ("gpt2", 0), ("bert", 0)])
def test_states_and_gradients_stay_as_they_are(
    name: str, norms: int, load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_fresh(name, kind="any")
    ids, layout = torch.tensor([5, 6, 7, 8, 9]), lay_out([3, 2], causal=backbone.causal)
    weights = [p.requires_grad_() for p in backbone.module.parameters() if p.ndim == 1]

    def run() -> list[torch.Tensor]:
        hidden = backbone.hidden(ids, layout)
        return [hidden, *torch.autograd.grad(hidden.square().sum(), weights, allow_unused=True, materialize_grads=True)]

    before = run()
    install(backbone.module)
    assert count(backbone.module) == norms
    for found, wanted in zip(run(), before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)  # another order of float32 sums


def test_what_is_no_plain_norm_is_left() -> None:
    class GatedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            return states * gate

    assert not is_plain(GatedRMSNorm())
    assert not is_plain(nn.LayerNorm(4))
    assert not is_plain(nn.RMSNorm(4))  # torch's own; its eps is None by default
