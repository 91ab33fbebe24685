"""How often is a promise made that does not hold? -> bench/quality/guarantees.json

    python bench/quality/guarantees.py [--sets 4000]

A threshold for a wanted precision and the confidence below which to abstain are chosen on simulated validation rows whose
true probabilities are known, so that what the choice is really worth is known too. The rule of `lasttoken` stands beside
two others: every cut tried without a correction, and ten cuts with Bonferroni's. Standard error of a share of .1 over
4,000 data sets: .0047.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from lasttoken.evaluation.decisions import SURE, WRONG, lowest_share, most_shown
from lasttoken.evaluation.intervals import share_of

HERE = Path(__file__).parent
CUTS = 10  # of the rule with Bonferroni's correction
SHORT = 1e-9  # by which a share misses what is wanted where every promise is broken


@dataclass(frozen=True)
class Case:
    """Rows, and what is promised of the surest of them: a share `wanted` is right, but for `chance`."""

    rows: int
    wanted: float
    chance: float
    draw: Callable[[np.random.Generator, int], np.ndarray]  # rows -> what is claimed of each (N,)
    calibrated: bool = True  # a claim is the probability of being right; else it says nothing, and `wanted` is missed


def no_matter(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Claims of any size."""
    return rng.uniform(0.5, 1, rows)


def of_a_label(rng: np.random.Generator, rows: int) -> np.ndarray:
    """The claims of a label that one row of four has."""
    return expit(rng.normal(-1.5, 1.5, rows))


def of_decisions(rng: np.random.Generator, rows: int) -> np.ndarray:
    """The claims of the labels decided for, of which nine of ten are right."""
    return 1 - rng.beta(0.6, 3, rows) * 0.6


CASES = {
    "precision .9 of a label, nothing shows it": Case(300, 0.9, 1 - SURE, no_matter, calibrated=False),
    "precision .7 of a label": Case(1000, 0.7, 1 - SURE, of_a_label),
    "precision .8 of a label": Case(1000, 0.8, 1 - SURE, of_a_label),
    "5 % wrong, nothing shows it": Case(300, 0.95, WRONG, no_matter, calibrated=False),
    "5 % wrong": Case(300, 0.95, WRONG, of_decisions),
    "5 % wrong, more rows": Case(1000, 0.95, WRONG, of_decisions),
}


def every_cut(hits: np.ndarray, wanted: float, chance: float) -> int:
    """The last count that shows it, of all there are."""
    shown = np.flatnonzero(lowest_share(hits, np.arange(1, len(hits) + 1), 1 - chance) >= wanted)
    return int(shown[-1]) + 1 if len(shown) else 0


def ten_cuts(hits: np.ndarray, wanted: float, chance: float) -> int:
    """The last of ten counts that shows it at a tenth of the chance."""
    counts = len(hits) * np.arange(1, CUTS + 1) // CUTS
    shown = lowest_share(hits[counts - 1], counts, 1 - chance / CUTS) >= wanted
    return int(counts[shown].max(initial=0))


def outcomes(case: Case, seed: int) -> dict[str, tuple[bool, float]]:
    """rule -> (whether it promises what does not hold, the share of the rows it promises it of) on one data set."""
    rng = np.random.default_rng(seed)
    sure = np.sort(case.draw(rng, case.rows))[::-1]
    truth = sure if case.calibrated else np.full(case.rows, case.wanted - SHORT)
    hits = np.cumsum(rng.random(case.rows) < truth)
    counts = {
        "lasttoken": most_shown(sure, hits, case.wanted, case.chance),
        "every cut, uncorrected": every_cut(hits, case.wanted, case.chance),
        "ten cuts, Bonferroni": ten_cuts(hits, case.wanted, case.chance),
    }
    return {rule: (broken(case, sure, count), count / case.rows) for rule, count in counts.items()}


def broken(case: Case, sure: np.ndarray, count: int) -> bool:
    """Whether rows as sure as the `count` first ones are right less often than is promised; never where none are."""
    if not count or not case.calibrated:
        return count > 0
    many = population(case.draw)
    return bool(many[many >= sure[count - 1]].mean() < case.wanted)


@functools.cache
def population(draw: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
    """What is claimed of all rows there could be, as good as."""
    return draw(np.random.default_rng(0), 200_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4000, help="data sets a case")
    arguments = parser.parse_args()
    results = {}
    for name, case in CASES.items():
        found = [outcomes(case, seed) for seed in range(arguments.sets)]
        results[name] = {"rows": case.rows, "allowed": round(case.chance, 6), "rules": {}}
        for rule in found[0]:
            breaks = share_of(np.array([one[rule][0] for one in found], dtype=float)).to_dict()
            of_rows = float(np.mean([one[rule][1] for one in found]))
            results[name]["rules"][rule] = {"broken": breaks, "of_rows": round(of_rows, 4)}
            print(f"{name}: {rule}: {breaks['estimate']:.4f} broken, of {of_rows:.1%}", file=sys.stderr, flush=True)
    whole = {"sets": arguments.sets, "cases": results}
    (HERE / "guarantees.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
