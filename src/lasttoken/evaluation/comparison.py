"""Pairwise comparison of runs on the same test rows, with the verdict in words.

A difference is claimed only where two things agree: the test, after Holm's adjustment over all pairs, gives p <= .05,
and the interval of the difference excludes 0. Two single fits are compared by a randomisation test and
`bootstrap_difference`; with several seeds, test and interval come from seeds.py, which counts seeds and rows; after a
cross-validation from folds.py, which knows that folds share rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from lasttoken.errors import DataError
from lasttoken.evaluation.folds import compare_folds, freedom_of, judged_by_folds, measure_folds, paired
from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.metrics import HEADLINE, METRICS, Metric, named
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.seeds import Repeats, compare_means, measure_mean, right_share, values
from lasttoken.evaluation.significance import (
    DRAWS,
    bootstrap_difference,
    detectable_rows,
    holm,
    mcnemar,
    minimum_detectable_effect,
    randomisation,
)
from lasttoken.evaluation.summary import measure
from lasttoken.seed import generator
from lasttoken.wording import counted, figure, listed, p_value, span

ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """Two runs a and b on the same N rows. Differences are of the metric (its mean over seeds), a less b."""

    a: str
    b: str
    metric: str
    n: int
    family: int  # how many pairs were tested together
    difference: Interval
    p: float  # randomisation test; Student's t where there are several seeds or folds
    p_mcnemar: float  # of exactly right rows (with many labels the whole set); nan with several seeds or folds
    p_mcnemar_holm: float  # adjusted for all pairs
    p_holm: float  # p, adjusted over the family
    mde: float  # true difference detected with 80 % power, adjusted for the family; nan where N < 2
    only_a: int = 0  # rows that only a has exactly right, or more of its seeds than of b's: McNemar's effect size
    only_b: int = 0
    seeds: tuple[int, int] = (1, 1)
    folds: int = 0  # of the cross-validation that judged them; 0: a test part did

    @property
    def shown(self) -> bool:
        """Whether the two are shown to differ."""
        return self.p_holm <= ALPHA and (self.difference.low > 0 or self.difference.high < 0)

    @property
    def winner(self) -> str | None:
        """The run shown to be better, None where neither is."""
        a_is_better = (self.difference.estimate > 0) == METRICS[self.metric].higher_is_better
        return (self.a if a_is_better else self.b) if self.shown else None

    @property
    def verdict(self) -> str:
        """One sentence, without a full stop."""
        words, found = METRICS[self.metric].words, self.difference
        if math.isnan(found.estimate):
            return f"no difference can be shown between {self.a} and {self.b}: {words} is undefined on these rows"
        if math.isnan(found.low):
            rows = counted(self.n, "row is", "rows are")
            return (
                f"no difference can be shown between {self.a} and {self.b}: {rows} too few for an interval of {words}"
            )
        if found.estimate == found.standard_error == 0:
            return f"{self.a} and {self.b} are the same on these {self.n:,} rows by {words}"
        p = p_value(self.p_holm) + (" (Holm)" if self.family > 1 else "")
        if self.winner is None:
            told = f"no difference shown between {self.a} and {self.b} ({figure(found.estimate)} {span(found.low, found.high)}, {p})"
            if math.isnan(self.mde):
                return f"{told}; these rows are too few to show one of any size"
            return f"{told}; {'these rows' if self.folds else 'this test set'} would show one of {figure(self.mde)} or more"
        ends = sorted((abs(found.low), abs(found.high)))
        loser = self.b if self.winner == self.a else self.a
        return f"{self.winner} beats {loser} by {figure(abs(found.estimate))} {words} {span(*ends)}, {p}"

    @property
    def test(self) -> str:
        """The test that gave p."""
        if self.folds:
            return "corrected t over folds"
        return "randomisation" if max(self.seeds) == 1 else "t over rows and seeds"

    def to_dict(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference.to_dict(),
            "test": self.test,
            "p": self.p,
            "p_mcnemar": None if math.isnan(self.p_mcnemar) else self.p_mcnemar,
            "p_mcnemar_holm": None if math.isnan(self.p_mcnemar_holm) else self.p_mcnemar_holm,
            "p_holm": self.p_holm,
            "mde": None if math.isnan(self.mde) else self.mde,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "seeds": list(self.seeds),
            "winner": self.winner,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """Every run's score and every pair's verdict, by one metric on the same N rows."""

    metric: str
    n: int
    level: float
    draws: int
    seed: int
    reference: str | None  # the run that every pair contains; None: all pairs of runs
    scores: dict[str, Interval]
    by_seed: dict[str, list[float]]  # the score of each seed
    pairs: list[Pair]
    folds: int = 0  # of the cross-validation that judged every run; 0: a test part did

    def score(self, name: str) -> str:
        """linear (.705)."""
        return f"{name} ({figure(self.scores[name].estimate)})"

    def summary(self) -> str:
        """The best run, and how it compares with the others."""
        metric = METRICS[self.metric]
        known = {name: found.estimate for name, found in self.scores.items() if not math.isnan(found.estimate)}
        if not known:
            return f"{metric.words} is undefined on these rows, so nothing can be compared."
        best = (max if metric.higher_is_better else min)(known, key=known.__getitem__)
        how = "highest" if metric.higher_is_better else "lowest, which is best"
        if len(self.scores) == 1:
            return f"{best} scores {figure(known[best])} {metric.words}; there is no other run to compare it with."
        seeds = len(self.by_seed[best])
        repeats = f"{seeds} {'repeats' if self.folds else 'seeds'}"
        mean = f", mean of {repeats}" if seeds > 1 else ""
        mean += f"{' of' if seeds > 1 else ','} {self.folds}-fold cross-validation" if self.folds else ""
        alike = [name for name, value in known.items() if value == known[best]]
        score = f"({figure(known[best])} {metric.words}{mean})"
        if len(alike) == len(self.scores):
            return f"{listed(alike)} score alike {score}."
        said = f"{listed(alike)} score{'s' * (len(alike) == 1)} {how} {score}"
        return said + (self.standing(best, alike) if self.reference is None else self.standing(self.reference)) + "."

    def standing(self, name: str, alike: Sequence[str] = ()) -> str:
        """How one run compares with those it was paired with, as the rest of a sentence. alike: named with it already."""
        pairs = [(pair, pair.b if pair.a == name else pair.a) for pair in self.pairs if name in (pair.a, pair.b)]
        pairs = [(pair, other) for pair, other in pairs if other not in alike]
        level = [self.score(other) for pair, other in pairs if pair.winner is None]
        worse = [self.score(other) for pair, other in pairs if pair.winner == name]
        better = [self.score(other) for pair, other in pairs if pair.winner == other]
        said = f"; {self.score(name)} is" if self.reference or len(alike) > 1 else ";"
        parts = [
            *([f"{said} not shown to differ from {listed(level)}"] if level else []),
            *([f"{said} shown to beat {listed(worse)}"] if worse else []),
            *([f"{said} beaten by {listed(better)}"] if better else []),
        ]
        return "".join(parts)

    def spread(self, name: str) -> dict[str, float | None]:
        """Standard deviations of a run's score: between seeds, and between test sets of this size with the seeds fixed."""
        found, error = np.array(self.by_seed[name]), self.scores[name].standard_error
        seeds = float(found.std(ddof=1))
        # nan where there is no standard error, or where folds make up for both
        rows = math.nan if self.folds else math.sqrt(max(0.0, error**2 - seeds**2 / len(found)))
        return {of: None if math.isnan(value) else value for of, value in (("seeds", seeds), ("rows", rows))}

    def to_dict(self) -> dict[str, Any]:
        """For JSON; undefined values are None."""
        return {
            "metric": self.metric,
            "n": self.n,
            "level": self.level,
            "draws": self.draws,
            "seed": self.seed,
            "reference": self.reference,
            "folds": self.folds,
            "scores": {name: found.to_dict() for name, found in self.scores.items()},
            "by_seed": {name: [None if math.isnan(x) else x for x in found] for name, found in self.by_seed.items()},
            "spread": {name: self.spread(name) for name, found in self.by_seed.items() if len(found) > 1},
            "pairs": [pair.to_dict() for pair in self.pairs],
            "summary": self.summary(),
        }


