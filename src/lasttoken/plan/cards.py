"""What a training may run on: cards by name, with their memory and rates, a plain amount of memory, or this machine.

Figures are those of NVIDIA's data sheets and architecture white papers: dense, without sparsity, bfloat16 with sums in
float32. Cards before Ampere do not compute in bfloat16; there this package computes in float32, and so does the table.
"""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass

import torch

from lasttoken.errors import ConfigError
from lasttoken.model.device import choose_dtype, describe_device, device_memory, free_memory

ROOM = 0.95  # of a card's nominal memory: CUDA's context and, on T4, L4 and A10, error correction take the rest
GROWTH = 1.3e9  # bytes that a process on a CPU comes to hold beside its tensors: code of matrix kernels, freed blocks
SECONDS = 0.4  # that timing this machine's products takes

# name: decimal gigabytes, TFLOP/s in bfloat16 (float32 where marked so), GB/s
CARDS = """
    T4             16     8.1   320  float32
    V100 16GB      16    15.7   900  float32
    V100 32GB      32    15.7   900  float32
    RTX 3080       10    59.5   760
    RTX 3090       24    71     936
    RTX A4000      16    76.7   448
    RTX A5000      24   111.1   768
    RTX A6000      48   154.8   768
    A10            24   125     600
    A10G           24    70     600
    A30            24   165     933
    A40            48   149.7   696
    A100 40GB      40   312    1555
    A100 80GB      80   312    2039
    L4             24   121     300
    L40            48   181     864
    L40S           48   362     864
    RTX 4080       16    97.5   717
    RTX 4090       24   165.2  1008
    RTX 6000 Ada   48   364.2   960
    RTX 5080       16   112.6   960
    RTX 5090       32   209.5  1792
    RTX PRO 6000   96   503.8  1792
    H100           80   989.4  3350
    H100 PCIe      80   756    2000
    H200          141   989.4  4800
    B200          180  2250    8000
"""

SIZES = {"m": 1e6, "mi": 2**20, "g": 1e9, "gi": 2**30}  # bytes
ALIKE = 0.08  # share by which memories differ that are called the same: 24 GB are 24 GiB to some
SMALLEST = 1e8  # bytes of memory that a card may have


@dataclass(frozen=True)
class Card:
    """A device as a plan sees it."""

    name: str
    kind: str  # cuda, cpu or mps
    memory: float  # bytes that it has
    free: float  # bytes of them that a fit may take
    dtype: torch.dtype  # that this package computes in there
    rate: float | None  # FLOP/s of large matrix products; None where it is not known
    bandwidth: float | None  # bytes a second; None where it is not known
    measured: bool = False  # the rate was timed here, and is not a data sheet's


def known_cards() -> list[Card]:
    """The cards of the table, least memory first."""
    cards = []
    for line in CARDS.strip().splitlines():
        name, memory, rate, bandwidth, *rest = re.split(r"\s{2,}", line.strip())
        size = float(memory) * 1e9
        dtype = torch.float32 if rest else torch.bfloat16
        cards.append(Card(name, "cuda", size, ROOM * size, dtype, float(rate) * 1e12, float(bandwidth) * 1e9))
    return sorted(cards, key=lambda card: card.memory)


def cards_of(memory: float) -> list[Card]:
    """The cards of the table with about so many bytes of memory that compute in bfloat16."""
    return [card for card in known_cards() if abs(card.memory / memory - 1) < ALIKE and card.dtype.itemsize == 2]


def find_card(name: str) -> Card:
    """The card that `name` means: `4090`, `NVIDIA A100-SXM4-80GB`, `24GB`. Raises ConfigError with the nearest names."""
    if amount := re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+))\s*(gi?b?|mi?b)\s*", name.lower()):
        size = float(amount[1]) * SIZES[amount[2].rstrip("b")]
        if size < SMALLEST:
            raise ConfigError([f"--gpu: {name!r} is no memory of a card; write it as 24GB"])
        return Card("a card", "cuda", size, ROOM * size, torch.bfloat16, None, None)
    if re.fullmatch(r"\s*\d{1,3}\s*", name):
        raise ConfigError(
            [f"--gpu: {name!r} is no card known here; for a card of {name.strip()} GB write --gpu {name.strip()}GB"]
        )
    cards = {plain(card.name): card for card in known_cards()}
    asked = plain(name)
    for key in (asked, plain(re.sub(r"\b\d+\s*gi?b\b", "", name.lower()))):  # H100 80GB is the only H100
        if key in cards:
            return cards[key]
    begin = [card for key, card in cards.items() if key.startswith(asked)] if asked else []
    if len(begin) == 1:
        return begin[0]
    if begin:
        raise ConfigError([f"--gpu: {name!r} comes as {' and '.join(card.name for card in begin)}; name one of them"])
    near = [cards[key].name for key in difflib.get_close_matches(asked, cards, n=3, cutoff=0.4)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(c.name for c in cards.values())};"
    raise ConfigError([f"--gpu: {name!r} is no card known here; {hint} or give its memory: --gpu 24GB"])


def plain(name: str) -> str:
    """A card's name without what people leave out: maker, series, form, spaces."""
    words = re.sub(r"nvidia|geforce|tesla|quadro|rtx|generation|blackwell|sxm\d?|hbm\d\w?", "", name.lower())
    return re.sub(r"[^a-z0-9]|(?<=\d)gi?b\b", "", words)


def this_machine(device: torch.device) -> Card:
    """What a training would run on here: the memory that is free now, and a rate that is timed on the spot."""
    dtype = choose_dtype(device)
    free, bandwidth = free_memory(device), None
    if device.type == "cuda":
        with_table = {plain(card.name): card.bandwidth for card in known_cards()}
        bandwidth = with_table.get(plain(torch.cuda.get_device_name(device)))
    memory = device_memory(device)
    available = (memory if free is None else free) - (GROWTH if device.type == "cpu" else 0)
    name = describe_device(device)
    return Card(name, device.type, float(memory), available, dtype, timed_rate(device, dtype), bandwidth, measured=True)


def timed_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one large matrix product on `device`, the best of what SECONDS leave time for."""
    size = 8192 if device.type == "cuda" else 512
    a, b = torch.ones(size, size, dtype=dtype, device=device), torch.ones(size, size, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + SECONDS
    float((a @ b)[0, 0])  # the first one chooses a kernel
    while time.perf_counter() < end:
        began = time.perf_counter()
        float((a @ b)[0, 0])  # reading a number waits for the product
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
