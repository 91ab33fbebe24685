"""Losses of a classification head: float32, summed over the batch, so that the loop can divide once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lasttoken.errors import ConfigError
from lasttoken.labels import is_indicator

Loss = Callable[[Tensor, Tensor], tuple[Tensor, float]]  # (logits (B, C), targets) -> (sum, divisor for the mean)
FOR = {"cross_entropy": "both", "focal": "both", "logit_adjusted": "one", "asymmetric": "many"}
MARGIN = 0.05  # of the asymmetric loss: negatives below this probability have no loss


def make_loss(
    name: str,
    targets: np.ndarray,
    classes: int,
    *,
    gamma: float,
    balanced: bool,
    smoothing: float,
    device: torch.device,
) -> Loss:
    """The loss `name` for training targets (N,) int64 or (N, C) bool. Raises ConfigError if the settings do not fit."""
    multi = is_indicator(targets)
    if FOR[name] == ("one" if multi else "many"):
        fitting = [other for other, kind in FOR.items() if kind in ("both", "many" if multi else "one")]
        rows = "any number of labels" if multi else "one label"
        raise ConfigError([f"loss: {name} is not for rows with {rows}; choose from {', '.join(fitting)}"])
    if name != "cross_entropy" and (smoothing or (balanced and name not in ("focal",))):
        both = "label_smoothing" if smoothing else "class_weights"
        raise ConfigError([f"loss: {name} does not go with {both}; leave one of them out"])
    weights = balanced_weights(targets, classes).to(device) if balanced else None
    if name == "cross_entropy":
        return partial(label_loss if multi else class_loss, weights=weights, smoothing=smoothing)
    if name == "focal":
        return partial(focal_label_loss if multi else focal_class_loss, weights=weights, gamma=gamma)
    if name == "logit_adjusted":
        counts = np.bincount(targets, minlength=classes).clip(min=1)
        return partial(adjusted_loss, prior=torch.tensor(np.log(counts / len(targets)), dtype=torch.float32).to(device))
    return partial(asymmetric_loss, gamma=gamma)


def class_loss(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, float]:
    """Softmax cross-entropy summed over rows, and the sum of the rows' weights, the divisor for the mean.

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


def focal_class_loss(logits: Tensor, targets: Tensor, *, weights: Tensor | None, gamma: float) -> tuple[Tensor, float]:
    """Focal loss: cross-entropy times (1 - p)^gamma, which down-weights easy rows (Lin 2017, arXiv:1708.02002).

    logits: (B, C) float32. targets: (B,) int64. weights: (C,) or None.
    """
    log_probs = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    loss = -((1 - log_probs.exp()) ** gamma) * log_probs
    if weights is None:
        return loss.sum(), float(len(targets))
    return (weights[targets] * loss).sum(), float(weights[targets].sum())


def focal_label_loss(logits: Tensor, targets: Tensor, *, weights: Tensor | None, gamma: float) -> tuple[Tensor, float]:
    """Focal loss of binary decisions, mean over labels. targets: (B, C) bool. weights: (C,) factors of positives."""
    wanted = targets.to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
    off = torch.sigmoid(torch.where(targets, -logits, logits))  # probability of the wrong decision
    return (off**gamma * loss).mean(dim=1).sum(), float(len(targets))


def adjusted_loss(logits: Tensor, targets: Tensor, *, prior: Tensor) -> tuple[Tensor, float]:
    """Logit-adjusted loss: cross-entropy of logits + log prior; the logits then suit equally frequent classes.

    For long-tailed labels (Menon 2020, arXiv:2007.07314). logits: (B, C) float32. targets: (B,) int64. prior: (C,), log
    class frequencies.
    """
    return F.cross_entropy(logits + prior, targets, reduction="sum"), float(len(targets))


def asymmetric_loss(logits: Tensor, targets: Tensor, *, gamma: float) -> tuple[Tensor, float]:
    """Asymmetric loss: binary cross-entropy with easy negatives down-weighted, mean over labels.

    Negatives with probability below MARGIN have no loss (Ridnik 2021, arXiv:2009.14119; gamma for negatives, 0 for
    positives). logits: (B, C) float32. targets: (B, C) bool.
    """
    missed = F.softplus(-logits)
    p = (torch.sigmoid(logits) - MARGIN).clamp(min=0)
    loss = torch.where(targets, missed, -(p**gamma) * torch.log1p(-p))
    return loss.mean(dim=1).sum(), float(len(targets))


def balanced_weights(targets: np.ndarray, classes: int) -> Tensor:
    """Weights (C,) float32 under which every class counts the same.

    Single-label, targets (N,): N / (C * count) (King & Zeng 2001, as in scikit-learn's "balanced"). Multi-label,
    targets (N, C): the odds against each label, at most 100, as a factor on its positives.
    """
    if is_indicator(targets):
        positives = targets.sum(axis=0).clip(min=1)
        return torch.tensor(((len(targets) - positives) / positives).clip(0.01, 100), dtype=torch.float32)
    counts = np.bincount(targets, minlength=classes).clip(min=1)
    return torch.tensor(len(targets) / (classes * counts), dtype=torch.float32)
