"""Where the numbers are computed, in which precision, and how much memory that took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import torch

from lasttoken.config import Run
from lasttoken.errors import ConfigError
from lasttoken.wording import counted

CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
NO_LIMIT = 2**63
DEVICES = get_args(Run.model_fields["device"].annotation)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, then MPS, then the CPU. Under several processes each takes its own GPU."""
    if name not in DEVICES:
        known = ", ".join(DEVICES)
        raise ConfigError([f"device: {name!r} is not among {known}; to choose a card, set CUDA_VISIBLE_DEVICES=1"])
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["device: 'cuda' asked for, but torch sees no CUDA device; use --device cpu or auto"])
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device: 'mps' asked for, but torch offers none here; use --device cpu or auto"])
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it natively, else float32. Never float16: its range is what makes heads NaN."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16 if int(platform.mac_ver()[0].partition(".")[0] or 0) >= 14 else torch.float32


def describe_device(device: torch.device) -> str:
    """A device in words, such as `NVIDIA H200` or `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = counted(torch.get_num_threads(), "thread", "threads")
    return f"cpu ({threads})" if device.type == "cpu" else device.type


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has free; None where the system does not say. Of a container, what its limit leaves.

    What torch has taken of a GPU and holds for later is free too.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "cpu" and (path := Path("/proc/meminfo")).exists():
        (line,) = [line for line in path.read_text().splitlines() if line.startswith("MemAvailable:")]
        limit, used = container_memory()
        return min(int(line.split()[1]) * 1024, limit - used)
    return None


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all, or that the container may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), container_memory()[0])


def container_memory() -> tuple[int, int]:
    """(bytes that this process's container may take, bytes that it has taken): cgroup v2 or v1. Without a limit (2^63, 0)."""
    for limit, used in CGROUPS:
        try:
            told, taken = int((CGROUP / limit).read_text()), int((CGROUP / used).read_text())
            stat = (CGROUP / used).with_name("memory.stat").read_text().split()
        except (OSError, ValueError):  # no such file, or `max`
            continue
        cached = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0  # given up when needed
        return told, max(0, taken - cached)
    return NO_LIMIT, 0


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement for `peak_memory`, where the system allows it (CUDA; Linux), earlier models let go."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError, AttributeError):  # what is free goes back to the system, where its C library can
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # some containers forbid it; the peak is then that of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> dict[str, int | str | None]:
    """Peak bytes since `reset_peak`: allocated and reserved on a GPU, resident set of the process elsewhere."""
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device)
        return {"kind": "allocated", "bytes": torch.cuda.max_memory_allocated(device), "reserved": reserved}
    return {"kind": "resident", "bytes": peak_resident(), "reserved": None}


def peak_resident() -> int:
    """Bytes of the largest resident set: since the last reset on Linux, of the process's life elsewhere."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
