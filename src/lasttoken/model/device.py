"""Where the numbers are computed, in which precision, and how much memory that took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from lasttoken.errors import ConfigError
from lasttoken.wording import counted


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, then MPS, then the CPU. Under several processes each takes its own GPU."""
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
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
