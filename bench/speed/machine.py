"""What the machine can do and what it is: the peak of its matrix products, its name, the versions on it."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lasttoken.model.device import describe_device
from lasttoken.model.precision import choose_precision
from lasttoken.model.products import linear
from lasttoken.studies.one import git_commit

SIZES = (1024, 2048, 3072)  # of square products on a CPU; the best counts
LIBRARIES = "lasttoken torch transformers peft bitsandbytes accelerate trl sentence-transformers numpy".split()


def peak_flops(device: torch.device, sizes: Sequence[int], repeats: int = 3) -> float:
    """FLOP/s of the fastest square matrix product in the dtype that models compute in (bfloat16 where it is native)."""
    dtype, best = choose_precision(device).dtype, 0.0
    for size in sizes:
        a = torch.randn(size, size, device=device).to(dtype)
        b = torch.randn(size, size, device=device).to(dtype)
        linear(a, b)
        for _ in range(repeats):
            wait(device)
            began = time.perf_counter()
            linear(a, b)
            wait(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def wait(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def about(device: torch.device) -> dict[str, Any]:
    """What a result file says of where it was measured."""
    return {
        "machine": {
            "cpu": cpu_name(),
            "device": describe_device(device),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "dtype": str(choose_precision(device).dtype).removeprefix("torch."),
        },
        "versions": {name: version_of(name) for name in LIBRARIES},
        "commit": git_commit(),
    }


def cpu_name() -> str:
    """The processor's name, from Linux where that is the system."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def version_of(name: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