def compare(
    runs: Mapping[str, Predictions | Repeats],
    *,
    metric: str = HEADLINE,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
    reference: str | None = None,
) -> Comparison:
    """Every pair of runs by `metric`, or with `reference` every run against that one.

    A run may be several fits, one for each seed, or the repeats of a cross-validation, where Predictions have folds. The
    adjustment grows with the number of pairs, so name a reference where only it matters. Rows may be in any order.
    Raises DataError where the runs were not judged on the same rows, targets and labels.
    """
    if not isinstance(runs, Mapping):
        raise DataError(
            f"runs is a {type(runs).__name__}; give the Predictions of each by its name: {{'a': ..., 'b': ...}} (to compare "
            "run folders use `lasttoken report A B`)"
        )
    if not runs:
        raise DataError("there are no runs to compare; name one or more")
    if reference is not None and reference not in runs:
        raise DataError(f"reference {reference!r} is not among the runs {list(runs)}")
    lists: dict[str, list[Any]] = {
        name: list(one) if isinstance(one, Iterable) and not isinstance(one, Predictions) else [one]
        for name, one in runs.items()
    }
    for name, one in lists.items():
        odd = next((type(fit).__name__ for fit in one if not isinstance(fit, Predictions)), None)
        if odd or not one:
            raise DataError(
                f"run {name!r} holds {odd or 'nothing'}; give its Predictions, or a list of them, one a seed"
            )
    fits = align(lists)
    first = next(iter(fits.values()))[0]
    chosen = named(metric, first.labels.multi)
    crossed = judged_by_folds([fit for one in fits.values() for fit in one])
    folds = int(first.fold.max()) + 1 if crossed and first.fold is not None else 0
    scores = {name: score(chosen, one, seed=seed, draws=draws, level=level) for name, one in fits.items()}
    order = sorted(
        scores, key=lambda name: (chosen.place(scores[name].estimate), name)
    )  # independent of the order given
    names = [pair for pair in itertools.combinations(order, 2) if reference is None or reference in pair]
    pairs = [tested(chosen, fits, pair, family=len(names), seed=seed, draws=draws, level=level) for pair in names]
    adjusted = zip(holm([pair.p for pair in pairs]), holm([pair.p_mcnemar for pair in pairs]), strict=True)
    pairs = [replace(pair, p_holm=p, p_mcnemar_holm=q) for pair, (p, q) in zip(pairs, adjusted, strict=True)]
    by_seed = {name: values(chosen, one).tolist() for name, one in fits.items()}
    return Comparison(metric, len(first), level, draws, seed, reference, scores, by_seed, pairs, folds)


