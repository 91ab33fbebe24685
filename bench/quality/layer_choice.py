"""Which layer should `probe` read of a sentence encoder? -> bench/quality/layer_choice.json

    OMP_NUM_THREADS=1 python bench/quality/layer_choice.py --data ../shared/data [--sets ag-news-4k] [--rows 100 1000]

MiniLM's layers on random draws of training rows, judged on test rows, three ways: `before` compares layers by macro-F1 of
a ninth as many validation rows at C = 1 and tunes C between .01 and 10; `last` reads the encoder's own embedding; `auto`
is the probe as it comes. Rows of several labels are judged by micro-F1 at one half, others by accuracy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from problems import PROBLEMS

from lasttoken.config.methods import Probe
from lasttoken.data.dataset import Dataset
from lasttoken.evaluation.metrics import METRICS
from lasttoken.fitting.regression import best_strength, solve
from lasttoken.journal import Journal
from lasttoken.methods.probe import Reader, build, cached, fit_layers, settle, standardised
from lasttoken.seed import generator

HERE = Path(__file__).parent
SETS = {  # rows to draw from, to validate with, to test on
    "ag-news-4k": (4000, 444, 3000),
    "banking77": (9002, 1001, 3080),
    "goemotions": (9000, 1000, 3000),
    "patents-section": (4000, 444, 1301),
}
Part = tuple[np.ndarray, Dataset]  # pooled states (layers, N, H), rows


def embedded(reader: Reader, rows: Dataset, most: int) -> Part:
    """At most `most` rows of a part, and their states at every layer."""
    kept = rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:most]))
    return cached("rows", reader, kept.texts, list(range(reader.backbone.depth + 1)), Journal())[0], kept


def before(train: Part, valid: Part, test: Part) -> np.ndarray:
    """Probabilities of the test rows as the probe chose its layer before."""
    (states, rows), classes = train, len(train[1].labels)
    scores = []
    for layer, pooled in enumerate(states):
        vectors, mean, scale = standardised(np.array(pooled))
        model = solve(vectors, rows.targets, classes, 1.0, False, 0)
        scores.append(METRICS["macro_f1"](valid[1].targets, model((valid[0][layer] - mean) / scale)))
    layer = int(np.argmax(scores))
    vectors, mean, scale = standardised(np.array(states[layer]))
    strengths = (0.01, 0.1, 1.0, 10.0)
    strength = best_strength(
        vectors, rows.targets, classes, strengths=strengths, balanced=False, seed=0, journal=Journal()
    )
    return solve(vectors, rows.targets, classes, strength, False, 0)((test[0][layer] - mean) / scale)


def now(reader: Reader, train: Part, test: Part, layers: list[int]) -> np.ndarray:
    """Probabilities of the test rows by the probe on the best of `layers`."""
    model = fit_layers(reader, layers, train[0][layers], train[1], 0, Journal())
    vectors = reader.vectors(test[0][model.layer], model.layer)
    return model.regression((vectors - model.mean) / model.scale)


def drawn(part: Part, rows: np.ndarray) -> Part:
    """Some rows of a part."""
    return part[0][:, rows], part[1].take(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="*", default=(100, 300, 1000, 4000))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "layer_choice.json")
    arguments = parser.parse_args()
    config, encoder = settle(Probe(model="minilm", precision="float32"))
    reader = Reader(config, build(config, "cpu"), encoder)
    found: dict[str, Any] = {}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text(encoding="utf-8"))
    for name in arguments.sets:
        splits = PROBLEMS[name](arguments.data)
        parts = zip((splits.train, splits.valid, splits.test), SETS[name], strict=True)
        train, valid, test = (embedded(reader, rows, most) for rows, most in parts)
        layers = list(range(reader.backbone.depth + 1))
        for size in arguments.rows:
            scores: dict[str, list[float]] = {"before": [], "last": [], "auto": []}
            for draw in range(arguments.draws if size < len(train[1]) else 1):
                rng = generator(draw, f"{size} rows")
                some = drawn(train, rng.permutation(len(train[1]))[:size])
                held = drawn(valid, rng.permutation(len(valid[1]))[: max(10, size // 9)])
                said = {
                    "before": before(some, held, test),
                    "last": now(reader, some, test, layers[-1:]),
                    "auto": now(reader, some, test, layers),
                }
                for way, probs in said.items():
                    metric = METRICS["micro_f1" if train[1].labels.multi else "accuracy"]
                    scores[way].append(round(metric(test[1].targets, probs), 4))
            found.setdefault(name, {})[str(size)] = {"tested": len(test[1]), **scores}
            arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(name, size, {way: round(float(np.mean(each)), 3) for way, each in scores.items()}, flush=True)


if __name__ == "__main__":
    main()
