"""Where a GPU's time goes, by torch's profiler: kernels by group, and the rest, in which it waits for the host."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_steps.place import wait

GROUPS = {  # the first that a kernel's name matches; what matches none is elementwise
    "de-quantising": r"dequant",
    "attention": r"flash|fmha|sdpa|attention|attn",
    "products": r"gemm|nvjet|cutlass|xmma|gemv|splitk|cublas",
    "optimiser": r"optimizer|multi_tensor|adam",
    "copies to and from the host": r"memcpy (htod|dtoh)",
}
ELEMENTWISE = "elementwise, norms and sums"
LARGEST = 12  # kernels that are named one by one


def group_of(kernel: str) -> str:
    """The group of a kernel, by its name."""
    return next((group for group, words in GROUPS.items() if re.search(words, kernel.lower())), ELEMENTWISE)


class Profile:
    """The kernels of some updates."""

    def __init__(self, device: torch.device, updates: int) -> None:
        self.device, self.updates = device, updates
        self.wall = 0.0  # seconds
        self.kernels: dict[str, tuple[int, float]] = {}  # name -> (launches, seconds)
        self._seen: profile | None = None
        self._began = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._seen = profile(activities=[ProfilerActivity.CUDA])  # the host's own operations would slow it down
        wait(self.device)
        self._seen.start()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """End, and add up the kernels; what torch or a user named (`Optimizer.step`) is not one."""
        wait(self.device)
        self.wall = time.perf_counter() - self._began
        assert self._seen is not None
        self._seen.stop()
        found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        for event in self._seen.events() or []:
            if event.device_type != DeviceType.CUDA or getattr(event, "is_user_annotation", False):
                continue
            if event.name.startswith(("Optimizer.", "ProfilerStep")):
                continue
            count, seconds = found[event.name]
            found[event.name] = count + 1, seconds + event.time_range.elapsed_us() / 1e6
        self.kernels = dict(found)

    @property
    def busy(self) -> float:
        """Share of the time in which a kernel ran, where kernels do not overlap."""
        return sum(seconds for _, seconds in self.kernels.values()) / self.wall

    def figures(self) -> dict[str, Any]:
        """Milliseconds of an update by group, and the kernels that take most."""
        groups: dict[str, float] = defaultdict(float)
        for name, (_, seconds) in self.kernels.items():
            groups[group_of(name)] += seconds / self.updates * 1e3
        wall = self.wall / self.updates * 1e3
        largest = sorted(self.kernels.items(), key=lambda one: -one[1][1])[:LARGEST]
        return {
            "milliseconds of an update": wall,
            **dict(sorted(groups.items(), key=lambda one: -one[1])),
            "host, the card waits": wall - sum(groups.values()),
            "busy share": self.busy,
            "launches": sum(count for count, _ in self.kernels.values()) / self.updates,
            "largest": {
                name[:120]: [count / self.updates, seconds / self.updates * 1e3] for name, (count, seconds) in largest
            },
        }
