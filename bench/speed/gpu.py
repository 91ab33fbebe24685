"""Speed on one GPU, in one call of under eight minutes, with nothing to download: ours, and HF Trainer + PEFT beside it.

    python bench/speed/gpu.py --out bench/speed/results/gpu.NAME.json [--minutes 7.5] [--only Llama-3.2-1B] [--toy]

Random weights in the shapes of Llama-3.2-1B, 3.2-3B, 3.1-8B (NF4 + LoRA to train, de-quantised and merged to predict) and
ModernBERT-base (all of it trained), on random words: rows of 128 and of 512 tokens, and lengths as AG News and patents
mix them. The file is written after each part; a part that there is no time for is listed and left out. Last comes what
`lasttoken.plan` foretells of the trainings (gpu_plan.py). Without a GPU only --toy makes sense: it shows that the code
runs, and the file says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_parts import BATCH, PARTS, TOKENS, Part, Place, kinds_of
from machine import about, peak_flops
from memory_models import config_of
from models import LINEARS, LORA, flops, tokenizer_of
from torch import nn

from lasttoken.model.backbone import TINY
from lasttoken.model.device import choose_device, peak_memory, reset_peak

ROUNDS = 5
PEAK_SIZES = [4096, 8192]


class Guard:
    """Time, dealt out: what is left is shared evenly among the cells that are left."""

    def __init__(self, minutes: float, cells: int):
        self.end = time.monotonic() + 60 * minutes
        self.cells = cells

    def share(self) -> float:
        """Seconds for the next cell."""
        left, self.cells = self.cells, max(1, self.cells - 1)
        return (self.end - time.monotonic()) / max(1, left)


def cell(part: Part, name: str, train: bool, seconds: float, peak: float, place: Place) -> dict[str, Any]:
    """Rates, memory and share of the peak of both sides, alternated for as many rounds as `seconds` allow, one at least."""
    kind, lengths, own, peer, our_model, its_model = part
    sides: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    for side, work, other in (("ours", own, its_model), ("peer", peer, our_model)):
        reset_peak(place.device)
        work()  # warms up, and shows the memory
        taken = peak_memory(place.device)
        memory = int(taken["bytes"] or 0) - (bytes_of(other) if taken["kind"] == "allocated" else 0)
        sides[side] = {"rates": [], "memory": memory}
    for number in range(1 if place.toy else ROUNDS):
        if number and time.monotonic() - began > seconds:
            break
        for side, work in (("ours", own), ("peer", peer))[:: 1 if number % 2 else -1]:
            sides[side]["rates"].append(len(lengths) / work())
    for side in sides.values():
        rate = median(side["rates"])
        side["tokens_a_second"] = rate * float(lengths.mean())
        side["share"] = rate * needed(name, lengths, train, place) / len(lengths) / peak
    return {
        "rows": kind,
        "n": len(lengths),
        "tokens_a_row": float(lengths.mean()),
        **sides,
    }


def told(side: str, one: dict[str, Any]) -> str:
    """One side of a cell, on one line."""
    rates = f"{median(one['rates']):.1f} rows/s, {one['tokens_a_second']:,.0f} tokens/s"
    return f"{side} {rates}, {one['share']:.0%} of the peak, {one['memory'] / 1e9:.2f} GB"


def needed(name: str, lengths: np.ndarray, train: bool, place: Place) -> float:
    """FLOP of the rows at least: their texts through the blocks; prompt, answers and vocabulary head are not counted."""
    config: Any = config_of(name, place.tokenizer, toy=place.toy)
    if not name.startswith("ModernBERT"):
        return flops(config, lengths, training=train, rank=LORA.r)
    width = config.hidden_size
    block = 4 * width**2 + 3 * width * config.intermediate_size
    return (6 if train else 2) * block * config.num_hidden_layers * float(lengths.sum())


def bytes_of(model: nn.Module) -> int:
    """Bytes that a model's tensors take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def wanted(only: list[str], toy: bool) -> list[tuple[str, str]]:
    """(model, part): what an encoder cannot do is left out."""
    models = ["Llama-3.2-1B", "ModernBERT-base"] if toy else list(TOKENS)
    pairs = [(name, what) for name in models for what in PARTS]
    return [
        (name, what)
        for name, what in pairs
        if (not only or name in only) and not (name.startswith("ModernBERT") and what.startswith("instruction"))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.5, help="that everything may take")
    parser.add_argument("--only", default="", help="models, with commas")
    parser.add_argument("--toy", action="store_true", help="small: shows that the code runs")
    arguments = parser.parse_args()
    device = choose_device()
    gc.freeze()  # what was imported stays, and need not be looked through whenever memory is
    if device.type != "cuda" and not arguments.toy:
        parser.error("there is no CUDA device; --toy runs on a CPU")
    parts = wanted([x for x in arguments.only.split(",") if x], arguments.toy)
    guard = Guard(arguments.minutes, len(parts) * len(kinds_of(arguments.toy)))
    small = [512] if arguments.toy else PEAK_SIZES
    with tempfile.TemporaryDirectory() as work:
        place = Place(device, tokenizer_of(TINY), Path(work), arguments.toy)
        remark = "Measured at toy size: this shows that the code runs, and nothing else." if arguments.toy else ""
        remark += "" if place.quantize == "nf4" else " bitsandbytes is not installed: weights are in bf16, not NF4."
        result: dict[str, Any] = {
            "case": "gpu",
            "remark": remark.strip(),
            "batch": BATCH,
            "quantize": place.quantize,
            "lora": {**LORA.model_dump(), "targets": LINEARS},
            "peak_flops": peak_flops(device, small),
            **about(device),
            "parts": [],
            "left_out": [],
        }
        for name, what in parts:
            found: dict[str, Any] = {"model": name, "what": what, "cells": []}
            result["parts"].append(found)
            run_part(found, place, guard, result)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(arguments.out)
    if find_spec("lasttoken.plan"):
        from gpu_plan import add_plans

        add_plans(arguments.out, guard.end)


def run_part(found: dict[str, Any], place: Place, guard: Guard, result: dict[str, Any]) -> None:
    """The cells of one part, as far as time and memory go."""
    name, what = found["model"], found["what"]
    seconds = guard.share()
    if seconds <= 0:
        result["left_out"].append(f"{name}, {what}: no time")
        return
    try:
        for number, part in enumerate(PARTS[what](name, place)):
            seconds = guard.share() if number else seconds
            if seconds <= 0:
                result["left_out"].append(f"{name}, {what}, rows of {part[0]}: no time")
                continue
            one = cell(part, name, what.endswith("train"), seconds, result["peak_flops"], place)
            found["cells"].append(one)
            print(
                f"{name}, {what}, {one['rows']}: {'; '.join(told(side, one[side]) for side in ('ours', 'peer'))}",
                flush=True,
            )
    except torch.OutOfMemoryError:
        result["left_out"].append(f"{name}, {what}: out of memory")
    gc.collect()
    reset_peak(place.device)


if __name__ == "__main__":
    main()
