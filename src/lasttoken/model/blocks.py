"""A model's blocks, and the last of them run in full for those tokens alone whose states somebody reads.

Every token needs its keys and values there, because later tokens look at them. What a block does of each token by itself
(the queries, the projection behind attention, the MLP) is done for the tokens that a layout names as read, often one a
text; the others leave the block with states that mean nothing. Models are not patched: hooks gather the tokens before
such a layer and put its output back among zeros. Loading shows that a model gives the same so (model/backbone.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

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

    read: Tensor | None = None  # (R,) int64, tokens that its layout names as read
    row: int = 0  # T, tokens of the row
    part: nn.Module | None = None  # the layer that runs on gathered tokens at the moment


RUNNING = Running()


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, the blocks) of a trunk, or of the encoder inside it: the longest list of modules among its children."""
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    return max(found, key=lambda pair: (len(pair[1]), -pair[0].count(".")))


def shorten(module: nn.Module) -> Callable[[], None]:
    """Have the last block of a trunk run in full for those tokens alone that a layout names; returns what undoes it.

    To be called again once adapters have been put around layers.
    """
    block = blocks_of(module)[1][-1]
    handles = []
    for attention in makes_keys(block):
        if not has(attention, enter):
            handles.append(attention.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(block.register_forward_hook(leave, always_call=True))
        handles += [
            hook
            for part in by_token(block)
            if not has(part, gather)
            for hook in (part.register_forward_pre_hook(gather), part.register_forward_hook(put_back))
        ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def is_short(block: nn.Module) -> bool:
    """Whether `shorten` has been at a block."""
    return any(has(attention, enter) for attention in makes_keys(block))


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
    RUNNING.read, RUNNING.part = getattr(layout, "read", None), None
    RUNNING.row = 0 if layout is None else layout.row


def leave(block: nn.Module, args: Any, out: Any) -> None:
    """The block has ended: nothing is held on to."""
    RUNNING.read = RUNNING.part = None


def gather(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Of every (..., T, W) that goes into a part the rows that are read."""
    if RUNNING.read is None or RUNNING.part is not None:
        return None
    RUNNING.part = part
    return tuple(x.index_select(-2, RUNNING.read) if is_row(x) else x for x in args)


def put_back(part: nn.Module, args: Any, out: Tensor) -> Tensor | None:
    """What came out, (..., R, W), at its places in a row of zeros (..., T, W)."""
    if RUNNING.read is None or RUNNING.part is not part:
        return None
    RUNNING.part = None
    row = out.new_zeros(*out.shape[:-2], RUNNING.row, out.shape[-1])
    return row.index_copy(-2, RUNNING.read, out)


def is_row(x: Any) -> bool:
    """Whether x holds something of every token of the row."""
    return isinstance(x, torch.Tensor) and x.ndim > 1 and x.shape[-2] == RUNNING.row
