"""AdamW by name: 8-bit or paged states on CUDA, torch's AdamW elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

Name = Literal["adamw8bit", "paged_adamw32bit", "adamw"]


def make_optimizer(
    name: Name, weights: Iterable[nn.Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over `weights` (Loshchilov & Hutter 2019). Weight decay applies to matrices only, not to norms and biases.

    adamw8bit: 8-bit states (Dettmers 2022, arXiv:2110.02861); paged_adamw32bit: states that move to main memory
    when the GPU is full (arXiv:2305.14314). Both need CUDA; elsewhere torch's AdamW is used.
    """
    weights = list(weights)
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    kind = weights[0].device.type
    if name == "adamw" or kind != "cuda":
        return torch.optim.AdamW(
            groups, lr=lr, fused=kind in ("cpu", "cuda")
        )  # one kernel per weight instead of about ten
    import bitsandbytes.optim

    paged = name == "paged_adamw32bit"
    return (bitsandbytes.optim.PagedAdamW32bit if paged else bitsandbytes.optim.AdamW8bit)(groups, lr=lr)
