"""Distributed training: the processes of `--gpus` or `accelerate launch`, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank and the number of processes. With `size` 1 every method does nothing."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # of sums over processes: NCCL supports GPUs only

    @property
    def share(self) -> tuple[int, int]:
        """(rank, size), for splitting work."""
        return self.rank, self.size

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all processes; one message for all tensors of a dtype."""
        if self.size == 1:
            return
        import torch.distributed

        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1).to(self.device) for tensor in alike])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier()


ALONE = World()
UNSHARED = "train.shard has no effect: this is the only process; --gpus 2 starts two"


def launched() -> bool:
    """Whether this process is one of several in a distributed run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: torch.device | None) -> World:
    """Join the distributed run given by WORLD_SIZE and RANK in the environment; ALONE without one."""
    if not launched():
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=device is None or device.type == "cpu")
    return World(state.process_index, state.num_processes, str(device or "cpu"))
