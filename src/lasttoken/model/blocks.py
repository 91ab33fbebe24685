"""A model's blocks, and the last of them run in full for those tokens alone whose states somebody reads.

Every token needs its keys and values there, because later tokens look at them. What a block does of each token by itself
(the queries, the projection behind attention, the MLP) is done for the tokens that a layout names as read, often one a
text; the others leave the block with states that mean nothing. Attention between the two runs for all. Models are not
patched: hooks gather the tokens before such a layer and put its output back among zeros. Loading shows that a model
gives the same so (model/backbone.py).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

COUNTED = (
    "num_hidden_groups",
    "num_kv_shared_layers",
)  # ALBERT runs one block so often; Gemma 3n's upper ones share keys
KEYS = {
    "k_proj",
    "v_proj",
    "key",
    "value",
    "qkv_proj",
    "query_key_value",
    "c_attn",
    "Wqkv",
}  # what later tokens look at


class Running(threading.local):
    """What this thread runs of a last block."""

    layout: weakref.ref[Any] | None = None  # since attention has begun; a micro-batch that is over takes it along
    part: nn.Module | None = None  # the layer that runs on gathered tokens at the moment
    early: bool = False  # whether such a layer has run before attention began
    full: bool = False  # whether nothing is to be left out


RUNNING = Running()


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, the blocks) of a trunk, or of the encoder inside it: the longest list of modules among its children."""
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    return max(found, key=lambda pair: (len(pair[1]), -pair[0].count(".")))


def shorten(module: nn.Module) -> Callable[[], None]:
    """Have the last block of a trunk run in full for those tokens alone that a layout names; returns what undoes it.

    To be called again once adapters have been put around layers. Does nothing where a block may run more than once.
    """
    config: Any = module.config
    blocks = blocks_of(module)[1]
    handles: list[RemovableHandle] = []
    once = getattr(config, "num_hidden_layers", None) == len(blocks) and not any(
        getattr(config, name, None) for name in COUNTED
    )
    for attention in makes_keys(blocks[-1]) if once else ():
        if not has(attention, enter):
            handles.append(attention.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(blocks[-1].register_forward_hook(leave, always_call=True))
        for part in by_token(blocks[-1]):
            if not has(part, gather):
                handles += [part.register_forward_pre_hook(gather), part.register_forward_hook(put_back)]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def is_shortened(block: nn.Module) -> bool:
    """Whether `shorten` has been at a block."""
    return any(has(attention, enter) for attention in makes_keys(block))


@contextmanager
def in_full() -> Iterator[None]:
    """Whatever this thread runs inside runs in full, as rows do of which more than half is read."""
    RUNNING.full = True
    try:
        yield
    finally:
        RUNNING.full = False


def has(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Whether `hook` runs before a module does."""
    return hook in module._forward_pre_hooks.values()


def makes_keys(block: nn.Module) -> list[nn.Module]:
    """The module in a block that makes keys and values: none, or one."""
    return [module for module in block.modules() if any(name in KEYS for name, _ in module.named_children())]


def by_token(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a block that have weights and treat each token by itself: all but what makes keys and values."""
    for name, child in module.named_children():
        if name in KEYS:
            continue
        if makes_keys(child):
            yield from by_token(child)
        elif any(p.ndim > 1 for p in child.parameters()):
            yield child


def enter(attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Attention begins, before all that is done by token. Not the block: recomputing activations leaves its hooks out."""
    layout = kwargs.get("layout")
    few = getattr(layout, "read", None) is not None and not RUNNING.full
    RUNNING.layout, RUNNING.part = weakref.ref(layout) if few else None, None


def leave(block: nn.Module, args: Any, out: Any) -> None:
    """The block has ended."""
    RUNNING.layout = RUNNING.part = None


def running() -> Any:
    """The layout of the row that runs, where it names tokens as read; else None."""
    return None if RUNNING.layout is None else RUNNING.layout()


def gather(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Of every (..., T, W) that goes into a part the rows that are read."""
    layout = running()
    RUNNING.early |= layout is None
    if layout is None or RUNNING.part is not None:
        return None
    RUNNING.part = part
    return tuple(x.index_select(-2, layout.read) if is_row(x, layout.row) else x for x in args)


def put_back(part: nn.Module, args: Any, out: Tensor) -> Tensor | None:
    """What came out, (..., R, W), at its places in a row of zeros (..., T, W)."""
    layout = running()
    if layout is None or RUNNING.part is not part:
        return None
    RUNNING.part = None
    row = out.new_zeros(*out.shape[:-2], layout.row, out.shape[-1])
    return row.index_copy_(-2, layout.read, out)


def is_row(x: Any, size: int) -> bool:
    """Whether x holds something of every token of a row of `size`."""
    return isinstance(x, torch.Tensor) and x.ndim > 1 and x.shape[-2] == size
