"""Area under the ROC curve (AUROC) per class, and its pseudo-value for each row.

AUROC is not a sum over rows, but its first-order expansion is (DeLong et al. 1988): each row has a pseudo-value, and
their mean is the AUROC. Intervals from pseudo-values cost one sort per class.
"""

from __future__ import annotations

import math

import numpy as np

from lasttoken.labels import is_indicator


def midranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1, tied scores sharing their mean rank: (N,) -> (N,)."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def shares(truth: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
    """Pseudo-values (N,) of one class; their mean is its AUROC. None when all rows are positive, or all negative.

    truth (N,) bool; scores (N,). A positive row's value is the fraction of negatives scored below it, a negative row's
    the fraction of positives scored above it; ties count one half (by ranks: Sun & Xu 2014). Deviations from the mean
    are scaled so that the variance of the mean is DeLong's, with divisors P - 1 and N - P - 1.
    """
    n, positives = len(truth), int(truth.sum())
    negatives = n - positives
    if positives == 0 or negatives == 0:
        return None
    rank = midranks(scores)
    below = (rank[truth] - midranks(scores[truth])) / negatives  # (P,)
    above = 1 - (rank[~truth] - midranks(scores[~truth])) / positives  # (N - P,)
    area = below.mean()
    values = np.empty(n)
    values[truth] = area + (below - area) * n / positives * unbiased(positives)
    values[~truth] = area + (above - area) * n / negatives * unbiased(negatives)
    return values


def unbiased(m: int) -> float:
    """Factor on m deviations that turns a variance with divisor m into one with divisor m - 1; 1 for a single row."""
    return math.sqrt(m / (m - 1)) if m > 1 else 1.0


def indicator(y: np.ndarray, classes: int) -> np.ndarray:
    """Truth as (N, C) bool, from columns (N,) or already (N, C)."""
    return y if is_indicator(y) else y[:, None] == np.arange(classes)


def areas(y: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """AUROC of every class against the rest, (C,); nan where all rows are positive, or all negative."""
    truth = indicator(y, probs.shape[1])
    found = [shares(truth[:, c], probs[:, c]) for c in range(probs.shape[1])]
    return np.array([np.nan if values is None else values.mean() for values in found])


def macro_shares(y: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Pseudo-values (N,) of the mean AUROC over classes with positive and negative rows; nan without such a class."""
    truth = indicator(y, probs.shape[1])
    total, measured = np.zeros(len(y)), 0
    for c in range(probs.shape[1]):
        values = shares(truth[:, c], probs[:, c])
        if values is not None:
            total += values
            measured += 1
    return total / measured if measured else np.full(len(y), np.nan)
