"""Where our own time goes: the share that each operation has of one pass of a case, by torch's profiler, on stdout.

    python bench/speed/profiled.py --data ../shared/data --only embedding-inference.tiny.short [--groups N] [--toy]

The rows, models and settings are those of run.py, peers left out. Time is that of each operation itself, without what it
calls, of all threads together.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from machine import about
from models import CPU, folder_of, tokenizer_of
from rounds import Contender
from rows import cut, read
from run import COMPARISONS, cases
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

KINDS = {  # of operations, by their names without aten:: and the underscore of those that work in place
    "matrix products": "mm addmm bmm baddbmm linear matmul addmv mv gemm_4bit",
    "attention and softmax": "softmax _softmax log_softmax _softmax_backward_data _scaled_dot_product.*",
    "copies and gathers": "copy cat index.* gather scatter.* fill zero clone empty.* contiguous _to_copy to masked_fill stack",
    "sums and norms": "sum mean .*norm rsqrt sqrt logsumexp amax max",
    "elementwise": "mul add sub rsub div neg pow silu.* gelu.* sigmoid.* tanh exp sin cos where lt ge addc.* lerp bitwise.*",
    "views of tensors": "as_strided select slice.* transpose t view.* _unsafe_view reshape expand split.* unsqueeze squeeze permute",
}
OTHER = "everything else"


def kind_of(name: str) -> str:
    """The kind of an operation."""
    word = name.rpartition("::")[2].removesuffix("_")
    return next((kind for kind, words in KINDS.items() if any(re.fullmatch(w, word) for w in words.split())), OTHER)


def shares(contender: Contender) -> list[tuple[str, float, dict[str, float]]]:
    """(kind, its share, the shares of its three largest operations) of one pass, the largest kind first."""
    contender.run()  # warms up
    everywhere = _ExperimentalConfig(profile_all_threads=True)  # batches run side by side in threads of their own
    with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as seen:
        contender.run()
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for event in seen.key_averages():
        times[kind_of(event.key)][event.key] = event.self_cpu_time_total
    whole = sum(sum(each.values()) for each in times.values())
    found = []
    for kind, each in times.items():
        first = sorted(each, key=lambda name: -each[name])[:3]
        found.append((kind, sum(each.values()) / whole, {name: each[name] / whole for name in first}))
    return sorted(found, key=lambda one: -one[1])


def rows_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, and on stdout the machine that it runs on. Adds the options that say which cases to run."""
    parser.add_argument("--data", type=Path, help="../shared/data; without it, and with --toy only, rows are made up")
    parser.add_argument("--only", default="", help="tasks or cases, with commas")
    parser.add_argument("--groups", type=int, help="of 32 rows a case at most, for slow machines")
    parser.add_argument("--toy", action="store_true", help="small and made up: shows that the code runs")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.toy:
        parser.error("--data: name the folder of the real rows (../shared/data), or add --toy")
    machine = about(CPU)["machine"]
    print(f"{machine['cpu']}, {machine['device']}, {machine['dtype']}, torch {torch.__version__}")
    return arguments


def main() -> None:
    arguments = rows_of(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    for name, case in cases(
        [x for x in arguments.only.split(",") if x], arguments.toy, arguments.data, arguments.groups
    ):
        if case["task"] not in COMPARISONS:
            continue
        with tempfile.TemporaryDirectory() as work:
            for contender in own(case, Path(work)):
                print(f"\n{name}: {contender.name}")
                for kind, share, largest in shares(contender):
                    told = ", ".join(f"{operation} {part:.0%}" for operation, part in largest.items())
                    print(f"  {share:4.0%}  {kind:<22} {told}")


def own(case: dict[str, Any], work: Path) -> list[Contender]:
    """Our own ways of a case."""
    folder = folder_of(case["model"], work)
    fitting = {name: case[name] for name in ("groups", "limit", "size") if name in case}
    part = cut(read(case["rows"], case["data"]), tokenizer_of(folder), **fitting)
    found = COMPARISONS[case["task"]](case | {"peers": []}, part, folder, work)
    return [contender for contender in found if contender.ours]


if __name__ == "__main__":
    main()
