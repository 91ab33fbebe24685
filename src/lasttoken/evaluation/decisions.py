"""From probabilities to decisions: thresholds for an objective, at least one label, the top k, or abstaining.

A rule is fitted on validation rows and applied to any others. Thresholds chosen label by label overfit rare labels, so
a rare label's threshold is shrunk towards the shared threshold, and scores are reported on held-out rows.
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

SURE = 0.9  # confidence of the guarantee that a label has the wanted precision or recall
WRONG = 0.05  # chance that the guarantee of abstaining does not hold
GROWTH = 1.15  # factor between the row counts that `most_shown` tests
NEVER = 1.0 + 1e-9  # a threshold that no probability reaches
NEEDED = 50  # validation rows below which no threshold is chosen
SHRINK = 10.0  # weight of the shared threshold against a label's own, in positive rows
SHRINKS = (SHRINK, 40.0, 160.0, 640.0, np.inf)  # tried by `auto`, to keep micro-F1
MICRO_LOSS = 0.005  # loss of micro-F1 that `auto` accepts for a higher macro-F1
OBJECTIVES = ("auto", "half", "micro_f1", "macro_f1", "samples_f1", "precision", "recall", "cost")


@dataclass(frozen=True, eq=False)
class Rule:
    """Maps probabilities (N, C) to decisions. thresholds, at_least_one and top are for any number of labels a row."""

    thresholds: np.ndarray | None = None  # (C,); None: one half
    at_least_one: bool = False  # the most probable label where none reaches its threshold
    top: int = 0  # give this many most probable labels instead of using thresholds; 0: use thresholds
    abstain_below: float = 0.0  # confidence below which a row is left to a person
    set_from: float = 0.0  # raw probability from which a label belongs to the row's conformal set ...
    coverage: float = 0.0  # ... and the coverage that the sets guarantee; 0: no sets
    above: Above = ()  # the columns above each label, without which it is not given
    costs: np.ndarray | None = None  # (C, C), true by decided label, with one label a row; None: all mistakes cost 1

    def __call__(self, probs: np.ndarray, multi: bool) -> np.ndarray:
        """Decisions: with `multi` (N, C) bool, else (N,) int64, NOTHING where all probabilities are 0.

        With one label a row it is the most probable column, or with costs the one of least expected cost.
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
            closeness = probs / np.maximum(limits, 1e-12) - (limits >= NEVER)  # labels that are never given come last
            chosen[none, closeness[none].argmax(axis=1)] = True
            chosen[none] = upwards(chosen[none], self.above)
        return chosen

    def abstains(self, probs: np.ndarray, multi: bool) -> np.ndarray:
        """Whether each row (N,) has too low a confidence to be decided."""
        return confidence(probs, self(probs, multi)) < self.abstain_below

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Rule:
        """The rule that `to_dict` stored."""
        arrays = {name: stored.get(name) for name in ("thresholds", "costs")}
        arrays = {name: None if found is None else np.array(found, dtype=np.float64) for name, found in arrays.items()}
        above = tuple(tuple(ups) for ups in stored.get("above", ()))
        return cls(**{**stored, **arrays, "above": above})


