"""Is `linear` the best of its kind when rows are few? -> bench/quality/few_rows.json

    python bench/quality/few_rows.py --data ../shared/data [--draws 5] [--rows 40 100]

Five data sets, 40 to 1,000 training rows drawn as they come, judged on 1,000 test rows. Every method meets the same draws,
so differences are paired. Rows of several labels are judged by micro-F1, others by accuracy. BANKING77 has 77 classes, so
its smallest draws lack about half of them; no method can find those.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from lasttoken import LinearClassifier
from lasttoken.evaluation.metrics import METRICS

HERE = Path(__file__).parent
ROWS = (40, 100, 300, 1000)
TESTED = 1000
SETS = {  # folder: (training file, test file, text, labels)
    "ag_news": ("train.jsonl", "test.jsonl", "text", "label"),
    "banking77": ("train.csv", "test.csv", "text", "category"),
    "patents": ("train.jsonl", "valid.jsonl", "abstract", "section"),
    "goemotions": ("train.tsv", "test.tsv", "0", "1"),
    "reuters": ("train.jsonl", "test.jsonl", "text", "labels"),
}
MULTI = ("goemotions", "reuters")
Texts = list[str]


def rows_of(path: Path, text: str, label: str) -> list[tuple[str, list[str]]]:
    """(text, labels) of each row of a file."""
    whole = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        rows: list[dict[str, Any]] = [json.loads(line) for line in whole.split("\n") if line]
    elif path.suffix == ".csv":
        rows = list[dict[str, Any]](csv.DictReader(whole.splitlines(keepends=True)))
    else:
        fields = [line.split("\t") for line in whole.split("\n") if line]
        return [(row[int(text)], row[int(label)].split(",")) for row in fields]
    return [(row[text], row[label] if isinstance(row[label], list) else [row[label]]) for row in rows]


def problem(data: Path, name: str) -> tuple[Texts, np.ndarray, Texts, np.ndarray]:
    """Training texts and labels, test texts and labels: indices (N,), or an indicator (N, C)."""
    train, test, text, label = SETS[name]
    parts = [rows_of(data / name / file, text, label) for file in (train, test)]
    names = sorted({one for part in parts for _, labels in part for one in labels})
    place = {one: i for i, one in enumerate(names)}
    found: list[Any] = []
    for part in parts:
        table = np.zeros((len(part), len(names)), dtype=bool)
        for i, (_, labels) in enumerate(part):
            table[i, [place[one] for one in labels]] = True
        found += [[row for row, _ in part], table if name in MULTI else table.argmax(axis=1)]
    return tuple(found)


def scikit(multi: bool, *, strength: float, sublinear: bool) -> Any:
    """TF-IDF of words under logistic regression, as a user of scikit-learn would write it."""
    regression = LogisticRegression(C=strength, max_iter=1000)
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=sublinear), OneVsRestClassifier(regression) if multi else regression
    )


METHODS: dict[str, Callable[[bool], Any]] = {
    "scikit-learn": lambda multi: scikit(multi, strength=1.0, sublinear=False),
    "scikit-learn, C = 30": lambda multi: scikit(multi, strength=30.0, sublinear=True),
    "linear before": lambda multi: LinearClassifier(min_count=2, regularisation=(3.0, 30.0)),
    "linear": lambda multi: LinearClassifier(),
}
UNDECIDED = "linear, one half"  # the same fit without calibration and thresholds: what these gain or cost


def quality(said: np.ndarray, truth: np.ndarray, known: np.ndarray) -> float:
    """Accuracy of labels (N,), or micro-F1 of indicators (N, K) whose columns are those of `known` labels."""
    if truth.ndim == 1:
        return float((said == truth).mean())
    chosen = np.zeros(truth.shape, dtype=bool)
    chosen[:, known] = said
    return METRICS["micro_f1"](truth, chosen.astype(float), chosen)


def scored(train: tuple[Texts, np.ndarray], test: tuple[Texts, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Of each method its quality and the seconds of its fit."""
    (texts, y), (asked, truth) = train, test
    multi = y.ndim == 2
    known = np.flatnonzero(y.any(axis=0)) if multi else np.unique(y)
    found: dict[str, tuple[float, float]] = {}
    model, spent = None, 0.0
    for method, make in METHODS.items():
        began = time.perf_counter()
        model = make(multi).fit(texts, y[:, known] * 1 if multi else y)
        spent = time.perf_counter() - began
        found[method] = quality(np.asarray(model.predict(asked)), truth, known), spent
    assert model is not None
    raw = model.predictor_.said(asked).probs  # of `linear`, the last
    found[UNDECIDED] = quality(raw >= 0.5 if multi else known[raw.argmax(axis=1)], truth, known), spent
    return found


def summary(scores: dict[str, list[float]], seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of each method its mean, and the mean and 95 % interval (Student's t over draws) of `linear` less it."""
    found = {}
    for name, own in scores.items():
        gaps = np.array(scores["linear"]) - np.array(own)
        room = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
        found[name] = {
            "score": round(float(np.mean(own)), 4),
            "gain": round(float(gaps.mean()), 4),
            "low": round(float(gaps.mean()) - room, 4),
            "high": round(float(gaps.mean()) + room, 4),
            "draws": len(gaps),
            "seconds": round(float(np.median(seconds[name])), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--out", type=Path, default=HERE / "few_rows.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, dict[str, Any]] = {name: {} for name in SETS}
    if arguments.out.exists():  # sizes that are not run again stay
        results = json.loads(arguments.out.read_text(encoding="utf-8"))["sets"]
    for size in arguments.rows:
        for name in arguments.sets:
            texts, y, asked, truth = problem(arguments.data, name)
            kept = np.random.default_rng(0).permutation(len(asked))[:TESTED]
            test = [asked[i] for i in kept], truth[kept]
            each = []
            for draw in range(arguments.draws):
                drawn = np.random.default_rng((size, draw)).permutation(len(texts))[:size]
                each.append(scored(([texts[i] for i in drawn], y[drawn]), test))
            scores, seconds = ({method: [one[method][i] for one in each] for method in each[0]} for i in (0, 1))
            results[name][str(size)] = summary(scores, seconds)
            told = {"tested": TESTED, "sets": results}
            arguments.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            print(size, name, {k: v["score"] for k, v in results[name][str(size)].items()}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