def score(metric: Metric, repeats: Repeats, *, seed: int, draws: int = DRAWS, level: float = 0.95) -> Interval:
    """The metric of one run, or its mean over seeds, with its interval."""
    if len(repeats) > 1 and repeats[0].fold is not None:
        return measure_folds(metric, repeats, rng=generator(seed, "intervals"), draws=draws, level=level)
    if len(repeats) == 1:
        return measure(repeats[0], metric.name, seed=seed, draws=draws, level=level)
    return measure_mean(metric, repeats, rng=generator(seed, "intervals"), draws=draws, level=level)


def tested(
    metric: Metric,
    runs: Mapping[str, Repeats],
    names: tuple[str, str],
    *,
    family: int,
    seed: int,
    draws: int,
    level: float,
) -> Pair:
    """One pair, before Holm's adjustment. Its random numbers depend on its two names, not on the other pairs.

    The detectable effect is at alpha / family, the strictest of Holm's levels.
    """
    of_a, of_b = runs[names[0]], runs[names[1]]
    a, b = of_a[0], of_b[0]
    y, of = a.targets, f"{metric.name} of {names[0]} and {names[1]}"
    rng = generator(seed, f"difference in {of}")
    freedom, one_fit = math.inf, len(of_a) == len(of_b) == 1 and a.fold is None
    if a.fold is not None:
        of_a, of_b = paired(of_a, of_b, names)
        difference, p = compare_folds(metric, of_a, of_b, rng=rng, draws=draws, level=level)
        freedom = freedom_of(of_a)
    elif one_fit:
        chosen = a.chosen, b.chosen
        difference = bootstrap_difference(metric, y, a.probs, b.probs, chosen=chosen, rng=rng, draws=draws, level=level)
        swaps = generator(seed, f"swaps in {of}")
        p = randomisation(metric, y, a.probs, b.probs, chosen=chosen, rng=swaps, draws=draws)
    else:
        difference, p = compare_means(metric, of_a, of_b, rng=rng, draws=draws, level=level)
    gain = right_share(of_a) - right_share(of_b)
    # for single fits only: it ignores the variance between seeds and between training sets, and claims too much
    p_mcnemar = mcnemar(gain > 0, gain < 0) if one_fit else math.nan
    each = metric.by_row(y, a.probs, a.chosen) if one_fit and metric.of_decisions else None
    of_rights = each is not None and bool(np.isin(each, (0, 1)).all())
    return Pair(
        *names,
        metric=metric.name,
        n=len(y),
        family=family,
        difference=difference,
        p=p,
        p_mcnemar=p_mcnemar,
        p_mcnemar_holm=p_mcnemar,
        p_holm=p,
        mde=detectable(metric, difference, len(y) if of_rights else 0, ALPHA / family, freedom),
        only_a=int((gain > 0).sum()),
        only_b=int((gain < 0).sum()),
        seeds=(len(of_a), len(of_b)),
        folds=0 if a.fold is None else int(a.fold.max()) + 1,
    )


