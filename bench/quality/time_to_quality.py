"""Seconds from the command until the validation score of the best HF configuration is reached -> time_to_quality.json

    python bench/quality/time_to_quality.py --data ../shared/data [--sets banking77] [--rows 2000] [--toy]

The peer is HF Trainer + PEFT on AutoModelForSequenceClassification, in each configuration of a small grid; the one that ends
with the highest validation accuracy sets the score and the time to beat: that of its whole training, for nobody knows before
its end that it is the best. Ours is one fit with settings of our own choice on the same rows; its time is that of the first
validation that reaches the score. Every fit is a process of its own, from its start, imports and loading included. Nothing
else should run on the machine. What is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from problems import PROBLEMS, fewer

from lasttoken.data.dataset import Splits

HERE = Path(__file__).parent
STARTED = "TIME_TO_QUALITY_STARTED"  # seconds since 1970, in the environment of a fit
EPOCHS = 3
GRID = [{"lr": lr, "batch": batch} for lr, batch in ((2e-4, 8), (1e-3, 8), (1e-3, 16))]  # of the peer
FASTEST = {"dtype": "bfloat16", "attention": "eager", "grouped": True}  # in bench/speed; needs a CPU with bfloat16
SETS: dict[str, dict[str, Any]] = {  # ours, but for what is a default
    "ag-news-4k": {"max_length": 128, "suffix": "\nTopic:"},
    "banking77": {"max_length": 64},
    "patents-section-4k": {"max_length": 192, "suffix": "\nThis invention belongs to the section of"},
}
OURS = {  # LoRA on the upper 20 of 30 blocks, and a rate that has fallen to 0 when the time is up
    "trunk": 10,
    "lora": {"r": 16, "alpha": 32.0},
    "train": {"lr": 1.5e-3, "batch": 16, "epochs": 1.5, "evaluations": 2},
}
TOY = {"model": "tiny", "max_length": 32, "lora": {"r": 2}, "train": {"epochs": 1.0, "evaluations": 2}}


def parts(arguments: argparse.Namespace, name: str) -> Splits:
    """The rows of a set, training rows limited if asked."""
    splits = PROBLEMS[name](arguments.data)
    return splits if arguments.rows is None else fewer(splits, arguments.rows)


def tell(score: float) -> None:
    """One validation, on stdout."""
    print(json.dumps({"seconds": round(time.time() - float(os.environ[STARTED]), 1), "score": score}), flush=True)


def fit_peer(splits: Splits, settings: dict[str, Any]) -> None:
    """Train by HF Trainer, telling each validation."""
    import trainer
    from transformers import TrainerCallback

    class Teller(TrainerCallback):
        """Tells every evaluation."""

        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            tell(metrics["eval_micro_f1"])

    nothing = replace(splits, test=splits.valid.take(np.array([0])))
    trainer.fit_and_predict(settings, nothing, seed=0, callbacks=[Teller()])


def fit_ours(splits: Splits, settings: dict[str, Any]) -> None:
    """Fit `embedding`, telling each validation."""
    from lasttoken import catalog
    from lasttoken.config.methods import Embedding
    from lasttoken.config.parse import parse
    from lasttoken.fitting import fit

    scorer = fit.scorer

    def telling(*given: Any) -> Any:
        score = scorer(*given)

        def compute() -> float:
            found = score()
            tell(found)
            return found

        return compute

    fit.scorer = telling
    catalog.fit(parse(Embedding, settings), splits.train, splits.valid, seed=0)


def timed(arguments: argparse.Namespace, name: str, side: str, settings: dict[str, Any]) -> list[dict[str, float]]:
    """The validations of a fit in a process of its own: seconds since its start, scores."""
    words = [sys.executable, __file__, "--data", str(arguments.data), "--sets", name]
    words += [] if arguments.rows is None else ["--rows", str(arguments.rows)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", STARTED: str(time.time())}
    ended = subprocess.run(
        [*words, "--fit", side, json.dumps(settings)], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"seconds"')]


def configurations(name: str, toy: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(key, side, settings) of every fit of a set."""
    own = TOY if toy else {"model": "smollm2", **SETS[name], **OURS}
    for one in GRID[:1] if toy else GRID:
        train = {**one, "epochs": 1 if toy else EPOCHS}
        peer = {
            "model": own["model"],
            "max_length": own["max_length"],
            "lora": {"r": 16, "alpha": 32.0},
            "train": train,
            **FASTEST,
        }
        yield f"HF, lr {one['lr']:g}, batch {one['batch']}", "peer", peer
    yield "ours", "ours", own


def verdict(fits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a set came to: the score to reach, the peer's seconds and ours (None where it was not reached)."""
    told = {key: fit["validations"] for key, fit in fits.items()}
    ends = {key: max(one["score"] for one in each) for key, each in told.items() if key != "ours"}
    best = max(ends, key=lambda key: ends[key])
    reached = [one["seconds"] for one in told["ours"] if one["score"] >= ends[best]]
    peer = told[best][-1]["seconds"]
    ours = reached[0] if reached else None
    return {"score": ends[best], "best": best, "peer": peer, "ours": ours, "share": ours and round(ours / peer, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--rows", type=int, help="to train on, in place of all")
    parser.add_argument("--toy", action="store_true", help="shows that the code runs")
    parser.add_argument("--out", type=Path, default=HERE / "time_to_quality.json")
    parser.add_argument("--fit", nargs=2, metavar=("SIDE", "SETTINGS"), help="one fit, in this process")
    arguments = parser.parse_args()
    if arguments.fit:
        side, settings = arguments.fit
        {"peer": fit_peer, "ours": fit_ours}[side](parts(arguments, arguments.sets[0]), json.loads(settings))
        return
    found: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for name in arguments.sets:
        place = name if arguments.rows is None else f"{name}, {arguments.rows} rows"
        place += ", toy" * arguments.toy
        fits: dict[str, Any] = found.setdefault(place, {}).setdefault("fits", {})
        for key, side, settings in configurations(name, arguments.toy):
            if fits.get(key, {}).get("settings") != settings:
                fits[key] = {"settings": settings, "validations": timed(arguments, name, side, settings)}
                arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(place, key, fits[key]["validations"][-1], flush=True)
        found[place] |= verdict(fits)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(place, {key: value for key, value in found[place].items() if key != "fits"}, flush=True)


if __name__ == "__main__":
    main()
