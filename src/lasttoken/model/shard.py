"""Frozen weights split over the processes of a run, by torch's FSDP2, for a model that does not fit one GPU.

Each process keeps its share of every block, in 4 bits where the model is quantised, and gathers a block's weights while
that block runs. Adapter and head stay whole in every process, so gradients, optimiser, checkpoints and saving are those
of a model that is not split. All processes must run equally many forward passes: see `infer/batches.py`, `text/batch.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lasttoken.model.layer_taps import blocks_of


def shard(module: nn.Module, device: torch.device, size: int) -> None:
    """Split the blocks of a model in host memory over `size` processes, one after the other onto their devices."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    packed: list[tuple[Any, dict[str, Any]]] = []  # 4-bit layers, and what PEFT asks of their weights
    for layer in module.modules():
        weight: Any = getattr(layer, "weight", None)
        if (state := getattr(weight, "quant_state", None)) is not None:
            state.to(device)
            layer.quant_state = state  # bitsandbytes finds it here when the gathered weight has none
            packed.append((layer, {name: getattr(weight, name) for name in ("compress_statistics", "quant_type")}))
    mesh = init_device_mesh(device.type, (size,))
    for block in blocks_of(module)[1]:
        fully_shard(block, mesh=mesh)
    for layer, values in packed:
        for name, value in values.items():
            setattr(layer.weight, name, value)
    for part in outside_blocks(module):
        part.to(device)


def outside_blocks(module: nn.Module) -> list[nn.Module]:
    """The children of a model, and of those that hold its blocks, without the blocks."""
    blocks = blocks_of(module)[1]
    found = []
    for child in module.children():
        if child is blocks:
            continue
        inside = any(part is blocks for part in child.modules())
        found += outside_blocks(child) if inside else [child]
    return found


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has split a part of the module."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(part, FSDPModule) for part in module.modules())


def local(weight: Tensor) -> Tensor:
    """What this process holds of a weight: its share of a split one, else all of it."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight
