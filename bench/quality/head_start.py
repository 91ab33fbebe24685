"""How well should a head know the training rows before LoRA begins? Accuracy by the start of the head -> head_start.json

    python bench/quality/head_start.py --data ../shared/data [--sets banking77]

One training a start, all else equal: from a head drawn at random, and from heads fitted alone that keep some ratio of
training to validation loss (`LEFT` of fitting/warm_start.py; 0: the head of least validation loss, whatever it keeps). Written
down are the validation score before the first update and after every epoch, and the test score of the weights kept. What is
there is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from problems import PROBLEMS, fewer

from lasttoken import catalog
from lasttoken.config.methods import Embedding
from lasttoken.config.parse import parse
from lasttoken.data.dataset import Splits
from lasttoken.evaluation.metrics import METRICS
from lasttoken.fitting import fit, warm_start
from lasttoken.journal import Journal

OUT = Path(__file__).with_name("head_start.json")
ROWS, METRIC = 2000, "micro_f1"
STARTS: dict[str, float | None] = {"random": None, "0": 0.0, f"{warm_start.LEFT:g}": warm_start.LEFT}
SETTINGS = {"model": "smollm2", "max_length": 64, "lora": {"r": 16, "alpha": 32.0}}
SETS = {"banking77": 3, "goemotions-10k": 2}  # epochs


def trained(splits: Splits, epochs: int, left: float | None) -> dict[str, Any]:
    """The scores of one training. left: None for a random head."""
    scores: list[float] = []
    scorer = fit.scorer

    def telling(*given: Any) -> Callable[[], float]:
        score = scorer(*given)

        def compute() -> float:
            scores.append(score())
            return scores[-1]

        return compute

    start = {"head_init": "random" if left is None else "probe"}
    train = {"lr": 1e-3, "batch": 16, "epochs": epochs, "evaluations": 1, "patience": 99, "metric": METRIC}
    config = parse(Embedding, {**SETTINGS, **start, "train": train})
    with patch.object(fit, "scorer", telling), patch.object(warm_start, "LEFT", left or 0.0):
        fitted = catalog.fit(config, splits.train, splits.valid, seed=0, journal=Journal(tell=print))
    probs = fitted.classifier.predict_proba(splits.test.texts).probs
    return {
        "valid": [round(score, 4) for score in scores],
        "test": round(METRICS[METRIC](splits.test.targets, probs), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for name in arguments.sets:
        whole = PROBLEMS[name](arguments.data)
        splits = replace(fewer(whole, ROWS), valid=whole.valid)
        for start, left in STARTS.items():
            if start not in found.setdefault(name, {}):
                found[name][start] = trained(splits, SETS[name], left)
                OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(name, start, found[name][start], flush=True)


if __name__ == "__main__":
    main()
