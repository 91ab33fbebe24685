"""A backbone cut between two of its blocks: hidden states on the way, an early exit, and the part above a block alone.

Models are not patched: hooks read what enters a block, an exception ends a forward whose rest nobody asked for, and
the upper part is the same modules under a shallow copy. Whether a model may be cut is shown by running it both ways.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError, ModelError
from lasttoken.model.attention import Layout, lay_out
from lasttoken.model.backbone import Backbone, close, to_tensor
from lasttoken.model.blocks import blocks_of


class Reached(Exception):
    """Ends a forward early."""


def depth_of(backbone: Backbone) -> int:
    """How many blocks the backbone has."""
    return len(blocks_of(backbone.module)[1])


@contextmanager
def tapped(backbone: Backbone, layers: Sequence[int]) -> Iterator[Callable[[Tensor, Layout], list[Tensor]]]:
    """A function (inputs, layout) -> hidden states (T, H) at each of `layers`: k is what enters block k, the last one what leaves.

    Blocks above the highest that is asked for do not run. Several threads may call it at once.
    """
    _, blocks = blocks_of(backbone.module)
    found = threading.local()  # .states: layer -> what this thread's forward had there

    def keep(layer: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = arguments[0] if arguments else named["hidden_states"]
        found.states[layer] = states.reshape(-1, states.shape[-1])
        if layer == max(layers):
            raise Reached

    def run(inputs: Tensor, layout: Layout) -> list[Tensor]:
        found.states = {}
        with suppress(Reached):
            found.states[len(blocks)] = backbone.hidden(inputs, layout)
        return [found.states[k][: len(inputs)] for k in layers]  # without the layout's filler

    hooks = [
        blocks[k].register_forward_pre_hook(lambda _, args, named, k=k: keep(k, args, named), with_kwargs=True)
        for k in set(layers)
        if k < len(blocks)
    ]
    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()


def with_blocks(backbone: Backbone, chosen: Sequence[int]) -> Backbone:
    """The backbone with the chosen blocks alone, sharing its modules. Its blocks must stand in the model itself."""
    name, blocks = blocks_of(backbone.module)
    part: Any = copy.copy(backbone.module)
    part._modules = dict(backbone.module._modules)
    setattr(part, name, nn.ModuleList(blocks[i] for i in chosen))
    part.config = copy.copy(backbone.config)
    part.config.num_hidden_layers = len(chosen)
    if kinds := getattr(backbone.config, "layer_types", None):  # some models look up a block's kind by its number
        part.config.layer_types = [kinds[i] for i in chosen]
    return replace(backbone, module=part)


def check_cut(backbone: Backbone, block: int) -> None:
    """Raises ConfigError where a cut below `block` leaves no block on one of its sides."""
    depth = depth_of(backbone)
    if not 0 < block < depth:
        raise ConfigError(
            [f"trunk: {block} asked for, but {backbone.name} has {depth} blocks; use 1 to {depth - 1}, or 0"]
        )


def above(backbone: Backbone, block: int) -> Backbone:
    """The part of the backbone from `block` on, sharing its modules: it takes hidden states (T, H) in the place of tokens.

    Raises ConfigError where no block is left, ModelError where the two parts do not give what the whole gives.
    """
    check_cut(backbone, block)
    name, blocks = blocks_of(backbone.module)
    if "." in name:
        raise ModelError(f"trunk: model {backbone.name!r} keeps its blocks in {name!r}, where they cannot be cut")
    part = with_blocks(backbone, range(block, len(blocks)))
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, int(backbone.config.vocab_size), n) for n in (7, 5)]
    layout = lay_out([len(text) for text in texts], causal=backbone.causal, device=backbone.device)
    tokens = to_tensor(np.concatenate(texts), backbone)
    with torch.no_grad(), backbone.autocast(), tapped(backbone, [block, len(blocks)]) as run:
        entering, leaving = run(tokens, layout)
    with torch.no_grad(), backbone.autocast():
        try:
            exact = close(part.hidden(entering, layout), leaving)
        except (IndexError, RuntimeError, TypeError, ValueError):
            exact = False
    if not exact:
        raise ModelError(
            f"trunk: model {backbone.name!r} ({backbone.config.model_type}) does more than run its blocks (positions or "
            "scales added to its input), so its lower part cannot be kept; use trunk=0"
        )
    return part
