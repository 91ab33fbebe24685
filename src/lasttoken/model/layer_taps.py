"""Hidden states between a model's blocks, read by forward hooks.

Every block gets one hook when the model is loaded. It stores states only inside `tapping`. That request belongs to the
running thread and not to the shared model, so several threads may run rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn

States = dict[int, Tensor]  # by layer, (tokens, H); layer k is the input of block k
REQUESTED: ContextVar[tuple[Sequence[int], States] | None] = ContextVar("layers to read", default=None)


class StopForward(Exception):
    """Ends a forward pass after the highest layer requested."""


@contextmanager
def tapping(layers: Sequence[int]) -> Iterator[States]:
    """The inputs of blocks `layers`, filled by the forward pass inside, which ends at the highest of them."""
    states: States = {}
    token = REQUESTED.set((layers, states))
    try:
        with suppress(StopForward):
            yield states
    finally:
        REQUESTED.reset(token)


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, transformer blocks) of a model: the longest ModuleList inside it."""
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    return max(found, key=lambda pair: (len(pair[1]), -pair[0].count(".")))


def install(module: nn.Module) -> None:
    """Register the hook on every block."""
    for layer, block in enumerate(blocks_of(module)[1]):
        block.register_forward_pre_hook(partial(tap, layer), with_kwargs=True)


def tap(layer: int, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Store the input of a block where it is requested. Raises StopForward at the highest layer requested."""
    requested = REQUESTED.get()
    if requested is None or layer not in requested[0]:
        return
    layers, states = requested
    given = arguments[0] if arguments else keywords["hidden_states"]
    states[layer] = given.reshape(-1, given.shape[-1])
    if layer == max(layers):
        raise StopForward
