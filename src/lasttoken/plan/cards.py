"""Devices to plan for: a GPU by name, an amount of GPU memory, or this machine.

Rates are from NVIDIA's data sheets, for dense bfloat16 products; for the T4, which is slow in bfloat16, float32.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lasttoken.errors import ConfigError
from lasttoken.model.cpu_rates import cpu_name, kept_rates, threads
from lasttoken.model.host_memory import free_host_memory, host_memory
from lasttoken.wording import closest

ROOM = 0.95  # usable share of a card's nominal memory: CUDA's context and error correction take the rest
GROWTH = 2.0e9  # bytes that training on a CPU needs beside its tensors: Python, libraries, kernels, freed blocks
BFLOAT16 = 4  # speed of bfloat16 products relative to float32, with AVX512-BF16 (Zen 5: 508 against 113 GFLOP/s)
ALIKE = 0.08  # relative difference up to which two memory sizes count as equal: 24 GB may mean 24 GiB
# fmt: off
CARDS = {  # gigabytes, TFLOP/s
    "T4": (16, 8.1), "RTX 4080": (16, 97.5), "RTX 3090": (24, 71), "A10": (24, 125), "L4": (24, 121),
    "RTX 4090": (24, 165.2), "RTX 5090": (32, 209.5), "A100 40GB": (40, 312), "RTX A6000": (48, 154.8),
    "L40S": (48, 362), "A100 80GB": (80, 312), "H100": (80, 989.4), "H200": (141, 989.4), "B200": (180, 2250),
}
# fmt: on


@dataclass(frozen=True)
class Card:
    """The memory and speed of a device."""

    name: str
    kind: str  # cuda, cpu or mps
    memory: float  # bytes in total
    free: float  # bytes that a fit may use
    itemsize: int  # bytes per number in computations: 2 for bfloat16, 4 for float32
    rate: float | None = None  # FLOP/s of large matrix products; None if not known
    count: int = 1  # of such cards, one process on each


def known_cards(memory: float | None = None, *, count: int = 1) -> list[Card]:
    """The cards in CARDS, least memory first. memory: only those of about that many bytes, and with bfloat16."""
    sizes = [(name, gb * 1e9, 4 if name == "T4" else 2, rate * 1e12) for name, (gb, rate) in CARDS.items()]
    cards = [Card(name, "cuda", size, ROOM * size, item, rate, count) for name, size, item, rate in sizes]
    return [c for c in cards if memory is None or (abs(c.memory / memory - 1) < ALIKE and c.itemsize == 2)]


def find_card(name: str) -> Card:
    """The card that `name` means: `4090`, `NVIDIA A100-SXM4-80GB`, `24GB`. Raises ConfigError with the nearest name."""
    amount = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(gi?|mi?)b\s*", name.lower())
    if amount and float(amount[1]):
        size = float(amount[1]) * {"m": 1e6, "mi": 2**20, "g": 1e9, "gi": 2**30}[amount[2]]
        return Card("a card", "cuda", size, ROOM * size, 2)
    cards, asked = {plain(card.name): card for card in known_cards()}, plain(name)
    for key in (asked, plain(re.sub(r"\b\d+\s*gi?b\b", "", name.lower()))):  # H100 80GB is the only H100
        if key in cards:
            return cards[key]
    if len(begin := [card for key, card in cards.items() if asked and key.startswith(asked)]) == 1:
        return begin[0]
    near = [card.name for card in begin] or [cards[key].name for key in [closest(asked, cards, cutoff=0.4)] if key]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(CARDS)};"
    raise ConfigError([f"--gpu: {name!r} is not a known card; {hint} or give its memory: --gpu 24GB"])


def plain(name: str) -> str:
    """A card's name without maker, series, form factor and spaces, which users often leave out."""
    words = re.sub(r"nvidia|geforce|tesla|quadro|rtx|sxm\d?|pcie|hbm\d\w?", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", words)


def this_machine(asked: str = "auto") -> Card:
    """The device that training would use on this machine. A CPU is timed; a GPU's rate is from CARDS, if listed.

    asked: auto, cpu, cuda or mps. Raises ConfigError if the machine has no such device. torch is imported only if there
    may be a GPU.
    """
    if asked == "cpu" or (asked == "auto" and sys.platform != "darwin" and not Path("/dev/nvidiactl").exists()):
        return this_cpu()
    from lasttoken.model import device as of
    from lasttoken.model.precision import choose_precision

    device = of.choose_device(asked)
    if device.type == "cpu":
        return this_cpu()
    name, memory, free = of.describe_device(device), of.device_memory(device), of.free_memory(device)
    rate = next((card.rate for card in known_cards() if plain(name).startswith(plain(card.name))), None)
    return Card(
        name, device.type, memory, memory if free is None else free, choose_precision(device).dtype.itemsize, rate
    )


def this_cpu() -> Card:
    """This machine's CPU, in its faster precision: float32 or bfloat16.

    The rates are those measured when a model was last loaded. If there are none, float32 is timed with numpy, and
    bfloat16 is assumed to be BFLOAT16 times as fast with AVX512-BF16.
    """
    memory, free = host_memory(), free_host_memory()
    kept = kept_rates(f"{cpu_name()}, {threads()} threads, torch {version('torch')}, ")
    # keys that name the library of float32 products
    measured = [rates for key, rates in kept.items() if " float32, " in key]
    if measured:
        rates = max(measured, key=lambda each: max(each.values()))
        best = max(rates, key=lambda name: rates[name])
        itemsize, rate = (2 if best == "bfloat16" else 4), rates[best]
    else:
        info = Path("/proc/cpuinfo")
        quick = info.exists() and "avx512_bf16" in info.read_text()
        itemsize, rate = (2, BFLOAT16 * float32_rate()) if quick else (4, float32_rate())
    return Card("cpu", "cpu", memory, (memory if free is None else free) - GROWTH, itemsize, rate)


def float32_rate() -> float:
    """FLOP/s of numpy's float32 matrix products. Takes 0.2 s."""
    a = np.ones((512, 512), dtype=np.float32)
    np.dot(a, a)  # the first one starts threads
    best, end = float("inf"), time.perf_counter() + 0.2
    while (began := time.perf_counter()) < end:
        np.dot(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best