def detectable(metric: Metric, difference: Interval, rows: int, alpha: float, freedom: float) -> float:
    """The true difference that is shown with 80 % power; nan where there is no interval, or the metric has none as large.

    The test must show it at `alpha`, and the interval, which no family widens, exclude 0. rows: of which the metric is a
    mean of rights and wrongs, which few rows that differ cannot show; 0 where it is none.
    """
    if math.isnan(difference.low):
        return math.nan
    effect = minimum_detectable_effect(difference.standard_error or math.nan, alpha=alpha, freedom=freedom)
    most = metric.bounds[1] - metric.bounds[0]
    if math.isfinite(freedom):
        return effect if effect <= most else math.nan
    half = (difference.high - difference.low) / 2 / NormalDist().inv_cdf((1 + difference.level) / 2)
    effect = max(effect, minimum_detectable_effect(half or math.nan, alpha=1 - difference.level))
    effect = max(effect, detectable_rows(alpha=alpha) / rows) if rows else effect
    return effect if effect <= most else math.nan


def align(runs: Mapping[str, Repeats]) -> dict[str, list[Predictions]]:
    """The runs with their rows in the order of the first. Raises DataError where their rows differ."""
    first, (base, *_) = next(iter(runs.items()))
    return {name: [aligned(name, one, first, base) for one in repeats] for name, repeats in runs.items()}


def aligned(name: str, run: Predictions, first: str, base: Predictions) -> Predictions:
    """`run` in the row order of `base`. Raises DataError where rows, targets or labels differ."""
    if run is base:
        return run
    remedy = "compare runs that predict the same test set"
    redo = "train them on the same file with the same seed and data.valid_share, which decide what test rows are"
    if run.labels != base.labels:
        raise DataError(f"{name} and {first}: {label_difference(run, base)}; {remedy}")
    place = {id_: i for i, id_ in enumerate(run.ids)}
    for which, one in ((name, run), (first, base)):
        if len(set(one.ids)) < len(one):
            raise DataError(f"{which}: {len(one) - len(set(one.ids))} of {len(one)} row ids repeat; ids must differ")
    missing = [id_ for id_ in base.ids if id_ not in place]
    extra = sorted(place.keys() - set(base.ids))
    if missing or extra:
        example = f"{missing[0]!r} is only in {first}" if missing else f"{extra[0]!r} is only in {name}"
        raise DataError(
            f"{name} and {first} were judged on different rows: {len(missing)} of {len(base)} rows of {first} are not "
            f"in {name}, {len(extra)} of {len(run)} rows of {name} are not in {first}, for example {example}; {redo}"
        )
    order = np.array([place[id_] for id_ in base.ids], dtype=np.int64)
    targets = run.targets[order]
    differs = np.flatnonzero((targets != base.targets).reshape(len(base), -1).any(axis=1)) if len(base) else order
    if len(differs):
        raise DataError(
            f"{name} and {first} hold different targets for {len(differs)} of {len(base)} rows, "
            f"first id {base.ids[differs[0]]!r}; {remedy}"
        )
    return run.take(order)


def label_difference(run: Predictions, base: Predictions) -> str:
    """What differs between two label spaces that are not equal."""
    if run.labels.multi != base.labels.multi:
        return "one has a single label a row, the other any number"
    only = sorted(set(run.labels.names) ^ set(base.labels.names))
    if not only:
        return "their labels are in different orders"
    return f"{len(only)} labels are in only one of them, for example {only[0]!r}"