def confidence(probs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Confidence of each row (N,): the probability of its decision; with many labels the lowest over the labels."""
    if chosen.ndim == 2:
        return np.where(chosen, probs, 1 - probs).min(axis=1)
    return probs[np.arange(len(probs)), chosen]


Cost = float | np.ndarray  # one for all labels, or (C,)


def fit_thresholds(
    probs: np.ndarray,
    y: np.ndarray,
    *,
    objective: str,
    wanted: float = 0.9,
    costs: tuple[Cost, Cost] = (1.0, 1.0),
    seed: int = 0,
    above: Above = (),
    raw: np.ndarray | None = None,
) -> tuple[np.ndarray | None, str]:
    """(thresholds (C,) or None for one half, a sentence on how they were chosen), from validation rows.

    probs (N, C), y (N, C) bool. Objectives: `micro_f1`, `macro_f1` and `samples_f1` keep their thresholds only where these
    raise the metric on held-out rows (five folds). `precision` and `recall` guarantee `wanted` of it for each label.
    `cost` minimises expected cost: `costs` of a wrong label and of a missed one, each (C,) or one for all. `auto`
    is macro-F1 at a loss of at most half a point of micro-F1, against one half on `probs` or on `raw` (N, C), the
    probabilities before calibration. above: the columns above each label, without which it is not given.
    Raises DataError on an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise DataError(f"thresholds for {objective!r}: choose from {', '.join(OBJECTIVES)}")
    if objective == "half":
        return None, "thresholds: one half for every label"
    if objective == "cost":  # needs no rows: a label is worth giving where p * missed > (1 - p) * false
        false, missed = costs
        limits = np.broadcast_to(false / (false + missed), probs.shape[1:]).astype(np.float64)
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
            for column, ups in enumerate(above):  # a child is not given without its parents
                for up in ups:
                    limits[up] = min(limits[up], limits[column])
        short = int((limits == (NEVER if objective == "precision" else 0.0)).sum())
        never = "are never given" if objective == "precision" else "are always given"
        told = f"thresholds for {wanted:.0%} {objective} of each label, at {SURE:.0%} confidence"
        return limits, told + (f"; {short} of {len(limits)} labels do not reach it and {never}" if short else "")
    held = objective == "auto"
    objective = "macro_f1" if held else objective
    metric, micro = METRICS[objective], METRICS["micro_f1"]
    before, scores, micros = metric(y, probs), dict[float, float](), dict[float, float]()
    for shrink, chosen in held_out(probs, y, objective, SHRINKS if held else (SHRINK,), seed).items():
        chosen = consistent(chosen, above)
        scores[shrink], micros[shrink] = metric(y, probs, chosen), micro(y, probs, chosen)
    # asymmetric loss raises probabilities: one half decides well on raw ones, but gives few labels on calibrated ones
    floor = max(micro(y, p) for p in (probs, raw) if p is not None) - MICRO_LOSS if held else 0.0
    standing = {shrink: scores[shrink] for shrink in scores if micros[shrink] >= floor}
    best = max(scores, key=lambda shrink: (standing or micros).get(shrink, -1.0))  # or the least loss
    if scores[best] <= before:
        return None, f"thresholds: one half; none raises {metric.words} on held-out rows ({before:.3f})"
    half = micro(y, probs)
    if not standing and half >= micros[best]:
        return None, f"thresholds: one half; others cost more than {MICRO_LOSS:.1%} of micro-F1 ({half:.3f})"
    told = f"thresholds for {metric.words}: {scores[best]:.3f} against {before:.3f} at one half, cross-validated"
    if best > SHRINK:
        told += "; shrunk further towards the shared threshold, to keep micro-F1"
    if held and not standing:
        told += f", which is {micros[best]:.3f} now and was {floor + MICRO_LOSS:.3f} before calibration"
    return choose(probs, y, objective, [best])[best], told


def held_out(
    probs: np.ndarray, y: np.ndarray, objective: str, shrinks: Sequence[float], seed: int
) -> dict[float, np.ndarray]:
    """Held-out decisions (N, C) bool for each shrinkage: the thresholds of each fold are chosen on the others."""
    folds = folds_of(len(y), seed)
    chosen = {shrink: np.zeros(probs.shape, dtype=bool) for shrink in shrinks}
    for fold in range(FOLDS):
        for shrink, limits in choose(probs[folds != fold], y[folds != fold], objective, shrinks).items():
            chosen[shrink][folds == fold] = probs[folds == fold] >= limits
    return chosen


def choose(probs: np.ndarray, y: np.ndarray, objective: str, shrinks: Sequence[float]) -> dict[float, np.ndarray]:
    """Best thresholds (C,) for these rows by shrinkage: rare labels are shrunk towards the shared threshold.

    shrinks: weights of the shared threshold, in positive rows.
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
    """The threshold with the highest F1, halfway between two probabilities (Yang 2001, SCut; Lewis 1995)."""
    order = np.argsort(-probs, kind="stable")
    found, hits = probs[order], np.cumsum(true[order])
    f1 = 2 * hits / (np.arange(1, len(found) + 1) + true.sum())
    f1[:-1][found[:-1] == found[1:]] = -1  # ties are decided alike
    return between(found, int(f1.argmax()))


def best_for_rows(probs: np.ndarray, y: np.ndarray) -> float:
    """The shared threshold with the highest samples-F1, among 101 quantiles of the probabilities of true labels."""
    candidates = np.unique(np.quantile(probs[y], np.linspace(0, 1, 101))) if y.any() else np.array([HALF])
    return float(max(candidates, key=lambda limit: METRICS["samples_f1"](y, probs, probs >= limit)))


def cut_for(probs: np.ndarray, true: np.ndarray, objective: str, wanted: float) -> float:
    """The lowest threshold that guarantees `wanted` precision (else NEVER), or the highest that guarantees recall (else 0).

    Guaranteed: the lower end of an exact one-sided interval (Clopper & Pearson 1934) at confidence SURE is at least
    `wanted`. For precision several cuts are tested in a fixed order (`most_shown`).
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
    """The most rows, surest first, of which a share `wanted` is guaranteed right, at error level `chance`; 0 if none.

    sure (N,) descending, hits (N,) cumulative right ones. Counts are tested from the smallest that can pass, each GROWTH
    times the last, until the exact lower bound (Clopper & Pearson 1934) falls below `wanted`: tests in an order fixed
    beforehand need no correction (Angelopoulos 2021, arXiv:2110.01052). Ties with the last row are included.
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
    """The exact lower confidence bound of hits / of, one-sided at confidence `sure` (Clopper & Pearson 1934)."""
    from scipy.stats import beta

    return np.where(hits == 0, 0.0, beta.ppf(1 - sure, np.maximum(hits, 1), of - hits + 1))


def between(found: np.ndarray, place: int) -> float:
    """Halfway between entry `place` of the descending (N,) `found` and the next; half of it if it is the last."""
    return float((found[place] + found[place + 1]) / 2) if place + 1 < len(found) else float(found[place] / 2)


def held_logit(p: np.ndarray | float) -> np.ndarray:
    return logit(np.clip(p, 1e-6, 1 - 1e-6))


def rows_to_show(wanted: float, chance: float) -> int:
    """Fewest rows, all right, that guarantee a share `wanted` of right ones at error level `chance`."""
    return math.ceil(round(math.log(chance) / math.log(wanted), 9))


def risk_coverage(right: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk), each (N,): share of rows answered, surest first, and the error rate among them.

    right (N,) bool, sure (N,). El-Yaniv & Wiener 2010, JMLR 11.
    """
    order = np.argsort(-sure, kind="stable")
    count = np.arange(1, len(right) + 1)
    return count / len(right), np.cumsum(~right[order]) / count


def abstain_below(right: np.ndarray, sure: np.ndarray, most: float) -> float:
    """The confidence below which to abstain so that at most a share `most` of the answers is wrong, at 95 % confidence.

    NEVER, which abstains from every row, where it cannot be guaranteed: most = .05 needs the 59 surest rows all right.
    """
    order = np.argsort(-sure, kind="stable")
    count = most_shown(sure[order], np.cumsum(right[order]), 1 - most, WRONG)
    return float(sure[order[count - 1]]) if count else NEVER
