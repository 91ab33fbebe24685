"""The precision that a model is computed in: asked for, or on a CPU the one whose matrix products are faster here.

A CPU that has bfloat16 instructions is not always faster by them, so products of both precisions are timed at shapes like
the model's own, once per machine; the figures are kept in the cache folder. A run records what it was computed in, and
predicts in that: `auto` is resolved when a model is fitted, never when it is loaded again.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from lasttoken.errors import ConfigError
from lasttoken.model.cpu_rates import cpu_name, keep_rates, kept_rates
from lasttoken.model.products import linear, one_dnn_linear

OLD_GPU = (
    "precision: float32, because this GPU (older than Ampere) has no bfloat16 and float16 makes heads NaN; its products "
    "run at about an eighth of its 16-bit rate: a GPU of compute capability 8.0 or newer is several times as fast"
)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VARIABLE = "LASTTOKEN_PRECISION"
ROUNDS = 6  # the two take turns; the best time of each counts, so that a neighbour on the machine does not
WORK = 2e8  # floating-point operations of one timed product, at least
SIDES = (1024, 4096)  # the longest sides that are timed: the ratio does not change beyond, the time would
ROWS = 64  # tokens of a timed product, at least


@dataclass(frozen=True)
class Precision:
    """A dtype, and why it was chosen."""

    dtype: torch.dtype
    told: str = ""  # for the user; empty where nothing was measured
    times: float | None = None  # as fast as the other one; None where nothing was measured

    @property
    def name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def choose_precision(
    device: torch.device, asked: str = "auto", shape: tuple[int, int] | None = None, *, measure: bool = True
) -> Precision:
    """What is `asked` for; if that is `auto`, what LASTTOKEN_PRECISION says; else the faster one on the device.

    shape: (input, output) features of a large linear layer of the model; None is that of a small one. bfloat16 wherever it
    is native: on a GPU, without `measure`, and in one of several processes, which could each measure something else. Never
    float16, whose narrow range makes heads NaN. Raises ConfigError if LASTTOKEN_PRECISION is no precision.
    """
    if asked == "auto":
        asked = os.environ.get(VARIABLE) or "auto"
    if asked in PRECISIONS:
        return Precision(PRECISIONS[asked])
    if asked != "auto":
        raise ConfigError([f"{VARIABLE}: {asked!r} is not among auto, {', '.join(PRECISIONS)}"])
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(torch.bfloat16) if native else Precision(torch.float32, OLD_GPU)
    if device.type == "mps":
        return Precision(torch.bfloat16 if int(platform.mac_ver()[0].partition(".")[0] or 0) >= 14 else torch.float32)
    if not torch.cpu._is_avx512_bf16_supported():
        return Precision(torch.float32)
    if not measure or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Precision(torch.bfloat16)
    return faster(rates(shape or (512, 1024)))


def faster(measured: dict[str, float]) -> Precision:
    """The precision with the higher rate; bfloat16 of two within a twentieth, because it halves the weights.

    measured: floating-point operations a second by precision.
    """
    ratio = measured["bfloat16"] / measured["float32"]
    best, other = ("bfloat16", "float32") if ratio >= 0.95 else ("float32", "bfloat16")
    figures = {name: f"{rate / 1e9:.0f}" for name, rate in measured.items()}
    times = max(ratio, 1 / ratio)
    told = (
        f"precision: {best}, whose matrix products run at {figures[best]} GFLOP/s here, {times:.1f} times as fast as "
        f"{other} ({figures[other]})"
    )
    return Precision(PRECISIONS[best], told, times)


def rates(shape: tuple[int, int]) -> dict[str, float]:
    """Floating-point operations a second of products by precision: timed now, or kept from an earlier time on this machine."""
    shape = (min(shape[0], SIDES[0]), min(shape[1], SIDES[1]))
    key = key_of(shape)
    found = kept_rates(key).get(key)
    if found is None:
        found = timed(shape)
        keep_rates(key, found)
    return found


def key_of(shape: tuple[int, int]) -> str:
    """What rates depend on: the CPU, the threads, torch, the library of float32 products, and the shape."""
    library = "torch's own" if one_dnn_linear() is None else "oneDNN's"
    where = f"{cpu_name()}, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}, {library} float32, {shape[0]} x {shape[1]}"


@torch.no_grad()
def timed(shape: tuple[int, int]) -> dict[str, float]:
    """Floating-point operations a second of X W^T in each precision; some 50 ms."""
    features, outputs = shape
    tokens = max(ROWS, int(WORK / (2 * features * outputs)))
    operands = {
        name: (torch.ones(tokens, features, dtype=dtype), torch.ones(outputs, features, dtype=dtype))
        for name, dtype in PRECISIONS.items()
    }
    best = dict.fromkeys(PRECISIONS, float("inf"))
    for attempt in range(ROUNDS + 1):
        for name, (inputs, weight) in operands.items():
            began = time.perf_counter()
            linear(inputs, weight)
            if attempt:  # the first one prepares
                best[name] = min(best[name], time.perf_counter() - began)
    return {name: 2 * tokens * features * outputs / seconds for name, seconds in best.items()}


def shape_of(config: PretrainedConfig) -> tuple[int, int] | None:
    """(input, output) features of a block's largest linear layer; None where the config does not name them."""
    text: Any = config.get_text_config()
    width = getattr(text, "hidden_size", None)
    inner = getattr(text, "intermediate_size", None) or (width and 4 * width)
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # Gemma 3n has one for each block
    return (int(width), int(inner)) if width and inner else None


def slower_here(device: torch.device, used: torch.dtype, config: PretrainedConfig) -> str:
    """What is said of a run that was computed in the slower precision of this machine; empty if there is nothing to say.

    A difference below a tenth is not worth a sentence.
    """
    if os.environ.get(VARIABLE, "auto") not in ("", "auto"):
        return ""
    here = choose_precision(device, shape=shape_of(config))
    if here.dtype == used or (here.times is not None and here.times < 1.1):
        return ""
    name = str(used).removeprefix("torch.")
    faster_one = f"{here.name} is {'faster' if here.times is None else f'{here.times:.1f} times as fast'} here"
    return (
        f"this run computes in {name}, as it was trained; {faster_one}: --precision {here.name} (precision= in Python) "
        "takes that, and probabilities then differ by rounding"
    )
