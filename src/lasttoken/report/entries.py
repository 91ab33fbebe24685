"""Entries: runs of one method grouped over seeds and training sizes.

An entry's runs have the same name and settings, except for the seed and the number of training rows. The report shows an
entry at its largest size: the run of the first seed, with scores as means over seeds.
"""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lasttoken.config.parse import flat
from lasttoken.evaluation.comparison import score
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.record.schema import Cost, Measure

VARYING = {"seed", "device", "data.train_rows", "data.split_seed"}  # settings in which runs of an entry may differ
DRAWS = 500  # for all metrics but the headline, which the comparison measures


M = TypeVar("M", bound=Measure)


@dataclass(frozen=True, eq=False)
class Entry:
    """One method with its settings: runs at the largest size, and at smaller ones."""

    runs: list[RunRecord]  # by seed
    smaller: dict[int, list[RunRecord]]  # training rows -> runs by seed

    @property
    def rows(self) -> int:
        """The training rows of its largest size."""
        return train_rows(self.runs[0])

    @property
    def predictions(self) -> list[Predictions]:
        """The predictions of each seed."""
        return [run.predictions for run in self.runs]

    def by_size(self) -> dict[int, list[Predictions]]:
        """Training rows -> predictions by seed."""
        smaller = {rows: [run.predictions for run in runs] for rows, runs in self.smaller.items()}
        return smaller | {self.rows: self.predictions}

    def view(self) -> RunRecord:
        """The run of the first seed, its scores and costs replaced by means over seeds where there are several."""
        first = self.runs[0]
        if len(self.runs) == 1:
            return first
        found = {
            name: Measure.model_validate(score(METRICS[name], self.predictions, seed=0, draws=DRAWS).to_dict())
            for name in first.test.metrics
        }
        measured = [{(one.name, one.words): one for one in run.test.further} for run in self.runs]
        common = [key for key in measured[0] if all(key in seed for seed in measured)]  # bands can differ between seeds
        further = [mean_of([seed[key] for seed in measured]) for key in common]
        test = first.test.model_copy(update={"metrics": found, "further": further})
        splits = {**first.measures.splits, "test": test}
        parts = [run.measures.brier for run in self.runs]
        brier = {of: mean_of([seed[of] for seed in parts]) for of in parts[0] if all(of in seed for seed in parts)}
        measures = first.measures.model_copy(update={"splits": splits, "cost": mean_cost(self.runs), "brier": brier})
        return replace(first, measures=measures)


def mean_of(found: Sequence[M]) -> M:
    """The mean of a metric over runs, without an interval."""
    mean = float(np.mean([one.estimate for one in found]))
    return found[0].model_copy(update={"estimate": mean, "low": math.nan, "high": math.nan})


def mean_cost(runs: Sequence[RunRecord]) -> Cost:
    """Times and rates as means over runs, peak memory as the maximum."""
    costs = [run.measures.cost for run in runs]
    means = ("train_seconds", "train_rows_per_second", "predict_rows_per_second")
    update = {name: float(np.mean([getattr(cost, name) for cost in costs])) for name in means}
    update |= {"peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs)}
    return costs[0].model_copy(update=update)


def train_rows(run: RunRecord) -> int:
    """How many rows a run was trained on."""
    return run.environment.data.rows["train"]


def entries(runs: Sequence[RunRecord]) -> list[Entry]:
    """The runs grouped into entries, in order of first appearance."""
    found: dict[object, dict[int, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[identity(run)][train_rows(run)].append(run)
    made = []
    for sizes in found.values():
        by_seed = {rows: sorted(those, key=lambda run: run.environment.seed) for rows, those in sizes.items()}
        for rows, those in by_seed.items():
            twice = {run.environment.seed for run in those}
            if len(twice) < len(those):  # the same seed twice: each run is an entry of its own
                by_seed[rows] = those[:1]
                made += [Entry([run], {}) for run in those[1:]]
        largest = max(by_seed)
        made.append(Entry(by_seed.pop(largest), by_seed))
    return sorted(made, key=lambda entry: [run is entry.runs[0] for run in runs].index(True))


def identity(run: RunRecord) -> object:
    """The key that runs of one entry share: name and settings."""
    told = {name: value for name, value in flat(tomllib.loads(run.config)) if name not in VARYING}
    return run.name, tuple(sorted((name, repr(value)) for name, value in told.items()))


def with_unique_names(found: Sequence[Entry]) -> list[Entry]:
    """The entries; those that share a name are called by their folder (two comparisons may both hold an `embedding`)."""
    names = [entry.runs[0].name for entry in found]
    return [renamed(entry) if names.count(entry.runs[0].name) > 1 else entry for entry in found]


def renamed(entry: Entry) -> Entry:
    """The entry, named after the folder of its first run."""
    name = "/".join(entry.runs[0].folder.absolute().parts[-2:])
    runs = [replace(run, measures=run.measures.model_copy(update={"name": name})) for run in entry.runs]
    return replace(entry, runs=runs)
