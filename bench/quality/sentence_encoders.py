"""Is `probe` level with sentence-transformers + LogisticRegressionCV? -> bench/quality/sentence_encoders.json

    OMP_NUM_THREADS=1 python bench/quality/sentence_encoders.py --data ../shared/data [--rounds 1] [--sets banking77]

MiniLM embeds the same rows on both sides, in float32 on one thread; nothing is cached. A side's seconds are those that
the processor worked for it, so that a busy machine changes them little: loading the model, embedding and fitting, then
embedding and predicting the test rows. Sides take turns, and the next set and the next round begin with the other.
Finished rounds are kept, so that a run can go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problems import PROBLEMS
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.multiclass import OneVsRestClassifier

from lasttoken.config.methods import Probe
from lasttoken.data.dataset import Dataset
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.significance import bootstrap, bootstrap_difference, mcnemar, randomisation
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.packages import installed_minilm
from lasttoken.seed import generator
from lasttoken.studies.one import git_commit

HERE = Path(__file__).parent
SETS = {  # rows: train, test
    "ag-news-4k": (4000, 2000),
    "banking77": (None, None),
    "goemotions": (4000, 2000),
    "patents-section": (4000, None),
}
OURS, PEER = "probe", "sentence-transformers + LogisticRegressionCV"
Side = Callable[[Dataset, Dataset], tuple[np.ndarray, float, float, list[str]]]


def some(rows: Dataset, count: int | None, purpose: str) -> Dataset:
    """`count` rows drawn at random, in their order; None: all."""
    drawn = generator(0, purpose).permutation(len(rows))[:count]
    return rows.take(np.sort(drawn))


def ours(train: Dataset, test: Dataset) -> tuple[np.ndarray, float, float, list[str]]:
    """(probabilities (N, C), seconds to fit, to predict, notes) of `probe` as it comes."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LASTTOKEN_CACHE"] = cache
        journal, began = Journal(), time.process_time()
        config = Probe(model="minilm", precision="float32")
        model = probe.fit(config, train, train.take(np.arange(0)), seed=0, device="cpu", journal=journal).classifier
        fitted = time.process_time()
        probs = model.predict_proba(test.texts).probs
        return probs, fitted - began, time.process_time() - fitted, list(journal.notes)


def peer(train: Dataset, test: Dataset) -> tuple[np.ndarray, float, float, list[str]]:
    """The same of what one writes with sentence-transformers and scikit-learn."""
    began = time.process_time()
    encoder = SentenceTransformer(str(installed_minilm()), device="cpu")
    one = LogisticRegressionCV(max_iter=1000)
    model: Any = OneVsRestClassifier(one) if train.labels.multi else one
    model.fit(encoder.encode(list(train.texts)), train.targets * 1)
    fitted = time.process_time()
    probs = model.predict_proba(encoder.encode(list(test.texts)))
    return probs, fitted - began, time.process_time() - fitted, []


def told(y: np.ndarray, probs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy (micro-F1 of several labels) and log-loss with intervals, and the differences, paired over rows."""
    found: dict[str, Any] = {"n": len(y)}
    for name in ("micro_f1" if y.ndim == 2 else "accuracy", "log_loss"):
        metric = METRICS[name]
        gap = bootstrap_difference(metric, y, probs[OURS], probs[PEER], rng=generator(0, name))
        each = {side: bootstrap(metric, y, said, rng=generator(0, name)) for side, said in probs.items()}
        found[name] = {
            side: [round(x, 4) for x in (one.estimate, one.low, one.high)] for side, one in {**each, "gap": gap}.items()
        }
    if y.ndim == 2:
        p = randomisation(METRICS["micro_f1"], y, probs[OURS], probs[PEER], rng=generator(0, "swaps"))
        return {**found, "randomisation_p": round(p, 4)}
    right = {side: said.argmax(axis=1) == y for side, said in probs.items()}
    return {**found, "mcnemar_p": round(mcnemar(right[OURS], right[PEER]), 4)}


def one_round(name: str, data: Path, turn: int) -> dict[str, Any]:
    """Both sides on one problem, the peer first every other time."""
    splits, (rows, tested) = PROBLEMS[name](data), SETS[name]
    train, test = some(splits.train, rows, "rows to train on"), some(splits.test, tested, "rows to test on")
    sides: list[tuple[str, Side]] = [(OURS, ours), (PEER, peer)]
    probs, seconds, notes = {}, {}, {}
    for side, run in sides[:: -1 if (turn + list(SETS).index(name)) % 2 else 1]:
        probs[side], fit, predict, notes[side] = run(train, test)
        seconds[side] = {"fit": round(fit, 1), "predict": round(predict, 1)}
        print(name, turn, side, seconds[side], notes[side][-3:], file=sys.stderr, flush=True)
    return {"trained": len(train), **told(test.targets, probs), "notes": notes, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--out", type=Path, default=HERE / "sentence_encoders.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found: dict[str, Any] = {"sets": {}}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text(encoding="utf-8"))
    libraries = ("torch", "transformers", "sentence-transformers", "scikit-learn")
    found["versions"] = {library: version(library) for library in libraries}
    found["machine"] = f"{platform.machine()}, 1 thread, {torch.backends.cpu.get_cpu_capability()}"
    found["commit"] = git_commit()
    for turn in range(arguments.rounds):
        for name in arguments.sets:
            rounds = found["sets"].setdefault(name, [])
            if len(rounds) <= turn:
                rounds.append(one_round(name, arguments.data, turn))
                arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
