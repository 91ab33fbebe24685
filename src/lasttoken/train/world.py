"""The processes that train together, under `accelerate launch` or alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process and how many there are. With `size` 1 every method does nothing."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # where sums over processes are made: NCCL has them on GPUs only

    @property
    def share(self) -> tuple[int, int]:
        """(rank, size), for those who deal out work."""
        return self.rank, self.size

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes, in place, its sum over all processes."""
        if self.size > 1:
            for tensor in tensors:
                shared = tensor.to(self.device)
                torch.distributed.all_reduce(shared)
                tensor.copy_(shared)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE = World()


def join(device: torch.device) -> World:
    """The world this process was launched into (WORLD_SIZE and RANK in the environment), joined once."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return World(state.process_index, state.num_processes, str(device))
