"""From probabilities to decisions: thresholds for what one wants, at least one label, the top k, or no answer at all.

A rule is made on validation rows and applied to any others. Thresholds chosen label by label fit the noise of rare
labels, so a rare label's is drawn to the threshold of all labels, and what is promised comes from rows held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from lasttoken.errors import DataError
from lasttoken.evaluation.calibration import FOLDS, MORE_ROWS, folds_of
from lasttoken.evaluation.costs import cheapest
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import HALF, most_probable
from lasttoken.hierarchy import Above, consistent, upwards

SURE = 0.9  # confidence at which a label is to have the precision or recall that is wanted
WRONG = 0.05  # chance that what abstaining promises does not hold
GROWTH = 1.15  # of the rows that are tried, one step after another, where a promise is to be kept
NEVER = 1.0 + 1e-9  # a threshold that no probability reaches
NEEDED = 50  # validation rows below which no threshold is chosen
SHRINK = 10.0  # true rows that the threshold of all labels weighs against a label's own
SHRINKS = (SHRINK, 40.0, 160.0, 640.0, np.inf)  # until micro-F1 stands
MICRO_LOSS = 0.005  # of micro-F1 that macro-F1 may cost
OBJECTIVES = ("auto", "half", "micro_f1", "macro_f1", "samples_f1", "precision", "recall", "cost")


@dataclass(frozen=True, eq=False)
class Rule:
    """How probabilities (N, C) become decisions. Thresholds and what follows on them are for several labels a row."""

    thresholds: np.ndarray | None = None  # (C,); None: one half
    at_least_one: bool = False  # the most probable label where none reaches its threshold
    top: int = 0  # so many of the most probable labels, whatever the thresholds; 0: by threshold
    abstain_below: float = 0.0  # confidence below which a row is left to a person
    set_from: float = 0.0  # raw probability from which a label belongs to the row's conformal set ...
    coverage: float = 0.0  # ... which was made for this coverage; 0: no sets
    above: Above = ()  # the columns above each label, without which it is not given
    costs: np.ndarray | None = None  # (C, C) of what is true by what is decided, with one label a row; None: all alike

    def __call__(self, probs: np.ndarray, multi: bool) -> np.ndarray:
        """The most probable column (N,) int64, or the one that costs least, NOTHING where all are 0; with `multi` the labels
        decided for, (N, C) bool.
        """
        if not multi:
            return most_probable(probs) if self.costs is None else cheapest(probs, self.costs)
        if self.top:
            depth = np.array([len(ups) for ups in self.above]) if self.above else np.zeros(probs.shape[1])
            order = np.lexsort((np.broadcast_to(depth, probs.shape), -probs), axis=1)[:, : self.top]  # parents first
            chosen = np.zeros(probs.shape, dtype=bool)
            np.put_along_axis(chosen, order, values=True, axis=1)
            return consistent(chosen, self.above)
        limits = np.full(probs.shape[1], HALF) if self.thresholds is None else self.thresholds
        chosen = consistent(probs >= limits, self.above)
        if self.at_least_one:
            none = ~chosen.any(axis=1)
            closeness = probs / np.maximum(limits, 1e-12) - (limits >= NEVER)  # what is never given comes last
            chosen[none, closeness[none].argmax(axis=1)] = True
            chosen[none] = upwards(chosen[none], self.above)
        return chosen

    def abstains(self, probs: np.ndarray, multi: bool) -> np.ndarray:
        """The rows (N,) bool whose confidence is too low to decide."""
        return confidence(probs, self(probs, multi)) < self.abstain_below

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Rule:
        """What `to_dict` gave."""
        arrays = {name: stored.get(name) for name in ("thresholds", "costs")}
        arrays = {name: None if found is None else np.array(found, dtype=np.float64) for name, found in arrays.items()}
        above = tuple(tuple(ups) for ups in stored.get("above", ()))
        return cls(**{**stored, **arrays, "above": above})


def confidence(probs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How sure a row's decision is (N,): the probability of what was decided, with many labels of the least sure of them."""
    if chosen.ndim == 2:
        return np.where(chosen, probs, 1 - probs).min(axis=1)
    return probs[np.arange(len(probs)), chosen]


