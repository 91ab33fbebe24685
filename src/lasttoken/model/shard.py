"""Frozen weights split over the processes of a run, by torch's FSDP2, for a model that does not fit one GPU.

Each process keeps its share of every block, in 4 bits where the model is quantised, and gathers a block's weights while
that block runs. Adapter and head stay whole in every process, so gradients, optimiser, checkpoints and saving are those
of a model that is not split. All processes must run equally many forward passes: see `infer/batches.py`, `text/batch.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lasttoken.model.layer_taps import blocks_of


def shard(model: nn.Module, trunk: nn.Module, device: torch.device, size: int) -> None:
    """Split the blocks of `trunk`, in host memory, over `size` processes; each moves its share to its device.

    The rest of `model` goes there whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blocks, packed = blocks_of(trunk)[1], []  # packed: 4-bit layers, and what PEFT asks of their weights
    for layer in blocks.modules():
        weight: Any = getattr(layer, "weight", None)
        if (state := getattr(weight, "quant_state", None)) is not None:
            state.to(device)
            layer.quant_state = state  # bitsandbytes finds it here when the gathered weight has none
            packed.append((layer, {name: getattr(weight, name) for name in ("compress_statistics", "quant_type")}))
    mesh = init_device_mesh(device.type, (size,))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)  # by default a root keeps what it gathered
    for layer, values in packed:
        for name, value in values.items():
            setattr(layer.weight, name, value)
    inside = set(blocks.modules())
    for part in model.modules():
        if part not in inside:
            move(part, device)


def move(part: nn.Module, device: torch.device) -> None:
    """Move a module's own weights and buffers, and not those of its children."""
    for weight in part.parameters(recurse=False):
        weight.data = weight.data.to(device)
    for name, buffer in part.named_buffers(recurse=False):
        part.register_buffer(name, buffer.to(device), persistent=name not in part._non_persistent_buffers_set)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has split a part of the module."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())
