"""How often does `compare` claim a difference where there is none? -> bench/quality/false_positives.json

    python bench/quality/false_positives.py [--sets 4000]

Data sets are drawn under the null: methods that are equally good, their noise independent given the truth. The test
alone should be right to reject in one of twenty; a claim, which needs the interval too and Holm's adjustment, in at most
as many. Standard error of a share of .05 over 4,000 data sets: .0034.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from lasttoken.evaluation.comparison import ALPHA, Comparison, compare
from lasttoken.evaluation.intervals import share_of
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.significance import mcnemar
from lasttoken.labels import LabelSpace

HERE = Path(__file__).parent
DRAWS = 199  # of the randomisation test: p-values are multiples of 1 / 200, so that p <= .05 is met exactly
ROWS, STRENGTH, SEEDS = 200, 1.0, 3
ONE = LabelSpace(("a", "b", "c"), False)
MANY = LabelSpace(("a", "b", "c", "d", "e", "f"), True)
SHARES = (0.5, 0.35, 0.2, 0.1, 0.1, 0.05)  # of the rows that have each of MANY
OF_A_SEED = 0.15  # standard deviation of what another seed adds to STRENGTH


def one_label(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Targets (N,), one class twice as frequent as the others."""
    return rng.choice(len(ONE), rows, p=(0.5, 0.25, 0.25))


def many_labels(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Targets (N, C)."""
    return rng.random((rows, len(MANY))) < SHARES


def said(y: np.ndarray, rng: np.random.Generator, seeds: int = 1) -> list[Predictions]:
    """What a method's fits say of the rows, knowing the truth in noise."""
    multi = y.ndim == 2
    truth = y.astype(float) if multi else np.eye(len(ONE))[y]
    found = []
    for _ in range(seeds):
        strength = STRENGTH + (rng.normal(0, OF_A_SEED) if seeds > 1 else 0)
        scores = rng.normal(size=truth.shape) + 2 * strength * (truth - 0.5)  # (N, C)
        probs = 1 / (1 + np.exp(-scores)) if multi else np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        found.append(Predictions([str(i) for i in range(len(y))], y, probs, MANY if multi else ONE))
    return found


def trial(case: str, seed: int) -> Comparison:
    """The comparison of one data set."""
    draw, metric, methods, seeds, rows = CASES[case]
    rng = np.random.default_rng((seed, *case.encode()))
    y = draw(rng, rows)
    return compare({name: said(y, rng, seeds) for name in "ABC"[:methods]}, metric=metric, seed=seed, draws=DRAWS)


CASES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], str, int, int, int]] = {
    # words of the table: (targets, metric, methods, seeds of each, rows)
    "one label, accuracy": (one_label, "accuracy", 2, 1, ROWS),
    "one label, macro-F1": (one_label, "macro_f1", 2, 1, ROWS),
    "one label, log-loss": (one_label, "log_loss", 2, 1, ROWS),
    "one label, AUROC": (one_label, "auroc", 2, 1, ROWS),
    "several labels, micro-F1": (many_labels, "micro_f1", 2, 1, ROWS),
    "several labels, macro-F1": (many_labels, "macro_f1", 2, 1, ROWS),
    "one label, macro-F1, three methods": (one_label, "macro_f1", 3, 1, ROWS),
    "one label, macro-F1, three seeds each": (one_label, "macro_f1", 2, SEEDS, ROWS),
    "8 rows, one label, accuracy": (one_label, "accuracy", 2, 1, 8),
    "8 rows, one label, macro-F1": (one_label, "macro_f1", 2, 1, 8),
    "8 rows, several labels, micro-F1": (many_labels, "micro_f1", 2, 1, 8),
    "20 rows, one label, macro-F1": (one_label, "macro_f1", 2, 1, 20),
    "20 rows, one label, macro-F1, three seeds each": (one_label, "macro_f1", 2, SEEDS, 20),
}


def outcome(task: tuple[str, int]) -> tuple[bool, bool, bool]:
    """(the first pair's test rejects, the exact McNemar test of that pair rejects, any difference is claimed)."""
    found = trial(*task)
    pair, rows = found.pairs[0], np.arange(found.n)
    only_b = (rows >= pair.only_a) & (rows < pair.only_a + pair.only_b)
    split = mcnemar(rows < pair.only_a, only_b)  # of the majority of seeds too, where `compare` makes no such test
    return pair.p <= ALPHA, split <= ALPHA, any(one.shown for one in found.pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4000, help="data sets a case")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    results = {}
    with Pool(arguments.processes) as pool:
        for case in CASES:
            found = np.array(pool.map(outcome, [(case, seed) for seed in range(arguments.sets)], chunksize=20))
            shares = [share_of(column.astype(float)).to_dict() for column in found.T]
            results[case] = dict(zip(("test", "mcnemar", "claimed"), shares, strict=True))
            print(case, [round(share["estimate"] or 0.0, 4) for share in shares], file=sys.stderr, flush=True)
    whole = {"sets": arguments.sets, "rows": ROWS, "draws": DRAWS, "cases": results}
    (HERE / "false_positives.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
