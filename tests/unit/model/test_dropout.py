"""Dropout by a hash: the Triton kernel drops what torch's form of it says; the share, and independence of neighbours."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from lasttoken.model import dropout
from lasttoken.model.dropout import draw, drop, keep_by_hash

KERNEL = """
import torch
from lasttoken.model import dropout
for dtype in (torch.float32, torch.bfloat16):
    x = torch.randn(37, 101).to(dtype)
    for seed, threshold in ((0, 26), (2**31 - 1, 128), (12345, 255)):
        kept = dropout.keep_by_hash(x.numel(), seed, threshold).view(x.shape)
        assert torch.equal(dropout.drop(x, torch.tensor(seed), threshold), x * kept)
        wide = x.t()  # with gaps in memory
        assert torch.equal(dropout.drop(wide, torch.tensor(seed), threshold).flatten(), (wide.flatten() * kept.flatten()))
assert dropout.works(torch.device("cpu"))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_drops_what_the_hash_says() -> None:
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}  # on a CPU, by Triton's interpreter
    done = subprocess.run([sys.executable, "-c", KERNEL], env=interpreted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_hash_drops_the_share_and_no_neighbours_together() -> None:
    for seed in (1, 2, 2**31 - 1):
        kept = keep_by_hash(100_000, seed, 64).double()
        # standard deviations: of the mean .0014, of a correlation .0032
        assert float(kept.mean()) == pytest.approx(0.75, abs=0.006)
        for lag in (1, 64, 576):
            assert float(torch.corrcoef(torch.stack([kept[:-lag], kept[lag:]]))[0, 1]) == pytest.approx(0, abs=0.015)
    first, second = (keep_by_hash(100_000, seed, 64).double() for seed in (1, 2))
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) == pytest.approx(0, abs=0.015)


def test_a_gpu_takes_a_seed_where_the_kernel_works_and_else_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, cpu = torch.Size([5, 7]), torch.device("cpu")
    assert draw(shape, 26, cpu).shape == shape
    cuda = torch.device("cuda")
    monkeypatch.setattr(dropout, "works", lambda device: device == cuda)
    torch.manual_seed(0)
    first, second = draw(shape, 26, cuda), draw(shape, 26, cuda)
    assert (first.ndim, first.device.type) == (0, "cpu")
    assert int(first) != int(second)
    torch.manual_seed(0)
    assert int(draw(shape, 26, cuda)) == int(first)


def test_without_a_kernel_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("no module named triton")

    monkeypatch.setattr(dropout, "kernel", missing)
    assert not dropout.works.__wrapped__(torch.device("cpu"))
    assert torch.equal(drop(torch.ones(2), None, 26), torch.ones(2))
