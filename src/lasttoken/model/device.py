"""Device and memory: their choice and their measurement."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lasttoken.config.run import Run
from lasttoken.errors import ConfigError
from lasttoken.model.host_memory import free_host_memory, host_memory
from lasttoken.wording import counted

if TYPE_CHECKING:
    import numpy as np
    import torch

DEVICES = get_args(Run.model_fields["device"].annotation)


def choose_device(name: str = "auto") -> torch.device:
    """The torch device; `auto` is the first available of CUDA, MPS, CPU. Each of several processes gets its own GPU.

    Raises ConfigError on an unknown or unavailable device.
    """
    if name not in DEVICES:
        known = ", ".join(DEVICES)
        raise ConfigError([f"device: {name!r} is not among {known}; to choose a card, set CUDA_VISIBLE_DEVICES=1"])
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["device: 'cuda' asked for, but torch sees no CUDA device; use --device cpu or auto"])
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device: 'mps' asked for, but torch offers none here; use --device cpu or auto"])
    if name == "cuda":
        # modulo: a process that sees only its own card has it as number 0
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name)


def put(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device; on a GPU copied from pinned memory, without waiting for the GPU."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def describe_device(device: torch.device | None) -> str:
    """Name of a device, such as `NVIDIA H200` or `cpu (2 threads)`; None is the CPU of a method without torch."""
    if device is None:
        return "cpu"
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = counted(torch.get_num_threads(), "thread", "threads")
    return f"cpu ({threads})" if device.type == "cpu" else device.type


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes, within a container's limit; None if unknown.

    GPU memory that torch has reserved but not allocated counts as free.
    """
    if device.type == "cuda":
        import torch

        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_host_memory() if device.type == "cpu" else None


def device_memory(device: torch.device) -> int:
    """Total memory of the device in bytes, or the container's limit."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return host_memory()


@dataclass(frozen=True)
class Peak:
    """Peak memory use, in bytes."""

    bytes: int
    kind: Literal["allocated", "resident"]  # allocated: on a GPU; resident: of the process
    reserved: int | None = None  # by torch on a GPU, at peak


def reset_peak(device: torch.device | None) -> None:
    """Free unused memory and start a new measurement for `peak_memory`, where the system allows it (CUDA; Linux).

    device: None for a method without torch.
    """
    gc.collect()
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError, AttributeError):  # return free heap memory to the system (glibc)
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # some containers forbid it; the peak is then that of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device | None) -> Peak:
    """Peak since `reset_peak`: allocated and reserved on a GPU, resident set of the process elsewhere."""
    if device is not None and device.type == "cuda":
        import torch

        return Peak(torch.cuda.max_memory_allocated(device), "allocated", torch.cuda.max_memory_reserved(device))
    return Peak(peak_resident(), "resident")


def peak_resident() -> int:
    """Peak resident set in bytes: since the last reset on Linux, over the process's life elsewhere."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
