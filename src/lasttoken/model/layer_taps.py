"""Hidden states between a model's blocks, read by forward hooks.

Every block gets one hook when the model is loaded. The hook stores states only if the layout of the running row carries
`Taps`. The request is part of the row and not of the shared model, so several threads may run rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn


class StopForward(Exception):
    """Ends a forward pass after the highest layer requested."""


@dataclass(frozen=True, eq=False)
class Taps:
    """The layers requested of a row, and their states after the forward pass. Layer k is the input of block k."""

    layers: Sequence[int]
    states: dict[int, Tensor] = field(default_factory=dict)  # layer -> (T + filler, H)


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, transformer blocks) of a model: the longest ModuleList inside it."""
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    return max(found, key=lambda pair: (len(pair[1]), -pair[0].count(".")))


def install(module: nn.Module) -> None:
    """Register the hook on every block."""
    for layer, block in enumerate(blocks_of(module)[1]):
        block.register_forward_pre_hook(partial(tap, layer), with_kwargs=True)


def tap(layer: int, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Store the input of a block if the running row requests it. Raises StopForward at the highest layer requested."""
    layout = keywords.get("layout")
    taps: Taps | None = None if layout is None else layout.taps
    if taps is None or layer not in taps.layers:
        return
    states = arguments[0] if arguments else keywords["hidden_states"]
    taps.states[layer] = states.reshape(-1, states.shape[-1])
    if layer == max(taps.layers):
        raise StopForward