def fit_thresholds(
    probs: np.ndarray,
    y: np.ndarray,
    *,
    objective: str,
    wanted: float = 0.9,
    false_cost: float | np.ndarray = 1.0,
    missed_cost: float | np.ndarray = 1.0,
    seed: int = 0,
    above: Above = (),
    raw: np.ndarray | None = None,
) -> tuple[np.ndarray | None, str]:
    """(thresholds (C,) or None for one half, a sentence that says how they came about), from validation rows.

    probs (N, C), y (N, C) bool. objective: `micro_f1`, `macro_f1`, `samples_f1`, whose thresholds are kept only where they
    raise it on rows held out of their choice (five folds); `precision` or `recall`, the thresholds from which each label
    shows `wanted` of it; `cost`, the least of false_cost a wrong label and missed_cost a missed one, each (C,) or one for all.
    `auto` is macro-F1 as far as it costs no more than half a point of micro-F1, at one half of `probs` or of `raw`, what they
    were before calibration (N, C). above: the columns above each label, without which it is not given. Raises DataError on
    an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise DataError(f"thresholds for {objective!r}: choose from {', '.join(OBJECTIVES)}")
    if objective == "half":
        return None, "thresholds: one half for every label"
    if objective == "cost":  # needs no rows: a label is worth giving where p * missed > (1 - p) * false
        limits = np.broadcast_to(false_cost / (false_cost + missed_cost), probs.shape[1:]).astype(np.float64)
        low, high = limits.min(), limits.max()
        span = f"{low:.3f}" if low == high else f"from {low:.3f} to {high:.3f}"
        return limits, f"thresholds: {span}, by what a wrong and a missed label cost"
    if len(y) < NEEDED:
        return (
            None,
            f"thresholds: one half; choosing others needs {NEEDED} validation rows, there are {len(y)} ({MORE_ROWS})",
        )
    if objective in ("precision", "recall"):
        limits = np.array([cut_for(p, true, objective, wanted) for p, true in zip(probs.T, y.T, strict=True)])
        if objective == "recall":
            for column, ups in enumerate(above):  # or else a parent that is not given takes its child with it
                for up in ups:
                    limits[up] = min(limits[up], limits[column])
        short = int((limits == (NEVER if objective == "precision" else 0.0)).sum())
        never = "are never given" if objective == "precision" else "are always given"
        told = f"thresholds for {wanted:.0%} {objective} of each label, at {SURE:.0%} confidence"
        return limits, told + (f"; {short} of {len(limits)} labels do not show it and {never}" if short else "")
    held = objective == "auto"
    objective = "macro_f1" if held else objective
    metric, micro = METRICS[objective], METRICS["micro_f1"]
    before, scores, micros = metric(y, probs), dict[float, float](), dict[float, float]()
    for shrink, chosen in held_out(probs, y, objective, SHRINKS if held else (SHRINK,), seed).items():
        chosen = consistent(chosen, above)
        scores[shrink], micros[shrink] = metric(y, probs, chosen), micro(y, probs, chosen)
    # asymmetric loss pushes claims up and decides well at one half, where its calibrated claims give hardly a label
    floor = max(micro(y, p) for p in (probs, raw) if p is not None) - MICRO_LOSS if held else 0.0
    standing = {shrink: scores[shrink] for shrink in scores if micros[shrink] >= floor}
    best = max(scores, key=lambda shrink: (standing or micros).get(shrink, -1.0))  # where none stands, the least harm
    if scores[best] <= before:
        return None, f"thresholds: one half; none raises {metric.words} of rows held out ({before:.3f})"
    half = micro(y, probs)
    if not standing and half >= micros[best]:
        return None, f"thresholds: one half; others cost more than {MICRO_LOSS:.1%} of micro-F1 ({half:.3f})"
    told = f"thresholds for {metric.words}: {scores[best]:.3f} against {before:.3f} at one half, cross-validated"
    if best > SHRINK:
        told += "; drawn further to one threshold for all, or micro-F1 would fall"
    if held and not standing:
        told += f", which is {micros[best]:.3f} now and was {floor + MICRO_LOSS:.3f} before calibration"
    return choose(probs, y, objective, [best])[best], told


def held_out(
    probs: np.ndarray, y: np.ndarray, objective: str, shrinks: Sequence[float], seed: int
) -> dict[float, np.ndarray]:
    """Decisions (N, C) bool on rows that their thresholds were not chosen on, for each way to shrink these."""
    folds = folds_of(len(y), seed)
    chosen = {shrink: np.zeros(probs.shape, dtype=bool) for shrink in shrinks}
    for fold in range(FOLDS):
        for shrink, limits in choose(probs[folds != fold], y[folds != fold], objective, shrinks).items():
            chosen[shrink][folds == fold] = probs[folds == fold] >= limits
    return chosen


def choose(probs: np.ndarray, y: np.ndarray, objective: str, shrinks: Sequence[float]) -> dict[float, np.ndarray]:
    """Thresholds (C,) that are best for the rows they are chosen on, a rare label's drawn to that of all labels.

    shrinks: how many true rows the threshold of all labels weighs, one after the other.
    """
    if objective == "samples_f1":
        return dict.fromkeys(shrinks, np.full(probs.shape[1], best_for_rows(probs, y)))
    shared, counts = best_cut(probs.ravel(), y.ravel()), y.sum(axis=0)
    if objective == "micro_f1":
        return dict.fromkeys(shrinks, np.full(probs.shape[1], shared))
    own = np.array([best_cut(p, t) if t.any() else shared for p, t in zip(probs.T, y.T, strict=True)])
    weights = {shrink: counts / (counts + shrink) for shrink in shrinks}
    return {
        shrink: expit(weight * held_logit(own) + (1 - weight) * held_logit(shared))
        for shrink, weight in weights.items()
    }


def best_cut(probs: np.ndarray, true: np.ndarray) -> float:
    """The threshold with the highest F1, halfway between two claims (Yang 2001, SCut; Lewis 1995)."""
    order = np.argsort(-probs, kind="stable")
    found, hits = probs[order], np.cumsum(true[order])
    f1 = 2 * hits / (np.arange(1, len(found) + 1) + true.sum())
    f1[:-1][found[:-1] == found[1:]] = -1  # equal claims are decided alike
    return between(found, int(f1.argmax()))


def best_for_rows(probs: np.ndarray, y: np.ndarray) -> float:
    """The shared threshold, of a hundred quantiles of the claims that are true, with the highest samples-F1."""
    candidates = np.unique(np.quantile(probs[y], np.linspace(0, 1, 101))) if y.any() else np.array([HALF])
    return float(max(candidates, key=lambda limit: METRICS["samples_f1"](y, probs, probs >= limit)))


def cut_for(probs: np.ndarray, true: np.ndarray, objective: str, wanted: float) -> float:
    """The lowest threshold that shows `wanted` precision (NEVER where none does), or the highest that shows recall (0).

    To show it is to have it at the lower end of an exact one-sided interval (Clopper & Pearson 1934) at SURE, of precision
    at one cut after another (`most_shown`).
    """
    order = np.argsort(-probs, kind="stable")
    found, hits = probs[order], np.cumsum(true[order])
    if objective == "precision":
        count = most_shown(found, hits, wanted, 1 - SURE)
        return between(found, count - 1) if count else NEVER
    last = np.r_[found[:-1] != found[1:], True]
    good = np.flatnonzero((lowest_share(hits, np.full(len(found), max(1, true.sum()))) >= wanted) & last)
    return between(found, int(good[0])) if len(good) else 0.0


def most_shown(sure: np.ndarray, hits: np.ndarray, wanted: float, chance: float) -> int:
    """How many rows, the surest first, show that a share `wanted` of them is right, but for `chance`; 0 where none do.

    sure (N,) falling, hits (N,) right ones among the first. Beginning with as few rows as could show it, each count is held
    against the exact lower end of its share (Clopper & Pearson 1934), and is followed by a larger one until one fails:
    tests in an order fixed beforehand need no correction (Angelopoulos 2021, arXiv:2110.01052). Rows as sure as the last
    one come along.
    """
    shown, count = 0, rows_to_show(wanted, chance)
    while shown < count <= len(sure):
        while count < len(sure) and sure[count] == sure[count - 1]:
            count += 1
        if lowest_share(hits[[count - 1]], np.array([count]), 1 - chance)[0] < wanted:
            break
        shown, count = count, min(len(sure), max(count + 1, int(GROWTH * count)))
    return shown


def lowest_share(hits: np.ndarray, of: np.ndarray, sure: float = SURE) -> np.ndarray:
    """The lower end of the exact interval of hits / of, at one-sided confidence `sure`."""
    from scipy.stats import beta

    return np.where(hits == 0, 0.0, beta.ppf(1 - sure, np.maximum(hits, 1), of - hits + 1))


def between(found: np.ndarray, place: int) -> float:
    """Halfway between the claim at `place` of the falling (N,) `found` and the next one below."""
    return float((found[place] + found[place + 1]) / 2) if place + 1 < len(found) else float(found[place] / 2)


def held_logit(p: np.ndarray | float) -> np.ndarray:
    return logit(np.clip(p, 1e-6, 1 - 1e-6))


def rows_to_show(wanted: float, chance: float) -> int:
    """Rows without a mistake that show a share `wanted` of right ones, but for `chance`."""
    return math.ceil(round(math.log(chance) / math.log(wanted), 9))


def risk_coverage(right: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk), each (N,): the share of rows answered, the surest first, and the share of them that is wrong.

    right (N,) bool, sure (N,). El-Yaniv & Wiener 2010, JMLR 11.
    """
    order = np.argsort(-sure, kind="stable")
    count = np.arange(1, len(right) + 1)
    return count / len(right), np.cumsum(~right[order]) / count


def abstain_below(right: np.ndarray, sure: np.ndarray, most: float) -> float:
    """The confidence below which to abstain so that at most a share `most` of the answers is wrong, at 95 % confidence.

    NEVER, which answers nothing, where no rows show it (`most_shown`): with most = .05 that takes the 59 surest rows without
    a mistake.
    """
    order = np.argsort(-sure, kind="stable")
    count = most_shown(sure[order], np.cumsum(right[order]), 1 - most, WRONG)
    return float(sure[order[count - 1]]) if count else NEVER
