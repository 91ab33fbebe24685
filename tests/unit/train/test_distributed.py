"""Processes that train together: alone, nothing happens; two, on this machine, add up."""

import os
import subprocess
import sys

import pytest
import torch

from lasttoken.train.distributed import World, join

TWO = """
import torch
from lasttoken.train.distributed import join
world = join(torch.device("cpu"))
a, b = torch.tensor([1.0 + world.rank]), torch.tensor([10.0 * world.rank, 1.0], dtype=torch.float64)
c = torch.ones(2, 3).t()[:, :1] * (1 + world.rank)  # not contiguous
messages, reduce = [], torch.distributed.all_reduce
torch.distributed.all_reduce = lambda flat: (messages.append(len(flat)), reduce(flat))
world.add([a, b, c])
world.wait()
print(world.share, a.tolist(), b.tolist(), c.tolist(), messages, flush=True)
torch.distributed.destroy_process_group()
"""


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join(torch.device("cpu"))
    assert world == World(0, 1)
    assert world.share == (0, 1)
    tensor = torch.tensor([3.0])
    world.add([tensor])
    world.wait()
    assert tensor.item() == 3.0


def test_two_processes_add_up() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in running]
    sums = "[3.0] [10.0, 2.0] [[3.0], [3.0], [3.0]] [4, 2]"  # and the lengths of the messages, one a dtype
    assert said == [f"(0, 2) {sums}", f"(1, 2) {sums}"]
