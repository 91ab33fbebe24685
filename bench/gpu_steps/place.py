"""Where a step runs, how large its work is, and its figures, which are written to a file as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

NEEDS_CUDA = {"skipped": "needs CUDA"}


@dataclass(eq=False)
class Place:
    """A device, whether work is at toy size, and what was found."""

    device: torch.device
    toy: bool
    out: Path  # file of the figures
    work: Path  # folder that is removed at the end
    data: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    aims: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(device: str, toy: bool, out: Path, work: Path, data: Path | None) -> Place:
        """The place that was asked for. Raises RuntimeError without the device."""
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                "--device cuda: torch sees no CUDA device; --device cpu --size toy shows that the code runs"
            )
        return Place(torch.device("cuda", 0) if device == "cuda" else torch.device("cpu"), toy, out, work, data)

    def note(self, name: str, value: Any, aim: str = "") -> None:
        """Keep a figure, in the file too, and print it beside its aim."""
        self.figures[name] = value
        if aim:
            self.aims[name] = aim
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps({"figures": self.figures, "aims": self.aims}), encoding="utf-8")
        part.replace(self.out)
        print(f"  {name}: {told(value)}{f' (aim: {aim})' if aim else ''}", flush=True)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def quantize(self) -> Literal["nf4", "none"]:
        """NF4, or what is left without bitsandbytes."""
        return "nf4" if find_spec("bitsandbytes") else "none"

    @property
    def optimizer(self) -> Literal["adamw8bit", "adamw"]:
        """8-bit AdamW where there is one."""
        return "adamw8bit" if self.cuda and find_spec("bitsandbytes") else "adamw"

    @cached_property
    def peak(self) -> float:
        """FLOP/s of the fastest large matrix product in bfloat16, here and now."""
        sizes = (256,) if self.toy else (4096, 8192)
        return max(product_rate(size, size, size, torch.bfloat16, self.device) for size in sizes)


def told(value: Any) -> str:
    """A figure in short words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return ", ".join(map(told, value)) if isinstance(value, list | tuple) else str(value)


def wait(device: torch.device) -> None:
    """Returns when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long `work` takes, the device's part included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def typical(work: Callable[[], Any], device: torch.device, *, runs: int = 5, repeats: int = 10) -> float:
    """Seconds of one `work`: the median of `runs` of `repeats` each, after a warm-up."""
    work()
    return median(seconds_of(lambda: [work() for _ in range(repeats)], device) for _ in range(runs)) / repeats


def product_rate(tokens: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of (tokens, inputs) x (inputs, outputs)."""
    x = torch.randn(tokens, inputs, device=device).to(dtype)
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    return 2 * tokens * inputs * outputs / typical(lambda: torch.nn.functional.linear(x, weight), device)
