"""Losses of a head, float32, summed over the batch so that the loop can divide once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, float]:
    """Softmax cross-entropy summed over rows, and the sum of the rows' weights that makes it a mean.

    logits: (B, C) float32. targets: (B,) int64. weights: (C,) or None. smoothing: share of the target spread evenly.
    """
    loss = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum")
    return loss, float(len(targets) if weights is None else weights[targets].sum())


def label_loss(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, float]:
    """Sigmoid binary cross-entropy summed over rows, mean over labels, and the number of rows.

    logits: (B, C) float32. targets: (B, C) bool. weights: (C,) factors on the loss of positives, or None.
    """
    wanted = targets.to(logits.dtype) * (1.0 - smoothing) + smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
    return loss.mean(dim=1).sum(), float(len(targets))


def balanced_weights(targets: np.ndarray, classes: int) -> Tensor:
    """Weights (C,) float32 under which every class counts the same.

    Single-label, targets (N,): N / (C * count) (King & Zeng 2001, as in scikit-learn's "balanced"). Multi-label,
    targets (N, C): the odds against each label, at most 100, as a factor on its positives.
    """
    if targets.ndim == 2:
        positives = targets.sum(axis=0).clip(min=1)
        return torch.tensor(((len(targets) - positives) / positives).clip(0.01, 100), dtype=torch.float32)
    counts = np.bincount(targets, minlength=classes).clip(min=1)
    return torch.tensor(len(targets) / (classes * counts), dtype=torch.float32)
