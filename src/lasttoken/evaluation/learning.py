"""Learning curves: score against training rows, and how many more labelled rows a better score would need.

The error 1 - score is modelled as a power law of the training rows plus a floor (Hestness 2017, arXiv:1712.00409;
Viering & Loog 2021, arXiv:2103.10948). The floor needs four sizes; with fewer it is 0, which is optimistic, as the
report says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken.evaluation.metrics import Metric
from lasttoken.evaluation.seeds import Repeats, drawn_of, values
from lasttoken.seed import generator
from lasttoken.wording import figure

FARTHEST = 10  # times the largest size: no prediction beyond it
SLOPES = np.linspace(0.02, 2, 100)  # exponents of the grid search
SIZES_FOR_FLOOR = 4
DRAWS = 400
SURE = 0.95  # confidence of intervals


@dataclass(frozen=True, eq=False)
class Curve:
    """One method's scores at K sizes, with 1 + D fitted curves: to the scores themselves, then to D resamples."""

    sizes: np.ndarray  # (K,) rows, ascending
    scores: np.ndarray  # (K,) means over seeds
    slope: np.ndarray  # (1 + D,)
    scale: np.ndarray  # (1 + D,)
    floor: np.ndarray  # (1 + D,) irreducible errors

    def at(self, rows: float) -> tuple[float, float, float]:
        """(score, low, high) predicted for a number of training rows."""
        predicted = 1 - self.floor - self.scale * rows**-self.slope
        low, high = np.quantile(predicted[1:], [(1 - SURE) / 2, (1 + SURE) / 2])
        return float(predicted[0]), min(float(low), float(predicted[0])), max(float(high), float(predicted[0]))

    def rows_for(self, score: float) -> tuple[float, float, float]:
        """(rows, low, high) to reach a score; infinite beyond FARTHEST times the largest size."""
        room = 1 - score - self.floor
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            needed = np.where((room > 0) & (self.scale > 0), (self.scale / room) ** (1 / self.slope), np.inf)
        needed = np.where(needed > FARTHEST * self.sizes[-1], np.inf, needed)
        low, high = np.quantile(needed[1:], [(1 - SURE) / 2, (1 + SURE) / 2], method="nearest")
        return float(needed[0]), min(float(low), float(needed[0])), max(float(high), float(needed[0]))


def fit_curve(metric: Metric, by_size: Mapping[int, Repeats], *, seed: int = 0) -> Curve:
    """The learning curve of one method. by_size: training rows -> fits, two sizes or more. The metric's best is 1."""
    sizes = np.array(sorted(by_size), dtype=np.float64)
    groups = [by_size[int(size)] for size in sizes]
    found = [values(metric, repeats) for repeats in groups]
    scores = np.array([one.mean() for one in found])
    rng = generator(seed, "learning curve")
    drawn = np.array([one.mean(axis=0) for one in drawn_of(metric, groups, rng, DRAWS)])  # (K, D) over rows
    for k, one in enumerate(found):  # and over seeds
        if len(one) > 1:
            drawn[k] += rng.normal(0, one.std(ddof=1) / math.sqrt(len(one)), drawn.shape[1])
    errors = 1 - np.column_stack([scores, drawn - drawn.mean(axis=1, keepdims=True) + scores[:, None]])  # (K, 1 + D)
    return Curve(sizes, scores, *power_law(sizes, errors.clip(1e-6, None)))


def power_law(sizes: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit errors (K, D) = floor + scale * rows ** -slope by least squares, all >= 0: (slope, scale, floor), each (D,).

    With three sizes or fewer the floor is 0, and a line is fitted to the logarithms.
    """
    if len(sizes) < SIZES_FOR_FLOOR:
        x = np.log(sizes) - np.log(sizes).mean()
        y = np.log(errors)
        slope = np.maximum(0, -(x @ y) / (x @ x))
        scale = np.exp(y.mean(axis=0) + slope * np.log(sizes).mean())
        return slope, scale, np.zeros_like(slope)
    best = np.full(errors.shape[1], np.inf)
    kept = np.zeros((3, errors.shape[1]))
    for slope in SLOPES:
        x = (sizes / sizes[0]) ** -slope
        spread = x - x.mean()
        scale = (spread @ errors) / (spread @ spread)
        floor = errors.mean(axis=0) - scale * x.mean()
        through = (x @ errors) / (x @ x)  # scale with the floor at 0, where it would be negative
        scale, floor = np.where(floor < 0, through, scale), np.maximum(floor, 0)
        flat = scale < 0  # more rows do not help
        scale, floor = np.where(flat, 0, scale), np.where(flat, errors.mean(axis=0), floor)
        loss = ((floor + scale * x[:, None] - errors) ** 2).sum(axis=0)
        better = loss < best
        best = np.where(better, loss, best)
        kept[:, better] = np.array([np.full(len(best), slope), scale * sizes[0] ** slope, floor])[:, better]
    return kept[0], kept[1], kept[2]


def rows_words(rows: float, low: float, high: float, *, most: float) -> str:
    """`about 12,000 training rows (8,100 to more than 50,000)` from the result of `rows_for`; most: its limit."""
    above = f"more than {rounded(most)}"
    if math.isinf(rows):
        return f"{above} training rows, if the score can be reached"
    return f"about {rounded(rows)} training rows ({rounded(low)} to {above if math.isinf(high) else rounded(high)})"


def rounded(rows: float) -> str:
    """Two significant digits: 12,000."""
    digits = max(0, int(math.log10(max(rows, 1))) - 1)
    return f"{round(rows / 10**digits) * 10**digits:,}"


def sentences(curves: Mapping[str, Curve], metric: Metric, *, goal: float | None = None) -> list[str]:
    """One sentence for each method: the score with twice the rows, and the rows to reach `goal` or the best method's score."""
    best = max((float(curve.scores[-1]), name) for name, curve in curves.items())
    lines = []
    for name, curve in curves.items():
        now, largest = float(curve.scores[-1]), curve.sizes[-1]
        twice = curve.at(2 * largest)
        before = ", ".join(f"{figure(s)} with {int(n):,}" for n, s in zip(curve.sizes[:-1], curve.scores, strict=False))
        spread = f"[{figure(twice[1])}, {figure(twice[2])}]"
        if figure(twice[1]) == figure(twice[2]):
            spread = "(no interval: these rows and seeds show no spread)"
        sentence = (
            f"{name}: {figure(now)} {metric.words} with {int(largest):,} rows ({before}); with {int(2 * largest):,} about "
            f"{figure(twice[0])} {spread}"
        )
        wanted, whose = (goal, "") if goal is not None else (best[0], f", the score of {best[1]}")
        if wanted > now + 5e-4:
            needed = curve.rows_for(wanted)
            reach = rows_words(*needed, most=FARTHEST * largest)
            if needed[0] <= largest:
                reach = "no more rows, as the fitted curve lies above the last score"
            sentence += f"; for {figure(wanted)}{whose}: {reach}"
        elif goal is not None:
            sentence += f"; the goal of {figure(goal)} is reached"
        lines.append(sentence)
    return lines


def to_dict(curve: Curve) -> dict[str, Any]:
    """For JSON."""
    return {
        "sizes": [int(size) for size in curve.sizes],
        "scores": curve.scores.tolist(),
        "slope": float(curve.slope[0]),
        "scale": float(curve.scale[0]),
        "floor": float(curve.floor[0]),
    }
