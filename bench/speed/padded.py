"""What do padded rows cost? The same model packed and forced to pad, in one run, alternated.

    python bench/speed/padded.py --data ../shared/data --model smollm2 [--threads 2] [--rounds 5]

Frozen features of the rows of `rows.py`; an update of training (LoRA r 8, forward and backward) of 16 rows; and label
scores of `instruction` for four labels, where a text runs once for each. Prints the medians of packed / padded seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from models import CPU
from rows import read

from lasttoken.infer.batches import in_batches, pack
from lasttoken.infer.label_probs import label_probs
from lasttoken.labels import LabelSpace
from lasttoken.model.adapter import adapt
from lasttoken.model.attention import NAME
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import load
from lasttoken.text.prompt import make_prompt
from lasttoken.text.tokenizer import Encoded, encode

SETS = {"questions": (64, 64), "long": (12, 192)}  # of rows.py: rows, and tokens of a row at most
LABELS = LabelSpace(("business", "sport", "science", "world"))
BUDGET = 1024  # tokens of a batch


def main() -> None:
    """Print one line a case and set of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    packed = load(given.model, kind="decoder", device=CPU, vocabulary=True)
    adapt(packed, r=8, alpha=16, dropout=0.0, seed=0)
    padded = replace(packed, padded="forced, to be measured")
    for name, (rows, limit) in SETS.items():
        encoded = encode(packed.tokenizer, list(read(name, given.data).texts[:rows]), limit=limit, special=False)
        for case, run in {"features": features, "training": training, "label scores": scores}.items():
            ratio = compared(packed, padded, partial(run, encoded=encoded), given.rounds)
            print(
                f"{name} ({encoded.lengths.mean():.0f} tokens), {case}: padded takes {ratio:.2f} times as long",
                flush=True,
            )


def features(backbone: Backbone, encoded: Encoded) -> None:
    """All rows once, without gradients."""

    def compute(rows: np.ndarray) -> float:
        batch = pack(encoded, rows, backbone)
        with backbone.autocast():
            return float(backbone.hidden(batch.inputs, batch.layout)[batch.layout.ends].sum())

    list(in_batches(encoded.lengths, compute, backbone, budget=BUDGET))


def training(backbone: Backbone, encoded: Encoded) -> None:
    """Forward and backward of the first 16 rows."""
    batch = pack(encoded, np.arange(min(16, len(encoded))), backbone)
    with backbone.autocast():
        backbone.hidden(batch.inputs, batch.layout)[batch.layout.ends].float().square().sum().backward()
    backbone.whole.zero_grad()


def scores(backbone: Backbone, encoded: Encoded) -> None:
    """Four labels of every row."""
    prompt = make_prompt(backbone.tokenizer, LABELS)
    label_probs(backbone, prompt, encoded, LABELS, budget=BUDGET)


def compared(packed: Backbone, padded: Backbone, run: Callable[[Backbone], None], rounds: int) -> float:
    """Median over rounds of padded / packed seconds; the first round warms up."""
    ratios = []
    for _ in range(rounds + 1):
        seconds = []
        for backbone, attention in ((packed, NAME), (padded, "sdpa")):
            backbone.whole.set_attn_implementation(attention)
            began = time.perf_counter()
            run(backbone)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
    return median(ratios[1:])


if __name__ == "__main__":
    main()
