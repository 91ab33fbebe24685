"""What does another runtime bring on a CPU? Rows a second of every exported form beside our torch path and transformers' own.

    python bench/speed/exported.py --data ../shared/data [--models tiny,minilm,smollm2] [--out bench/speed/exported.json]

A run a model is trained on 600 rows of AG News, texts cut at 64 tokens, and exported to every runtime; forms that the check
refuses are left out, and said. 256 test rows of 64 tokens each are then answered by all, alternated, five rounds; medians.
Peers are transformers' classifier in float32 and in bfloat16, padded, sorted by length. Agreement is with the run, on
1,000 test rows. Needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TOKENS, TIMED, AGREED, ROUNDS = 64, 256, 1000, 5
METHODS = {"tiny": "embedding", "smollm2": "embedding", "minilm": "encoder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="tiny,minilm,smollm2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "exported.json")
    given = parser.parse_args()
    import torch
    from machine import about

    found: dict[str, Any] = {"machine": about(torch.device("cpu")), "tokens": TOKENS, "models": {}}
    if given.out.exists():
        found["models"] = json.loads(given.out.read_text(encoding="utf-8"))["models"]
    for model in given.models.split(","):
        with tempfile.TemporaryDirectory() as place:
            found["models"][model] = measured(model, given.data, Path(place))
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(sentence(model, found["models"][model]), flush=True)


def measured(model: str, data: Path, work: Path) -> dict[str, Any]:
    """Rows a second and agreement of every way to answer."""
    lines = (data / "ag_news" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:900]
    (work / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    method = METHODS[model]
    words = ["train", work / "rows.jsonl", "--method", method, "--model", model, "--exportable", "--out", work / "run"]
    words += ["--set", f"method.max_length={TOKENS}", "--set", "method.train.epochs=1", "--set", "explained=0"]
    lasttoken(*words, "--set", "data.valid_share=0.2")
    said = lasttoken("export", work / "run", "--to", "hf", "--to", "onnx", "--to", "openvino", "-o", work / "out")
    refused = [line.removeprefix("export: left out: ") for line in said.splitlines() if "left out" in line]
    tests = [json.loads(line)["text"] for line in (data / "ag_news" / "test.jsonl").read_text().splitlines()]
    ways = answering(work)
    agreed = tests[:AGREED]
    wanted = ways["ours, as trained"](agreed).argmax(axis=1)
    agreement = {name: float((way(agreed).argmax(axis=1) == wanted).mean()) for name, way in ways.items()}
    full = [text for text in (f"{text} {text}" for text in tests) if len(text.split()) >= TOKENS][
        :TIMED
    ]  # 64 tokens each
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way(full)
            times[name].append(time.perf_counter() - began)
    rates = {name: len(full) / float(np.median(spent)) for name, spent in times.items()}
    ours = max(rate for name, rate in rates.items() if name.startswith("ours"))
    peer = max(rate for name, rate in rates.items() if name.startswith("transformers"))
    best = max((name for name in rates if name.startswith(("onnx", "openvino"))), key=lambda name: rates[name])
    return {
        "rows": len(full),
        "rows a second": rates,
        "agreement": agreement,
        "agreed on": len(agreed),
        "refused": refused,
        "best": best,
        "times ours": rates[best] / ours,
        "times transformers": rates[best] / peer,
    }


def answering(work: Path) -> dict[str, Callable[[Sequence[str]], np.ndarray]]:
    """Name -> texts to probabilities (N, C)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from lasttoken.predictor import Predictor
    from lasttoken.runtime.exported import ExportedModel
    from lasttoken.runtime.sessions import of_module, workers_of

    facts = json.loads((work / "out" / "export.json").read_text())
    found: dict[str, Any] = {"ours, as trained": Predictor.load(work / "run", device="cpu").classifier}
    for precision in ("float32", "bfloat16"):
        found[f"ours, {precision}"] = Predictor.load(work / "run", device="cpu", precision=precision).classifier
    for form in facts["forms"]:
        if form["runtime"] != "transformers":
            found[form["name"]] = Predictor.load(work / "out", backend=form["name"]).classifier
    like = next(one for one in found.values() if isinstance(one, ExportedModel))
    for dtype in (torch.float32, torch.bfloat16):
        module = AutoModelForSequenceClassification.from_pretrained(work / "out", dtype=dtype).eval()
        given = (like.labels, like.reading, like.tokenizer, of_module(module), like.temperature, like.padding)
        peer = ExportedModel(*given, workers_of("transformers"))
        found[f"transformers, {str(dtype).removeprefix('torch.')}"] = peer
    return {name: (lambda texts, one=one: one.predict_proba(texts).probs) for name, one in found.items()}


def lasttoken(*words: object) -> str:
    """What a command says on stderr."""
    line = [sys.executable, "-m", "lasttoken.cli.main", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


def sentence(model: str, found: dict[str, Any]) -> str:
    """The figures in words."""
    ranked = sorted(found["rows a second"].items(), key=lambda pair: -pair[1])
    rates = ", ".join(f"{name} {rate:,.0f} ({found['agreement'][name]:.1%})" for name, rate in ranked)
    return (
        f"{model}: {found['best']} is {found['times ours']:.2f} times our best, {found['times transformers']:.2f} times "
        f"transformers' best; rows/s (decisions as the run's): {rates}; refused: {len(found['refused'])}"
    )


if __name__ == "__main__":
    main()
