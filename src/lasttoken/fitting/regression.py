"""Logistic regression with its C chosen by cross-validation, kept as plain tensors: the head of `probe` and `linear`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.sparse as sp
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from lasttoken.evaluation.metrics import METRICS
from lasttoken.journal import Journal
from lasttoken.labels import is_indicator
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

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors to save, by name."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def of(cls, tensors: dict[str, np.ndarray], multi: bool) -> Regression:
        """The inverse of `tensors`."""
        return cls(tensors["weight"], tensors["bias"], multi)


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
    best = best_strength(
        features,
        targets,
        classes,
        strengths=strengths,
        balanced=balanced,
        seed=seed,
        journal=journal,
        folds=folds,
    )
    return solve(features, targets, classes, best, balanced, seed)


def best_strength(
    features: Features,
    targets: np.ndarray,
    classes: int,
    *,
    strengths: Sequence[float],
    balanced: bool,
    seed: int,
    journal: Journal,
    folds: int = 3,
) -> float:
    """The C of the lowest cross-validated log-loss among `strengths`, tried upwards until the loss rises.

    Beyond its lowest point the loss only rises, and the largest C take the longest.
    """
    if len(strengths) == 1:
        return strengths[0]
    parts, losses, best = fold_of(targets, folds, seed), dict[float, float](), 0.0
    for number, c in enumerate(sorted(strengths)):
        journal.progress("logistic regression", number, len(strengths) + 1)
        losses[c] = float(held_out_losses(features, targets, classes, parts, c, balanced, seed).mean())
        best = min(losses, key=lambda tried: losses[tried])
        if c > best:
            break
    said = ", ".join(f"{c:g}: {loss:.4f}" for c, loss in losses.items())
    journal.note(f"logistic regression: C = {best:g} by {folds}-fold log-loss ({said})")
    return best


def fold_of(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row (N,): equal sizes, stratified by class if rows have one label."""
    rng = generator(seed, "folds of the regression")
    order = rng.permutation(len(targets))
    if not is_indicator(targets):
        order = order[np.argsort(targets[order], kind="stable")]
    parts = np.empty(len(targets), dtype=np.int64)
    parts[order] = np.arange(len(targets)) % folds
    return parts


def held_out_losses(
    features: Features, targets: np.ndarray, classes: int, parts: np.ndarray, strength: float, balanced: bool, seed: int
) -> np.ndarray:
    """The log-loss of each row (N,), under the regression of the folds that it is not in."""
    losses = np.empty(len(targets))
    for part in range(parts.max() + 1):
        held = parts == part
        model = solve(features[~held], targets[~held], classes, strength, balanced, seed)
        losses[held] = np.asarray(METRICS["log_loss"].by_row(targets[held], model(features[held])))
    return losses


def solve(
    features: Features, targets: np.ndarray, classes: int, strength: float, balanced: bool, seed: int
) -> Regression:
    """The regression at one C. A class that no row or every row has gets its observed share as a constant."""
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
        if not is_indicator(targets) and len(np.unique(targets)) == 1:  # a fold may lose a class of one or two rows
            bias[targets[0]] = 30.0
            return Regression(weight, bias, multi=False)
        if not is_indicator(targets):
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
