"""Which weights of a training are the best to keep? Test scores of several rules, over draws of few rows -> selection.json

    python bench/quality/selection.py --data ../shared/data [--sets banking77] [--seeds 0,1,2]

One training a draw, without early stopping. At every validation the scores of validation and test rows are written down;
each rule then chooses one of them by validation rows alone (only the head's start, the same for all rules, has seen test
rows). What is there is not run again. LoRA is on the upper blocks, which is faster.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from problems import PROBLEMS
from run import drawn, drawn_by_label

from lasttoken import catalog
from lasttoken.config.methods import Embedding
from lasttoken.config.parse import parse
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.demo import docstring_rows
from lasttoken.data.split import make_splits
from lasttoken.evaluation.metrics import METRICS
from lasttoken.fitting import fit
from lasttoken.journal import Journal
from lasttoken.seed import generator

OUT = Path(__file__).with_name("selection.json")
TESTED = 400
SETTINGS = {
    "model": "smollm2",
    "max_length": 96,
    "trunk": 20,
    "lora": {"r": 16, "alpha": 32.0},
    "train": {"lr": 1e-3, "patience": 99},
}
Point = dict[str, float]  # of a validation: update, valid, log_loss, test


def docstrings(data: Path, seed: int) -> Splits:
    """The demo's rows; `data` has none."""
    return make_splits(docstring_rows(rows=1400, seed=seed), seed=seed, test=0.4)


SETS: dict[str, tuple[Callable[[Path, int], Splits], str]] = {  # how rows are drawn; the suffix
    "ag-news, 100 rows": (lambda data, seed: drawn(PROBLEMS["ag-news-4k"](data), 100, seed), "\nTopic:"),
    "banking77, 8 a label": (lambda data, seed: drawn_by_label(PROBLEMS["banking77"](data), 8, seed), "\nIntent:"),
    "docstrings, 701 rows": (docstrings, "\nThis is from the library"),
    "ag-news, 400 rows": (lambda data, seed: drawn(PROBLEMS["ag-news-4k"](data), 400, seed), "\nTopic:"),
}


def together(valid: Dataset, test: Dataset) -> Dataset:
    """Validation rows, then test rows."""
    return Dataset(
        [f"valid:{name}" for name in valid.ids] + [f"test:{name}" for name in test.ids],
        [*valid.texts, *test.texts],
        np.concatenate([valid.targets, test.targets]),
        valid.labels,
    )


def history(splits: Splits, suffix: str, seed: int) -> list[Point]:
    """Every validation of one training."""
    tested = generator(seed, "tested").permutation(len(splits.test))[:TESTED]
    valid, test = splits.valid, splits.test.take(tested)
    found: list[Point] = []

    def scorer(learner: Any, metric: str, state: Any) -> Callable[[], float]:
        both = together(valid, test)
        count = len(valid)

        def score() -> float:
            probs = learner.predict()
            assert len(probs) == len(both)
            value = float(METRICS[metric](valid.targets, probs[:count]))
            right = probs[np.arange(count), valid.targets]
            loss = float(-np.log(np.maximum(right, 1e-12)).mean())
            accuracy = float((probs[count:].argmax(1) == test.targets).mean())
            found.append({"update": state.update + 1, "valid": value, "log_loss": loss, "test": accuracy})
            return value

        return score

    config = parse(Embedding, {"method": "embedding", **SETTINGS, "suffix": suffix})
    journal = Journal(tell=lambda sentence: print("   ", sentence[:150], flush=True))
    with patch.object(fit, "scorer", scorer):
        catalog.fit(config, splits.train, together(valid, test), seed=seed, journal=journal)
    found[0]["update"] = 0  # before the first update
    return found


def rules(points: list[Point], rows: int) -> dict[str, Point]:
    """What each rule keeps of a training. rows: validated on."""
    best = max(p["valid"] for p in points)
    error = np.sqrt(max(best * (1 - best), 0.25 / rows) / rows)  # of the best score, as of a share
    return {
        "first of the highest": next(p for p in points if p["valid"] == best),
        "last of the highest": next(p for p in reversed(points) if p["valid"] == best),
        "latest within half a standard error": next(p for p in reversed(points) if p["valid"] >= best - error / 2),
        "latest within a standard error": next(p for p in reversed(points) if p["valid"] >= best - error),
        "lowest log-loss": min(points, key=lambda p: p["log_loss"]),
        "last": points[-1],
        "highest on test, which nobody knows": max(points, key=lambda p: p["test"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="", help="beginnings of names, with commas")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        for name, (read, suffix) in SETS.items():
            written = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {"trainings": []}
            known = {(one["set"], one["seed"]) for one in written["trainings"]}
            if (name, seed) in known or not name.startswith(tuple(arguments.sets.split(","))):
                continue
            print(name, seed, flush=True)
            splits = read(arguments.data, seed)
            points = history(splits, suffix, seed)
            written["trainings"].append({"set": name, "seed": seed, "valid": len(splits.valid), "points": points})
            means = defaultdict(list)
            for one in written["trainings"]:
                for rule, point in rules(one["points"], one["valid"]).items():
                    means[rule].append(point["test"])
            written["mean_test_accuracy"] = {rule: round(float(np.mean(values)), 4) for rule, values in means.items()}
            OUT.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
            print(written["mean_test_accuracy"], flush=True)


if __name__ == "__main__":
    main()
