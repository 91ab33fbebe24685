"""Training with compiled blocks, on CUDA only: `torch.compile` fuses a block's element-wise operations.

Untested: no CUDA device has run this yet. On CPUs the gain is smaller than the minutes of compilation (docs/lab.md), so
it is refused there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from lasttoken.errors import ConfigError
from lasttoken.model.attention import NAME, packed_attention
from lasttoken.model.layer_taps import blocks_of

OPAQUE = f"{NAME}_opaque"  # packed attention, excluded from compilation


@contextmanager
def compiled_training(model: Any, device: torch.device) -> Iterator[None]:
    """Compile the blocks of the transformers `model` inside this context.

    Raises ConfigError on a device other than CUDA.
    """
    if device.type != "cuda":
        raise ConfigError([f"train.compile: blocks are compiled on CUDA only, not on {device.type}; set it to false"])
    AttentionInterface.register(OPAQUE, torch.compiler.disable(packed_attention))
    blocks = list(blocks_of(model)[1])
    try:
        model.set_attn_implementation(OPAQUE)
        for block in blocks:
            block.compile(dynamic=True)
        yield
    finally:
        model.set_attn_implementation(NAME)
        for block in blocks:
            block._compiled_call_impl = None
