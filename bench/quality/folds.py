"""Do cross-validated intervals hold the true score, and how often is a difference claimed? -> bench/quality/folds.json

    python bench/quality/folds.py --data ../shared/data --kept /tmp/worlds [--worlds 100]

A world is a sample of 40, 80 or 200 rows of AG News, or of the four commonest sections of the patents. It is
cross-validated as `compare --folds 5` does it, once and three times over, by logistic regression on TF-IDF of words with
the calibration of every run. 1,200 held-out rows of the data set give the true score of the five fold models (their
mean) and of the model that is fitted on all rows of the world.

Two methods are equally good where they are one method from two seeds: each fit learns from a random 80 % of its training
rows. A third and a fourth differ (words; words and pairs of words); their true difference is its mean over worlds.
Predictions are kept in --kept, so that other intervals can be tried without fitting again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from few_rows import problem

from lasttoken.config.methods import Linear
from lasttoken.config.settings import Decision
from lasttoken.data.dataset import Dataset, Rows, Splits
from lasttoken.data.folds import make_folds
from lasttoken.errors import DataError
from lasttoken.evaluation.comparison import ALPHA
from lasttoken.evaluation.folds import compare_folds, measure_folds
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.policy import Policy, fit_policy
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import bootstrap, bootstrap_difference, randomisation
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import linear
from lasttoken.methods.classifier import Classifier

HERE = Path(__file__).parent
CASES = (  # data set, rows, folds, repeats
    ("ag_news", 40, 5, 3),
    ("ag_news", 80, 5, 3),
    ("ag_news", 200, 5, 3),
    ("patents", 80, 5, 3),
    ("ag_news", 80, 10, 1),
)
HELD_OUT, CLASSES, DRAWS = 1200, 4, 200
Case = tuple[str, int, int, int]
Problem = tuple[list[str], np.ndarray, list[str], np.ndarray]
MEASURED = ("accuracy", "macro_f1")
PLAIN = {"characters": (0, 0), "regularisation": (10.0,)}
METHODS = {  # settings, and the share of its training rows that a fit learns from
    "words": (Linear(words=(1, 1), **PLAIN), 1.0),
    "pairs": (Linear(words=(1, 2), **PLAIN), 1.0),
    "seed-0": (Linear(words=(1, 1), **PLAIN), 0.8),
    "seed-1": (Linear(words=(1, 1), **PLAIN), 0.8),
}


def commonest(data: Path, name: str) -> Problem:
    """Texts and classes (N,) from 0 of the CLASSES commonest classes: those to draw worlds from, those held out."""
    texts, y, more, truth = problem(data, name)
    whole, classes = [*texts, *more], np.concatenate([y, truth])
    kept = np.argsort(-np.bincount(classes), kind="stable")[:CLASSES]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(classes, kept)))
    place = {int(one): i for i, one in enumerate(sorted(kept.tolist()))}
    columns = np.array([place[int(classes[i])] for i in rows])
    found = [whole[i] for i in rows]
    return found[HELD_OUT:], columns[HELD_OUT:], found[:HELD_OUT], columns[:HELD_OUT]


def fitted(method: str, train: Dataset, valid: Dataset, seed: int) -> tuple[Classifier, Policy]:
    """A classifier with its policy; of a method that learns from a share of its rows, a share of each class."""
    config, share = METHODS[method]
    rng = np.random.default_rng((seed, *method.encode()))
    if share < 1:
        columns = [rng.permutation(np.flatnonzero(train.targets == j)) for j in np.unique(train.targets)]
        train = train.take(np.sort(np.concatenate([one[: max(1, round(share * len(one)))] for one in columns])))
    model = linear.fit(config, train, valid, seed=0, device="cpu", journal=Journal()).classifier
    said = Predictions(valid.ids, valid.targets, model.predict_proba(valid.texts).probs, valid.labels)
    return model, fit_policy(Decision(), said)[0]


def sampled(texts: list[str], y: np.ndarray, case: Case, number: int) -> list[Splits]:
    """The rows of one world, divided into folds once for each repeat; samples with a class of one row are drawn again."""
    _, n, folds, repeats = case
    rng = np.random.default_rng((number, n))
    while True:
        rows = rng.choice(len(texts), n, replace=False)
        asked = Rows([str(i) for i in rows], [texts[i] for i in rows], [(str(y[i]),) for i in rows], multi=False)
        try:
            divided = [make_folds(asked, folds, seed=seed) for seed in range(repeats)]
        except DataError:
            continue
        if len(divided[0].labels) == CLASSES:
            return divided


def world(problem: Problem, case: Case, number: int) -> dict[str, Any]:
    """Targets, folds and probabilities of one world by method and repeat, and the true scores."""
    texts, y, held, truth = problem
    divided = sampled(texts, y, case, number)
    found: dict[str, Any] = {"y": divided[0].test.targets, "fold": np.array([one.fold_of for one in divided])}

    def true(model: Classifier, policy: Policy) -> list[float]:
        said = policy(model.predict_proba(held).probs, False)
        return [METRICS[name](truth, *said) for name in MEASURED]

    for method in METHODS:
        probs = np.zeros((len(divided), len(found["y"]), CLASSES))
        of_folds: list[list[float]] = []
        for repeat, splits in enumerate(divided):
            for fold, one in enumerate(splits.folds):
                model, policy = fitted(method, one.train, one.valid, 100 * repeat + fold)
                mine = splits.fold_of == fold
                probs[repeat, mine] = policy(model.predict_proba(one.test.texts).probs, False)[0]
                of_folds += [true(model, policy)] if repeat == 0 and method in ("words", "pairs") else []
        found[method] = probs
        found[f"{method} whole"] = np.array(true(*fitted(method, divided[0].train, divided[0].valid, 999)))
        found[f"{method} folds"] = np.mean(of_folds, axis=0) if of_folds else np.zeros(0)
    return found


def drawn(data: Path, kept: Path, worlds: int) -> None:
    """Fit what is not in `kept` yet."""
    problems = {name: commonest(data, name) for name in {case[0] for case in CASES}}
    for number in range(worlds):
        for case in CASES:
            path = kept / f"{case[0]}-{case[1]}-{case[2]}-{number}.npz"
            if not path.exists():
                np.savez(path, **world(problems[case[0]], case, number))
        print(f"world {number + 1} of {worlds}", file=sys.stderr, flush=True)


def share(hits: list[bool]) -> float:
    return round(float(np.mean(hits)), 4)


def runs_of(one: dict[str, np.ndarray], method: str, repeats: int) -> list[Predictions]:
    """The predictions of a method, one for each repeat."""
    ids, space = [str(i) for i in range(len(one["y"]))], LabelSpace(tuple("abcd"))
    return [Predictions(ids, one["y"], one[method][r], space, None, one["fold"][r]) for r in range(repeats)]


def scored(worlds: list[dict[str, np.ndarray]], repeats: int, at: int) -> dict[str, dict[str, float]]:
    """How often intervals of `words` hold each true score, and their width: of rows alone, and of folds."""
    metric = METRICS[MEASURED[at]]
    expected = float(np.mean([one["words folds"][at] for one in worlds]))
    held: dict[str, dict[str, list[Any]]] = {way: defaultdict(list) for way in ("rows", "folds")}
    for one in worlds:
        runs = runs_of(one, "words", repeats)
        rng = np.random.default_rng(0)
        found = {"folds": measure_folds(metric, runs, rng=rng, draws=DRAWS)}
        found["rows"] = bootstrap(metric, one["y"], runs[0].probs, rng=rng, draws=DRAWS)
        for way, interval in found.items():
            true = {"expected": expected, "fold models": one["words folds"][at], "saved model": one["words whole"][at]}
            for name, value in true.items():
                held[way][name].append(interval.low <= value <= interval.high)
            held[way]["width"].append(interval.high - interval.low)
    return {way: {name: share(values) for name, values in each.items()} for way, each in held.items()}


def differing(worlds: list[dict[str, np.ndarray]], repeats: int, at: int) -> dict[str, dict[str, float]]:
    """How often intervals hold the true difference of `words` and `pairs`, and how often two seeds are told apart."""
    metric = METRICS[MEASURED[at]]
    true = float(np.mean([one["words folds"][at] - one["pairs folds"][at] for one in worlds]))
    held: dict[str, dict[str, list[Any]]] = {way: defaultdict(list) for way in ("rows", "folds")}
    for one in worlds:
        y, rng = one["y"], np.random.default_rng(0)
        a, b = (runs_of(one, name, repeats) for name in ("words", "pairs"))
        found = {"folds": compare_folds(metric, a, b, rng=rng, draws=DRAWS)[0]}
        found["rows"] = bootstrap_difference(metric, y, a[0].probs, b[0].probs, rng=rng, draws=DRAWS)
        for way, interval in found.items():
            held[way]["difference"].append(interval.low <= true <= interval.high)
            held[way]["width"].append(interval.high - interval.low)
        first, second = (runs_of(one, name, repeats) for name in ("seed-0", "seed-1"))
        interval, p = compare_folds(metric, first, second, rng=rng, draws=DRAWS)
        held["folds"]["claimed"].append(p <= ALPHA and (interval.low > 0 or interval.high < 0))
        held["rows"]["claimed"].append(
            randomisation(metric, y, first[0].probs, second[0].probs, rng=rng, draws=199) <= ALPHA
        )
    return {way: {name: share(values) for name, values in each.items()} for way, each in held.items()}


def measured(kept: Path) -> list[dict[str, Any]]:
    """Every case, over the worlds that are in `kept`."""
    found = []
    for case in CASES:
        name, rows, folds, most = case
        worlds = [dict(np.load(path)) for path in sorted(kept.glob(f"{name}-{rows}-{folds}-*.npz"))]
        for repeats in sorted({1, most}):
            for at, metric in enumerate(MEASURED):
                cell: dict[str, Any] = {"set": name, "rows": rows, "folds": folds, "repeats": repeats, "metric": metric}
                cell["worlds"] = len(worlds)
                mean = [METRICS[metric](one["y"], one["words"][0]) - one["words whole"][at] for one in worlds]
                cell["below saved model"] = round(-float(np.mean(mean)), 4)
                cell["score"] = scored(worlds, repeats, at)
                cell["difference"] = differing(worlds, repeats, at)
                found.append(cell)
                print(json.dumps(cell), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--worlds", type=int, default=100, help="samples of each case")
    parser.add_argument("--kept", type=Path, required=True, help="folder of predictions")
    arguments = parser.parse_args()
    arguments.kept.mkdir(parents=True, exist_ok=True)
    drawn(arguments.data, arguments.kept, arguments.worlds)
    lines = ",\n  ".join(json.dumps(cell) for cell in measured(arguments.kept))
    (HERE / "folds.json").write_text(f'{{"cases": [\n  {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
