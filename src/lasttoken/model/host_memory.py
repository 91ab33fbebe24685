"""Main memory of this machine, or of the process's container. Without torch, for `lasttoken plan`."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
NO_LIMIT = 2**63


def free_host_memory() -> int | None:
    """Free main memory in bytes, within the container's limit; None if unknown."""
    if not (path := Path("/proc/meminfo")).exists():
        return None
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("MemAvailable:")]
    limit, used = container_memory()
    return min(int(line.split()[1]) * 1024, limit - used)


def host_memory() -> int:
    """Total main memory in bytes, or the container's limit."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), container_memory()[0])


def container_memory() -> tuple[int, int]:
    """(limit, use) of this process's container in bytes, from cgroup v2 or v1; (2^63, 0) without a limit."""
    for limit, used in CGROUPS:
        try:
            most, taken = int((CGROUP / limit).read_text()), int((CGROUP / used).read_text())
            stat = (CGROUP / used).with_name("memory.stat").read_text().split()
        except (OSError, ValueError):  # no such file, or `max`
            continue
        cached = (
            int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
        )  # the kernel frees it when needed
        return most, max(0, taken - cached)
    return NO_LIMIT, 0
