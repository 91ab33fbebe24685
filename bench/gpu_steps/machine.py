"""What the machine is and what it can do at most: every other figure is a share of these."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu_steps.place import NEEDS_CUDA, Place, product_rate, typical

LIBRARIES = "lasttoken torch transformers peft bitsandbytes accelerate triton tokenizers numpy".split()
BLOCK = {"q, o": (4096, 4096), "k, v": (4096, 1024), "gate, up": (4096, 14336), "down": (14336, 4096)}  # Llama-3.1-8B
ROWS = {"8 x 512 tokens": 4096, "8 x 70 tokens": 560}


def look(place: Place) -> None:
    """Versions, and the rates of copies, products, de-quantisation and launches."""
    place.note("versions", {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}})
    place.note("card", card(place))
    scale = 64 if place.toy else 1
    for dtype in (torch.bfloat16, torch.float32):
        for told, tokens in ROWS.items():
            rates = {
                name: product_rate(max(8, tokens // scale), inputs // scale, outputs // scale, dtype, place.device)
                / 1e12
                for name, (inputs, outputs) in BLOCK.items()
            }
            place.note(f"products in {str(dtype).removeprefix('torch.')}, {told}, TFLOP/s", rates)
    place.note("best product in bfloat16, TFLOP/s", place.peak / 1e12)
    place.note("host to device, GB/s", copies(place) if place.cuda else NEEDS_CUDA)
    place.note("launch of one kernel, microseconds", launch(place) if place.cuda else NEEDS_CUDA)
    place.note("de-quantising NF4, GB/s", unpacking(place, 14336 // scale, 4096 // scale))


def version_of(name: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def card(place: Place) -> dict[str, Any]:
    """Name, memory and driver of the card, and the processor beside it."""
    found: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if not place.cuda:
        return {"name": "cpu", **found}
    properties = torch.cuda.get_device_properties(place.device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        driver = None
    return {
        "name": properties.name,
        "GB": properties.total_memory / 1e9,
        "capability": list(torch.cuda.get_device_capability(place.device)),
        "driver": driver,
        "cuda": torch.version.cuda,
        **found,
    }


def copies(place: Place) -> dict[str, float]:
    """GB/s from ordinary and from pinned memory."""
    size = 1 << 28
    target = torch.empty(size, dtype=torch.uint8, device=place.device)
    sources = {
        "ordinary": torch.zeros(size, dtype=torch.uint8),
        "pinned": torch.zeros(size, dtype=torch.uint8).pin_memory(),
    }

    def into(source: torch.Tensor) -> Callable[[], Any]:
        return lambda: target.copy_(source, non_blocking=True)

    return {name: size / typical(into(one), place.device, runs=3, repeats=2) / 1e9 for name, one in sources.items()}


def launch(place: Place) -> float:
    """Microseconds of one launch: a thousand additions of one number."""
    one = torch.zeros(1, device=place.device)
    return typical(lambda: one.add_(1), place.device, repeats=1000) * 1e6


def unpacking(place: Place, outputs: int, inputs: int) -> dict[str, float]:
    """GB/s that are written in bfloat16, and the share of a product's time at 8 x 512 tokens."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(outputs, inputs, device=place.device).to(torch.bfloat16)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    seconds = typical(lambda: dequantize_4bit(packed, state), place.device)
    product = 2 * 4096 * weight.numel() / place.peak
    return {
        "written": weight.nbytes / seconds / 1e9,
        "seconds": seconds,
        "of a product's time at the peak": seconds / product,
    }
