"""Logistic regression with its C chosen by cross-validation, kept as plain tensors: the head of `probe` and `linear`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lasttoken.evaluation.metrics import METRICS
from lasttoken.journal import Journal
from lasttoken.seed import derive, generator

Features = np.ndarray | sp.csr_matrix  # (N, F) float


@dataclass(frozen=True, eq=False)
class Regression:
    """Features (N, F) -> probabilities (N, C): softmax for one label a row, a sigmoid each for several."""

    weight: np.ndarray  # (C, F) float32
    bias: np.ndarray  # (C,) float32
    multi: bool

    def __call__(self, features: Features) -> np.ndarray:
        weight = self.weight
        if not isinstance(features, np.ndarray):  # few of many columns, and a copy of all weights would be large
            used = np.unique(features.indices)
            features, weight = features[:, used], weight[:, used]
        logits = np.asarray(features @ np.ascontiguousarray(weight.T, dtype=np.float64) + self.bias)  # (N, C)
        return expit(logits) if self.multi else softmax(logits, axis=1)

    def tensors(self) -> dict[str, Tensor]:
        """What to save."""
        return {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], multi: bool) -> Regression:
        """The inverse of `tensors`."""
        return cls(tensors["weight"].numpy(), tensors["bias"].numpy(), multi)


def fit_regression(
    features: Features,
    targets: np.ndarray,
    classes: int,
    *,
    strengths: Sequence[float],
    balanced: bool,
    seed: int,
    journal: Journal,
    folds: int = 3,
) -> Regression:
    """The regression of `targets` on `features`, C being the best of `strengths` by cross-validated log-loss."""
    best = strengths[0]
    if len(strengths) > 1:
        parts = fold_of(targets, folds, seed)
        losses = [held_out_loss(features, targets, classes, parts, c, balanced, seed) for c in strengths]
        best = strengths[int(np.argmin(losses))]
        said = ", ".join(f"{c:g}: {loss:.4f}" for c, loss in zip(strengths, losses, strict=True))
        journal.note(f"logistic regression: C = {best:g} by {folds}-fold log-loss ({said})")
    return solve(features, targets, classes, best, balanced, seed)


def fold_of(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row (N,), equal in size, dealt out class by class where a row has one label."""
    rng = generator(seed, "folds of the regression")
    order = rng.permutation(len(targets))
    if targets.ndim == 1:
        order = order[np.argsort(targets[order], kind="stable")]
    parts = np.empty(len(targets), dtype=np.int64)
    parts[order] = np.arange(len(targets)) % folds
    return parts


def held_out_loss(
    features: Features, targets: np.ndarray, classes: int, parts: np.ndarray, strength: float, balanced: bool, seed: int
) -> float:
    """Mean log-loss over the folds, each predicted by the others."""
    losses = []
    for part in range(parts.max() + 1):
        model = solve(features[parts != part], targets[parts != part], classes, strength, balanced, seed)
        losses.append(METRICS["log_loss"](targets[parts == part], model(features[parts == part])))
    return float(np.mean(losses))


def solve(
    features: Features, targets: np.ndarray, classes: int, strength: float, balanced: bool, seed: int
) -> Regression:
    """The regression at one strength. A class without rows, or with nothing but, gets its observed share as a constant."""
    weight = np.zeros((classes, cast("tuple[int, int]", features.shape)[1]), dtype=np.float32)
    bias = np.full(classes, -30.0, dtype=np.float32)
    make = {"C": strength, "class_weight": "balanced" if balanced else None, "max_iter": 300, "tol": 1e-3}
    each = {**make, "tol": 1e-4}
    if sp.issparse(features):  # dense ones take liblinear ten times as long, and it pulls the intercept (docs/lab.md)
        each |= {"solver": "liblinear", "tol": 1e-3}
        if weight.shape[1] > len(targets):  # then the dual takes less than half of the time
            each |= {"dual": True, "tol": 0.1, "random_state": derive(seed, "order of the rows") % 2**31}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 iterations leave nothing that shows in the metrics
        if targets.ndim == 1 and len(np.unique(targets)) == 1:  # a fold may lose a class of one or two rows
            bias[targets[0]] = 30.0
            return Regression(weight, bias, multi=False)
        if targets.ndim == 1:
            model = LogisticRegression(**make).fit(features, targets)
            if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
                weight[model.classes_], bias[model.classes_] = (
                    np.stack([s * x / 2 for s in (-1, 1)]) for x in (model.coef_[0], model.intercept_[0])
                )
            else:
                weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
            return Regression(weight, bias, multi=False)
        for j in range(classes):
            if 0 < targets[:, j].sum() < len(targets):
                model = LogisticRegression(**each).fit(features, targets[:, j])
                weight[j], bias[j] = model.coef_[0], model.intercept_[0]
            elif targets[:, j].all():
                bias[j] = 30.0
    return Regression(weight, bias, multi=True)
