"""Is a CPU's rule for prediction right: batches side by side, a thread each? Three ways in one run, alternated.

    python bench/speed/side_by_side.py --data ../shared/data --model smollm2 [--threads 2] [--rounds 7]

`side by side` is what `in_batches` does; `one batch` gives all threads to one batch at a time, `one thread` is what a
single core does. All three read the same rows with the same budget of tokens at a time. Prints medians of rows/s, and of
each round's ratio to `one batch`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from models import CPU
from rows import read

from lasttoken.infer.batches import in_batches, pack
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import load
from lasttoken.text.batch import by_length
from lasttoken.text.tokenizer import Encoded, encode

SETS = {"questions": (96, 64), "long": (12, 192)}  # of rows.py: rows, and tokens of a row at most
BUDGET = {"questions": 512, "long": 1024}  # tokens that are computed at a time: few, so that a pass takes a second


def main() -> None:
    """Print one line a precision and set of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for precision in ("float32", "bfloat16"):
        backbone = load(given.model, kind="any", device=CPU, precision=precision)
        for name, (rows, limit) in SETS.items():
            texts = list(read(name, given.data).texts[:rows])
            encoded = encode(backbone.tokenizer, texts, limit=limit)
            print(f"{given.model}, {precision}, {name} ({encoded.lengths.mean():.0f} tokens): ", end="")
            print(
                told(compared(ways(backbone, encoded, given.threads, BUDGET[name]), given.rounds), len(encoded)),
                flush=True,
            )


def ways(backbone: Backbone, encoded: Encoded, threads: int, budget: int) -> dict[str, Callable[[], None]]:
    """The three ways by name: each computes all rows once."""

    def compute(rows: np.ndarray) -> float:
        batch = pack(encoded, rows, backbone)
        with backbone.autocast():
            return float(backbone.hidden(batch.inputs, batch.layout).sum())

    def side_by_side() -> None:
        found = list(in_batches(encoded.lengths, compute, backbone, budget=budget))
        assert len(found) >= 2 * threads, "too few batches: they would not run side by side"

    def in_turn(number: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(number)
            with torch.inference_mode():
                for rows in by_length(encoded.lengths, budget):
                    compute(rows)
            torch.set_num_threads(threads)

        return run

    return {"side by side": side_by_side, "one batch": in_turn(threads), "one thread": in_turn(1)}


def compared(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each, in an order drawn anew each round; a first pass is not counted."""
    rng, spent = np.random.default_rng(0), {name: np.zeros(rounds) for name in contenders}
    for run in contenders.values():
        run()
    for i in range(rounds):
        for name in rng.permutation(list(contenders)):
            began = time.perf_counter()
            contenders[name]()
            spent[name][i] = time.perf_counter() - began
    return spent


def told(spent: dict[str, np.ndarray], rows: int) -> str:
    """`side by side 61 rows/s, 1.42 times one batch (1.20 to 1.61); ...`."""
    parts = []
    for name, seconds in spent.items():
        ratio = spent["one batch"] / seconds
        parts.append(
            f"{name} {rows / np.median(seconds):.1f} rows/s, {np.median(ratio):.2f} times one batch "
            f"({ratio.min():.2f} to {ratio.max():.2f})"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
