"""Conformal sets: sets of labels that contain the truth with a guaranteed frequency, however good the model is.

They use raw probabilities: a calibration fitted on the same validation rows would break the guarantee. It holds on
average over exchangeable validation and new rows, not for each row or each class.
"""

from __future__ import annotations

import math

import numpy as np

from lasttoken.labels import is_indicator


def fit_sets(probs: np.ndarray, y: np.ndarray, coverage: float) -> float:
    """The raw probability from which a label joins a row's set; 0, which takes every label, where rows are too few.

    probs (N, C) and y are those of validation rows. y (N,): split conformal prediction (Sadinle 2019, LAC; Vovk 2005):
    sets contain the true label in a share `coverage` of rows. y (N, C): conformal risk control (Angelopoulos 2022, arXiv:2208.02814):
    sets contain that share of a row's labels on average.
    """
    n = len(y)
    if not is_indicator(y):
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
    allowed = n * missed + 1 <= (n + 1) * (1 - coverage) + 1e-9  # as many rows as `rows_needed` says are enough
    return float(claims[allowed].max(initial=0.0))


def rows_needed(coverage: float) -> int:
    """Fewest validation rows for which sets that guarantee `coverage` can leave a label out."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def sets_of(probs: np.ndarray, limit: float) -> np.ndarray:
    """The labels of each row's set, (N, C) bool."""
    return probs >= limit


def covered(sets: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of each row's true labels in its set (N,): 0 or 1 with one label a row; 1 for a row without labels."""
    if not is_indicator(y):
        return sets[np.arange(len(y)), y].astype(np.float64)
    count = y.sum(axis=1)
    return np.where(count == 0, 1.0, (sets & y).sum(axis=1) / np.maximum(count, 1))
