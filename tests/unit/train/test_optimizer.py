"""The optimiser by name."""

import pytest
import torch
from torch import nn

from lasttoken.train.optimizer import make_optimizer


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "paged_adamw32bit"])
def test_on_a_cpu_it_is_torchs_own_and_only_matrices_decay(name: str) -> None:
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(name, layer.parameters(), lr=0.1, weight_decay=0.3)
    assert type(optimizer) is torch.optim.AdamW
    found = [
        (group["weight_decay"], group["lr"], [p.ndim for p in group["params"]]) for group in optimizer.param_groups
    ]
    assert found == [(0.3, 0.1, [2]), (0.0, 0.1, [1])]


def test_weights_may_come_as_an_iterator_of_matrices_alone() -> None:
    optimizer = make_optimizer("adamw", iter([nn.Parameter(torch.zeros(2, 2))]), lr=0.1, weight_decay=0.0)
    assert len(optimizer.param_groups) == 1
