"""What does a job of parts cost? Rows a second and memory of `lasttoken predict`, beside those of the classifier alone.

    python bench/serving/job.py [--method linear --rows 1000000] [--out bench/serving/results]
    python bench/serving/job.py --method embedding --model tiny --rows 100000

JSON lines of some 12 words go in and come out, by one worker and by as many as the command takes by itself, with and
without the seconds of loading; the classifier alone predicts the same texts, 4,096 at a time, from memory, in one process.
Alternated, medians. Memory is the largest of any one process. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

LABELS = ("array", "file", "frame", "tensor")
WORDS = "the a parser model of reads value index returns for with error text width sum key into from each".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="linear")
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    import torch
    from machine import about

    with tempfile.TemporaryDirectory() as work:
        run = trained(given.method, given.model, Path(work))
        found = measured(run, given.rows, Path(work), given.rounds)
    found |= {"method": given.method, "model": given.model, "rows": given.rows, **about(torch.device("cpu"))}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"job-{given.method}.json").write_text(json.dumps(found, indent=1) + "\n")
    shown = ", ".join(
        f"{name} {rate:,.0f} rows/s ({found['ratio'][name]:.2f})" for name, rate in found["rows a second"].items()
    )
    print(f"{given.method}, {given.rows:,} rows: {shown}; largest memory {found['peak bytes'] / 1e9:.2f} GB")


def texts(count: int, draw: random.Random) -> list[str]:
    """Short texts, each with a word that tells its label."""
    return [" ".join([draw.choice(LABELS), *draw.choices(WORDS, k=draw.randrange(6, 16))]) for _ in range(count)]


def trained(method: str, model: str | None, work: Path) -> Path:
    """A run on texts as those that are measured."""
    lines = [json.dumps({"text": text, "label": text.split()[0]}) for text in texts(400, random.Random(0))]
    (work / "rows.jsonl").write_text("\n".join(lines) + "\n")
    words = ["train", str(work / "rows.jsonl"), "--method", method, "--out", str(work / "run")]
    words += [] if model is None else ["--model", model, "--set", "method.train.epochs=1"]
    subprocess.run([sys.executable, "-m", "lasttoken.cli.main", *words], check=True, capture_output=True)
    return work / "run"


def told(run: Path, source: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """What a job says of itself."""
    words = ["predict", str(run), str(source), "-o", f"{out}/", "--json", *options]
    line = [sys.executable, "-m", "lasttoken.cli.main", *words]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def measured(run: Path, rows: int, work: Path, rounds: int) -> dict[str, Any]:
    """Rates, alternated, and memory."""
    some = texts(rows, random.Random(1))
    lines = [json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(some)]
    (work / "in.jsonl").write_text("".join(lines))
    (work / "few.jsonl").write_text("".join(lines[:10]))
    from lasttoken.predictor import Predictor

    predictor, rates = Predictor.load(run), dict[str, list[float]]()
    predictor(some[:4096])
    ways = {"one worker": ["--workers", "1"], "as it comes": []}
    for round, (name, options) in itertools.product(range(rounds), ways.items()):
        loading = told(run, work / "few.jsonl", work / f"{name}, few, {round}", options)["seconds"]
        found = told(run, work / "in.jsonl", work / f"{name}, {round}", options)
        assert found["rows"] == rows
        rates.setdefault(name, []).append(rows / (found["seconds"] - loading))
        rates.setdefault(f"{name}, with loading", []).append(rows / found["seconds"])
        began = time.perf_counter()
        for start in range(0, rows, 4096):
            predictor(some[start : start + 4096])
        rates.setdefault("alone", []).append(rows / (time.perf_counter() - began))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratios = {name: rate / medians["alone"] for name, rate in medians.items()}
    return {"rows a second": medians, "all": rates, "ratio": ratios, "peak bytes": peak}


if __name__ == "__main__":
    main()
