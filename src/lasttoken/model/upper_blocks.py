"""The upper blocks of a backbone as a separate backbone with shared modules.

Models are not patched: the upper part is a shallow copy with the same modules, checked against the whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lasttoken.errors import ConfigError, ModelError
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.layout import lay_out
from lasttoken.model.verify import close


def with_blocks(backbone: Backbone, chosen: Sequence[int]) -> Backbone:
    """The backbone with the chosen blocks only, sharing its modules. The block list must be a child of the model."""
    name, blocks = blocks_of(backbone.module)
    part: Any = copy.copy(backbone.module)
    part._modules = dict(backbone.module._modules)
    setattr(part, name, nn.ModuleList(blocks[i] for i in chosen))
    part.config = copy.copy(backbone.config)
    part.config.num_hidden_layers = len(chosen)
    if kinds := getattr(backbone.config, "layer_types", None):  # some models look up a block's type by its number
        part.config.layer_types = [kinds[i] for i in chosen]
    return replace(backbone, module=part)


def check_cut(backbone: Backbone, block: int) -> None:
    """Raises ConfigError if a cut below `block` leaves no block on one side."""
    depth = backbone.depth
    if not 0 < block < depth:
        raise ConfigError(
            [f"trunk: {block} asked for, but {backbone.name} has {depth} blocks; use 1 to {depth - 1}, or 0"]
        )


def above(backbone: Backbone, block: int) -> Backbone:
    """The backbone from `block` on, sharing its modules; its input is hidden states (T, H) instead of tokens.

    Raises ConfigError if no block is left, ModelError if the two parts differ from the whole model.
    """
    check_cut(backbone, block)
    name, blocks = blocks_of(backbone.module)
    if "." in name:
        raise ModelError(
            f"trunk: model {backbone.name!r} has its blocks in {name!r}, where they cannot be split; use trunk=0"
        )
    part = with_blocks(backbone, range(block, len(blocks)))
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, int(backbone.config.vocab_size), n) for n in (7, 5)]
    layout = lay_out([len(text) for text in texts], causal=backbone.causal, device=backbone.device)
    tokens = to_tensor(np.concatenate(texts), backbone)
    with torch.no_grad(), backbone.autocast():
        entering, leaving = backbone.hidden_at([block, len(blocks)], tokens, layout)
    with torch.no_grad(), backbone.autocast():
        try:
            exact = close(part.hidden(entering, layout), leaving)
        except (IndexError, RuntimeError, TypeError, ValueError):
            exact = False
    if not exact:
        raise ModelError(
            f"trunk: model {backbone.name!r} ({backbone.config.model_type}) does more than run its blocks (it adds "
            "positions or scales to its input), so its lower blocks cannot be cached; use trunk=0"
        )
    return part
