"""What a way of ours is worth: passes of a case with it and without it, alternated, and the ratio of their rates, on stdout.

    python bench/speed/ablation.py --data ../shared/data --way few-sizes --only probe.tiny.short [--rounds 9] [--groups N] [--toy]

The rows, models and settings are those of run.py, peers left out; both run the same weights in one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from profiled import own, rows_of
from rounds import Contender, Pass, compare
from run import COMPARISONS, cases

WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # what replaces functions of which modules
    "few-sizes": (  # rows of any length
        {"filler_of": lambda *_: 0, "padded_length": lambda longest, _: longest},
        ("lasttoken.model.layout", "lasttoken.model.kv_cache"),
    ),
    "llama-blocks": ({"groups_of": lambda *_: None}, ("lasttoken.model.llama_block",)),
    "one-dnn": ({"one_dnn_linear": lambda: None}, ("lasttoken.model.products",)),
    "shared-input": ({"output": lambda *_: None}, ("lasttoken.model.shared_input.Siblings",)),
}
AFTER = {"shared-input": "llama-blocks"}  # a way that hides another is left out on both sides


@contextmanager
def without(way: str) -> Iterator[None]:
    """What runs inside does without a way."""
    with ExitStack() as stack:
        replaced, places = WAYS[way]
        for place in places:
            stack.enter_context(patch.multiple(place, **replaced))
        yield


def both(contender: Contender, way: str) -> list[Contender]:
    """The contender as it is, and without the way."""

    def run() -> Pass:
        with without(way):
            return start()

    def start() -> Pass:
        if way not in AFTER:
            return contender.run()
        with without(AFTER[way]):
            return contender.run()

    name = f"{contender.name}, without"
    return [replace(contender, run=start), replace(contender, name=name, run=run, ours=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, default="few-sizes")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = rows_of(parser)
    only = [x for x in arguments.only.split(",") if x]
    for name, case in cases(only, arguments.toy, arguments.data, arguments.groups):
        if case["task"] not in COMPARISONS:
            continue
        with tempfile.TemporaryDirectory() as work:
            for contender in own(case, Path(work)):
                measured = compare(both(contender, arguments.way), rounds=arguments.rounds, peak=lambda: 0.0)
                ours, less = (each["rates"] for each in measured["contenders"])
                ratios = [a / b for a, b in zip(ours, less, strict=True)]
                print(
                    f"{name}: {contender.name}: {median(ratios):.3f} times [{min(ratios):.3f}, {max(ratios):.3f}], "
                    f"{median(ours):.1f} rows/s against {median(less):.1f}, {len(ratios)} rounds of {len(contender.rows)} rows",
                    flush=True,
                )


if __name__ == "__main__":
    main()
