"""Runs that belong together: one method's fits with other seeds, and its fits on fewer training rows.

Runs are of one entry where they bear one name and differ in nothing but seed and number of training rows. What is shown
of an entry is its largest size: the run of the first seed, its scores being means over seeds.
"""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lasttoken.config import flat
from lasttoken.evaluation.comparison import score
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import Predictions
from lasttoken.report.collect import Cost, Measure, RunView

APART = {"seed", "device", "data.train_rows", "data.split_seed"}  # settings in which runs of an entry may differ
DRAWS = 500  # for what stands beside the headline, which the comparison measures


M = TypeVar("M", bound=Measure)


@dataclass(frozen=True, eq=False)
class Entry:
    """One method as it was told, at its largest size, with the sizes below."""

    runs: list[RunView]  # by seed
    smaller: dict[int, list[RunView]]  # training rows -> runs by seed

    @property
    def rows(self) -> int:
        """The training rows of its largest size."""
        return train_rows(self.runs[0])

    @property
    def predictions(self) -> list[Predictions]:
        """Of each seed."""
        return [run.predictions for run in self.runs]

    def by_size(self) -> dict[int, list[Predictions]]:
        """Training rows -> predictions by seed."""
        smaller = {rows: [run.predictions for run in runs] for rows, runs in self.smaller.items()}
        return smaller | {self.rows: self.predictions}

    def view(self) -> RunView:
        """The run of the first seed, its scores and costs replaced by means over seeds where there are several."""
        first = self.runs[0]
        if len(self.runs) == 1:
            return first
        found = {
            name: Measure.model_validate(score(METRICS[name], self.predictions, seed=0, draws=DRAWS).to_dict())
            for name in first.test.metrics
        }
        measured = [{(one.name, one.words): one for one in run.test.further} for run in self.runs]
        common = [key for key in measured[0] if all(key in seed for seed in measured)]  # a seed's rows make its bands
        further = [mean_of([seed[key] for seed in measured]) for key in common]
        test = first.test.model_copy(update={"metrics": found, "further": further})
        splits = {**first.measures.splits, "test": test}
        parts = [run.measures.brier for run in self.runs]
        brier = {of: mean_of([seed[of] for seed in parts]) for of in parts[0] if all(of in seed for seed in parts)}
        measures = first.measures.model_copy(update={"splits": splits, "cost": mean_cost(self.runs), "brier": brier})
        return replace(first, measures=measures)


def mean_of(found: Sequence[M]) -> M:
    """The mean of a measure over runs, without an interval."""
    mean = float(np.mean([one.estimate for one in found]))
    return found[0].model_copy(update={"estimate": mean, "low": math.nan, "high": math.nan})


def mean_cost(runs: Sequence[RunView]) -> Cost:
    """Times and rates as means over runs, memory as its largest."""
    costs = [run.measures.cost for run in runs]
    means = ("train_seconds", "train_rows_per_second", "predict_rows_per_second")
    update = {name: float(np.mean([getattr(cost, name) for cost in costs])) for name in means}
    update |= {"peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs)}
    return costs[0].model_copy(update=update)


def train_rows(run: RunView) -> int:
    """How many rows a run was trained on."""
    return run.environment.data.rows["train"]


def entries(runs: Sequence[RunView]) -> list[Entry]:
    """The runs in their entries, in the order in which each first appears."""
    found: dict[object, dict[int, list[RunView]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[identity(run)][train_rows(run)].append(run)
    made = []
    for sizes in found.values():
        by_seed = {rows: sorted(those, key=lambda run: run.environment.seed) for rows, those in sizes.items()}
        for rows, those in by_seed.items():
            twice = {run.environment.seed for run in those}
            if len(twice) < len(those):  # the same fit twice is no second seed: each stands for itself
                by_seed[rows] = those[:1]
                made += [Entry([run], {}) for run in those[1:]]
        largest = max(by_seed)
        made.append(Entry(by_seed.pop(largest), by_seed))
    return sorted(made, key=lambda entry: [run is entry.runs[0] for run in runs].index(True))


def identity(run: RunView) -> object:
    """What runs of one entry share."""
    told = {name: value for name, value in flat(tomllib.loads(run.config)) if name not in APART}
    return run.name, tuple(sorted((name, repr(value)) for name, value in told.items()))


def told_apart(found: Sequence[Entry]) -> list[Entry]:
    """The entries, with the folder in the names of those that share one: two comparisons may both hold an `embedding`."""
    names = [entry.runs[0].name for entry in found]
    return [renamed(entry) if names.count(entry.runs[0].name) > 1 else entry for entry in found]


def renamed(entry: Entry) -> Entry:
    """The entry under the name of its first run's folder."""
    name = "/".join(entry.runs[0].folder.absolute().parts[-2:])
    runs = [replace(run, measures=run.measures.model_copy(update={"name": name})) for run in entry.runs]
    return replace(entry, runs=runs)
