"""Sets of labels that hold the truth as often as was promised, whatever the probabilities are worth.

The promise is over draws of validation and new rows alike (exchangeable), not for each row or each class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Coverage:
    """What sets of labels did on rows they were not made on."""

    promised: float
    had: float  # one label a row: share of rows whose set holds it; many: mean share of a row's labels that its set holds
    size: float  # labels in a set, on average


def fit_sets(probs: np.ndarray, y: np.ndarray, coverage: float) -> float:
    """The probability from which a label joins a row's set, from validation rows. 0 takes every label: too few rows.

    y (N,): split conformal prediction (Sadinle 2019, LAC; Vovk 2005): sets hold the true label in a share `coverage` of
    rows. y (N, C): conformal risk control (Angelopoulos 2022, arXiv:2208.02814): sets hold that share of a row's labels
    on average.
    """
    n = len(y)
    if y.ndim == 1:
        claims = np.sort(probs[np.arange(n), y])[::-1]
        place = math.ceil((n + 1) * coverage)
        return float(claims[place - 1]) if place <= n else 0.0
    rows, columns = np.nonzero(y)
    weights = 1 / (y.sum(axis=1)[rows] * n)
    order = np.argsort(probs[rows, columns], kind="stable")
    claims, missed = (
        probs[rows, columns][order],
        np.cumsum(weights[order]) - weights[order],
    )  # risk of a limit at a claim
    allowed = (n / (n + 1)) * missed + 1 / (n + 1) <= 1 - coverage
    return float(claims[allowed].max(initial=0.0))


def sets_of(probs: np.ndarray, limit: float) -> np.ndarray:
    """The labels of each row's set, (N, C) bool."""
    return probs >= limit


def covered(sets: np.ndarray, y: np.ndarray, promised: float) -> Coverage:
    """How the promise was kept on rows (N,) or (N, C) that the limit was not made on."""
    if y.ndim == 1:
        had = sets[np.arange(len(y)), y]
    else:
        count = y.sum(axis=1)
        had = np.where(count == 0, 1.0, (sets & y).sum(axis=1) / np.maximum(count, 1))
    return Coverage(promised, float(had.mean()), float(sets.sum(axis=1).mean()))
