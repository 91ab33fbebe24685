"""What matrix products were measured to reach on this CPU, kept in the cache folder: read without torch, so that `plan` can.

A key names the processor, the threads, and what a figure depends on besides.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lasttoken.paths import cache_folder
from lasttoken.record.atomic import writing_file

Rates = dict[str, float]  # floating-point operations a second by precision: float32, bfloat16
NAMES = ("float32", "bfloat16")


def cpu_name() -> str:
    """The processor's model name."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def threads() -> int:
    """Number of threads that torch will use: OMP_NUM_THREADS, where it is set, else the cores of this process."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else cores


def kept_rates(begin: str) -> dict[str, Rates]:
    """The rates kept under keys that begin so; none where the file is missing or damaged."""
    with suppress(OSError, ValueError):
        found = json.loads(kept_file().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {key: rates for key, rates in found.items() if key.startswith(begin) and are_rates(rates)}
    return {}


def keep_rates(key: str, rates: Rates) -> None:
    """Add the rates to those that are kept, unless the cache cannot be written."""
    with suppress(OSError):
        kept_file().parent.mkdir(parents=True, exist_ok=True)
        with writing_file(kept_file()) as stream:
            stream.write(json.dumps({**kept_rates(""), key: rates}, indent=1).encode())


def kept_file() -> Path:
    """Where rates are kept."""
    return cache_folder() / "precision.json"


def are_rates(found: Any) -> bool:
    """Whether a value of the file is a rate for each precision."""
    return (
        isinstance(found, dict)
        and set(found) == set(NAMES)
        and all(isinstance(rate, float) and 0 < rate < float("inf") for rate in found.values())
    )
