"""How often does a 95 % interval hold the true value? -> bench/quality/coverage.json

    python bench/quality/coverage.py [--sets 150]

Test sets of 8 to 300 rows are drawn from classifiers whose metrics are known from 200,000 rows: two and ten classes (or
labels), balanced and skewed, nearly perfect to poor, calibrated and overconfident. Each test set gives the interval of
every metric, and of the difference to a second classifier judged on the same rows. Beside it stands the percentile
bootstrap. The standard error of a coverage of .95 over 150 sets is .018.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.significance import bootstrap, bootstrap_difference, resamples

HERE = Path(__file__).parent
ROWS = (8, 12, 20, 40, 100, 300)
MANY = 100  # from so many rows on half of the test sets is drawn, as little can go wrong there
DRAWS = 200
POPULATION = 200_000  # rows that the true values are computed from
SINGLE = ("accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "classwise_ece", "auroc")
MULTI = (
    "subset_accuracy",
    "micro_f1",
    "macro_f1",
    "samples_f1",
    "p_at_1",
    "p_at_3",
    "log_loss",
    "brier",
    "ece",
    "auroc",
)
PAIRED = ("accuracy", "micro_f1", "macro_f1", "log_loss", "auroc")
PLAIN = ("accuracy", "macro_f1")  # that the percentile bootstrap is shown for


@dataclass(frozen=True)
class Case:
    """A population of rows and two classifiers of them."""

    classes: int
    skewed: bool  # each class half as frequent as the one before, down to 2 %
    strength: float  # how far the score of a true class lies above that of another, in standard deviations
    heat: float = 1.0  # 1: calibrated; above: overconfident
    multi: bool = False


def cases() -> list[Case]:
    found = []
    for classes in (2, 10):
        more = 0.6 * math.log(classes / 2)
        for skewed in (False, True):
            found += [
                Case(classes, skewed, 3 + more),
                Case(classes, skewed, 1.3 + more, 2.0),
                Case(classes, skewed, 0.5),
            ]
    found.append(Case(4, True, 2.0))
    for classes in (4, 10):
        found += [Case(classes, True, 4.0, multi=True), Case(classes, True, 2.0, 2.0, multi=True)]
        found.append(Case(classes, True, 1.0, multi=True))
    return found


def shares(case: Case) -> np.ndarray:
    """How frequent each class is, (C,); with several labels a row, each by itself."""
    frequent = np.maximum(0.5 ** np.arange(case.classes), 0.02) if case.skewed else np.ones(case.classes)
    return np.maximum(frequent, 0.05) * 0.5 if case.multi else frequent / frequent.sum()


def draw(case: Case, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, and the probabilities (N, C) of the two classifiers, whose errors are correlated."""
    prior = shares(case)
    if case.multi:
        y = rng.random((n, case.classes)) < prior
        truth = y - 0.5
    else:
        y = rng.choice(case.classes, n, p=prior)
        truth = np.eye(case.classes)[y]
    noise, other = rng.normal(size=(2, n, case.classes))
    said = []
    for strength, scores in ((case.strength, noise), (0.9 * case.strength, 0.8 * noise + 0.6 * other)):
        logits = strength * (scores + strength * truth)
        logits = case.heat * (logits + (np.log(prior / (1 - prior)) if case.multi else np.log(prior)))
        said.append(expit(logits) if case.multi else softmax(logits, axis=1))
    return y, said[0], said[1]


def percentile(name: str, y: np.ndarray, probs: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The ends of the percentile bootstrap (Efron 1979), which knows nothing of small samples."""
    formula, sums = METRICS[name].formula(y), METRICS[name].sums(y, probs)
    values = [formula.value(sums.weighted(weights), len(y)) for weights in resamples(len(y), DRAWS, rng)]
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975])
    return float(low), float(high)


def simulate(case: Case, n: int, sets: int, truth: dict[str, float]) -> dict[str, list[float]]:
    """Of each interval: share of the test sets that give one, share of these that hold the truth, mean width."""
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in truth}
    for i in range(sets):
        rng = np.random.default_rng((i, n, *json.dumps(asdict(case)).encode()))
        y, a, b = draw(case, n, rng)
        for name in truth:
            kind, _, metric = name.partition(" ")
            if kind == "own":
                one = bootstrap(METRICS[metric], y, a, rng=rng, draws=DRAWS)
            elif kind == "difference":
                one = bootstrap_difference(METRICS[metric], y, a, b, rng=rng, draws=DRAWS)
            else:
                ends[name].append(percentile(metric, y, a, rng))
                continue
            ends[name].append((one.low, one.high))
    result = {}
    for name, pairs in ends.items():
        low, high = np.array(pairs).T
        given = np.isfinite(low)
        # 1e-9: rounding of sums whose true value is an end, such as 0 or 1
        held = (low[given] <= truth[name] + 1e-9) & (truth[name] - 1e-9 <= high[given])
        result[name] = (
            [round(float(x), 4) for x in (given.mean(), held.mean(), (high - low)[given].mean())]
            if given.any()
            else [0.0]
        )
    return result


def truths(case: Case) -> dict[str, float]:
    """The true value of each figure by its name: `own accuracy`, `difference accuracy`, `percentile accuracy`."""
    y, a, b = draw(case, POPULATION, np.random.default_rng(0))
    found = {}
    for name in MULTI if case.multi else SINGLE:
        value = METRICS[name](y, a)
        found[f"own {name}"] = value
        if name in PAIRED:
            found[f"difference {name}"] = value - METRICS[name](y, b)
        if name in PLAIN:
            found[f"percentile {name}"] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=150, help="test sets of each size and case")
    parser.add_argument("--out", type=Path, default=HERE / "coverage.json")
    arguments = parser.parse_args()
    results = []
    for case in cases():
        truth = truths(case)
        by_rows = {str(n): simulate(case, n, arguments.sets // (1 if n < MANY else 2), truth) for n in ROWS}
        results.append(
            {
                **asdict(case),
                "truth": {k: round(v, 4) for k, v in truth.items() if k.startswith("own")},
                "rows": by_rows,
            }
        )
        lines = ",\n  ".join(json.dumps(one) for one in results)
        arguments.out.write_text(f'{{"sets": {arguments.sets}, "cases": [\n  {lines}\n]}}\n', encoding="utf-8")
        print(asdict(case), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
