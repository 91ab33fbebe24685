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
world.add([a, b])
world.wait()
print(world.share, a.tolist(), b.tolist(), flush=True)
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
    assert said == ["(0, 2) [3.0] [10.0, 2.0]", "(1, 2) [3.0] [10.0, 2.0]"]
