"""Probabilities corrected on validation rows, so that of the claims made at .8 eight in ten come true.

A calibration is a method and its parameters; it maps the probabilities of any rows to better ones and knows nothing of
how they were made. All methods see log-probabilities or log-odds, so what a softmax or a sigmoid left out is not missed.
Which method serves is decided by cross-validated log-loss, doing nothing being one of the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize, minimize_scalar

from lasttoken.errors import DataError
from lasttoken.evaluation.metrics import METRICS

FOLDS = 5
SMALLEST = 1e-12  # a probability of 0 has no logarithm
RIDGE = 1e-3  # of the mean loss, on what moves vector and Dirichlet scaling away from doing nothing
SHRINK = 5.0  # rows that the fit of all labels weighs against a label's own
FEW = 20  # rows of either kind below which a label has no isotonic curve of its own


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted map from probabilities (N, C) to calibrated ones (N, C)."""

    method: str
    multi: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)  # arrays, or lists of arrays

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """The calibrated probabilities, rows summing to one where a row has one label."""
        return probs if self.method == "none" else KINDS[self.multi][self.method].apply(self.parameters, probs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: as_lists(value) for key, value in self.parameters.items()}
        return {"method": self.method, "multi": self.multi, "parameters": plain}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Calibration:
        """What `to_dict` gave. Raises DataError on a method that this version does not know."""
        method, multi = stored["method"], stored["multi"]
        if method != "none" and method not in KINDS[multi]:
            raise DataError(f"calibration {method!r} is not known to this version; update lasttoken")
        return cls(method, multi, {key: as_arrays(value) for key, value in stored["parameters"].items()})


NONE = Calibration("none")


@dataclass(frozen=True)
class Kind:
    """A way to calibrate."""

    needed: Callable[[int], int]  # labels -> validation rows below which it is not tried
    fit: Callable[[np.ndarray, np.ndarray], dict[str, Any]]  # (probs (N, C), y) -> parameters
    apply: Callable[[Mapping[str, Any], np.ndarray], np.ndarray]


def fit_calibration(
    probs: np.ndarray, y: np.ndarray, *, method: str = "auto", seed: int = 0
) -> tuple[Calibration, str]:
    """(the calibration fitted on validation rows, a sentence that says how it was chosen).

    probs (N, C), y (N,) int64 or (N, C) bool. `auto` takes the method with the lowest cross-validated log-loss, and none
    where none lowers it or there are too few rows. Raises DataError where a method that was named cannot be fitted.
    """
    multi, (n, classes) = y.ndim == 2, probs.shape
    if method == "off":
        return NONE, "calibration: off"
    kinds = KINDS[multi]
    if method != "auto" and method not in kinds:
        raise DataError(f"calibration {method!r} is none of {', '.join(['auto', 'off', *kinds])}")
    wanted = [*kinds] if method == "auto" else [method]
    tried = [name for name in wanted if n >= kinds[name].needed(classes)]
    if not tried:
        name = wanted[0]
        sentence = f"calibration: {name} needs {kinds[name].needed(classes)} validation rows, there are {n}"
        if method != "auto":
            raise DataError(sentence + "; use another method, or calibration = off")
        return NONE, sentence + "; probabilities are left as they are"
    losses = {name: cross_validated(kinds[name], probs, y, seed) for name in tried}
    losses = {"none": METRICS["log_loss"](y, probs), **losses}
    best = method if method != "auto" else min(losses, key=losses.__getitem__)
    told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    sentence = f"calibration: {best} of {n} validation rows; cross-validated log-loss {told}"
    return (NONE if best == "none" else Calibration(best, multi, kinds[best].fit(probs, y))), sentence


def cross_validated(kind: Kind, probs: np.ndarray, y: np.ndarray, seed: int) -> float:
    """The mean log-loss of rows that a calibration was not fitted on."""
    folds = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    calibrated = np.empty_like(probs)
    for fold in range(FOLDS):
        parameters = kind.fit(probs[folds != fold], y[folds != fold])
        calibrated[folds == fold] = kind.apply(parameters, probs[folds == fold])
    return METRICS["log_loss"](y, calibrated)


# -- one label a row


def log(probs: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probs, SMALLEST, 1))


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def cross_entropy(scores: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean loss, its gradient by the scores (N, C))."""
    probs, rows = softmax(scores), np.arange(len(y))
    gradient = probs.copy()
    gradient[rows, y] -= 1
    return float(-log(probs)[rows, y].mean()), gradient / len(y)


def fit_temperature(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """One number that all log-probabilities are divided by (Guo et al. 2017, arXiv:1706.04599). Changes no decision."""
    scores = log(probs)
    found = minimize_scalar(lambda t: cross_entropy(scores / np.exp(t), y)[0], bounds=(-3, 3), method="bounded")
    return {"temperature": np.exp(found.x)}


def apply_temperature(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) / parameters["temperature"])


def fit_vector(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A factor and a shift for each class (Guo et al. 2017), held near 1 and 0."""
    scores, classes = log(probs), probs.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scale, shift = flat[:classes], flat[classes:]
        value, gradient = cross_entropy(scores * scale + shift, y)
        value += RIDGE * float(((scale - 1) ** 2).sum() + (shift**2).sum())
        return value, np.r_[(gradient * scores).sum(0) + 2 * RIDGE * (scale - 1), gradient.sum(0) + 2 * RIDGE * shift]

    found = minimize(loss, np.r_[np.ones(classes), np.zeros(classes)], jac=True, method="L-BFGS-B").x
    return {"scale": found[:classes], "shift": found[classes:]}


def apply_vector(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) * parameters["scale"] + parameters["shift"])


def fit_dirichlet(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A linear map of log-probabilities, what leaves its diagonal and its shift held near 0 (Kull 2019, arXiv:1910.12656)."""
    scores, classes = log(probs), probs.shape[1]
    off = 1 - np.eye(classes)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix, shift = flat[:-classes].reshape(classes, classes), flat[-classes:]
        value, gradient = cross_entropy(scores @ matrix.T + shift, y)
        value += RIDGE * float((off * matrix**2).sum() + (shift**2).sum())
        of_matrix = gradient.T @ scores + 2 * RIDGE * off * matrix
        return value, np.r_[of_matrix.ravel(), gradient.sum(0) + 2 * RIDGE * shift]

    found = minimize(loss, np.r_[np.eye(classes).ravel(), np.zeros(classes)], jac=True, method="L-BFGS-B").x
    return {"matrix": found[:-classes].reshape(classes, classes), "shift": found[-classes:]}


def apply_dirichlet(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) @ parameters["matrix"].T + parameters["shift"])


def curve(probs: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rising curve (x, y) of how often claims come true (Zadrozny & Elkan 2002), never quite 0 or 1."""
    order = np.argsort(probs, kind="stable")
    risen = isotonic_regression(true[order].astype(float)).x
    risen = np.clip(risen, 1 / (len(true) + 2), 1 - 1 / (len(true) + 2))
    corner = np.r_[True, np.diff(risen) > 0] | np.r_[np.diff(risen) > 0, True]  # between corners it is straight
    x, at = np.unique(probs[order][corner], return_index=True)
    return x, risen[corner][at]


def fit_one_against_rest(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A curve for each class against the rest; rows are brought back to a sum of one (Zadrozny & Elkan 2002)."""
    curves = [curve(probs[:, j], y == j) for j in range(probs.shape[1])]
    return {"x": [x for x, _ in curves], "y": [y for _, y in curves]}


def apply_one_against_rest(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    found = apply_curves(parameters, probs)
    return found / found.sum(axis=1, keepdims=True)


# -- any number of labels a row, each calibrated by itself


def odds(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log p, log (1 - p)), each (N, C)."""
    held = np.clip(probs, SMALLEST, 1 - SMALLEST)
    return np.log(held), np.log1p(-held)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -scores))


def logistic(features: np.ndarray, true: np.ndarray, towards: np.ndarray, weight: float) -> np.ndarray:
    """Coefficients (C, F) of C logistic regressions at once, by Newton's method.

    features (N, C, F), true (N, C). Each is drawn to `towards` (F,), which weighs as much as `weight` rows.
    """
    n, classes, width = features.shape
    found = np.repeat(towards[None], classes, axis=0)
    spread = np.maximum((features**2).mean(axis=(0, 1)), 1e-6)  # (F,), so that the pull does not depend on units
    for _ in range(50):
        probs = sigmoid(np.einsum("ncf,cf->nc", features, found))
        gradient = np.einsum("ncf,nc->cf", features, probs - true) + weight * spread * (found - towards)
        curvature = np.einsum("ncf,nc,ncg->cfg", features, probs * (1 - probs), features)
        curvature += (weight * spread + 1e-9 * n) * np.eye(width)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        found = found - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return found


def shrunk(features: np.ndarray, true: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients (C, F) of each label, drawn to those of all labels together, and those a little to `start`."""
    n, classes, width = features.shape
    pooled = logistic(features.reshape(n * classes, 1, width), true.reshape(n * classes, 1), start, 1.0)[0]
    return logistic(features, true, pooled, SHRINK)


def platt_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes - no, np.ones_like(yes)], axis=-1)


def fit_platt(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A factor and a shift of each label's log-odds (Platt 1999)."""
    return {"coefficients": shrunk(platt_features(probs), y, np.array([1.0, 0.0]))}


def apply_platt(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return sigmoid(np.einsum("ncf,cf->nc", platt_features(probs), parameters["coefficients"]))


def beta_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes, -no, np.ones_like(yes)], axis=-1)


def fit_beta(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Factors of log p and of -log (1 - p), and a shift (Kull 2017, AISTATS); a factor below 0 is taken out."""
    features, start = beta_features(probs), np.array([1.0, 1.0, 0.0])
    found = shrunk(features, y, start)
    if (found[:, :2] < 0).any():
        kept = np.c_[found[:, :2] >= 0, np.ones(len(found), dtype=bool)]
        found = np.where(kept, logistic(features * kept, y, found.clip(min=0).mean(axis=0), SHRINK), 0).clip(
            min=[0, 0, -np.inf]
        )
    return {"coefficients": found}


def apply_beta(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return sigmoid(np.einsum("ncf,cf->nc", beta_features(probs), parameters["coefficients"]))


def fit_curves(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A curve for each label; Platt's for labels with few rows of either kind."""
    counts = y.sum(axis=0)
    enough = np.minimum(counts, len(y) - counts) >= FEW
    grid = sigmoid(np.linspace(-12, 12, 97))
    smooth = apply_platt(fit_platt(probs, y), np.repeat(grid[:, None], probs.shape[1], axis=1))  # (97, C)
    curves = [curve(probs[:, j], y[:, j]) if enough[j] else (grid, smooth[:, j]) for j in range(probs.shape[1])]
    return {"x": [x for x, _ in curves], "y": [y for _, y in curves]}


def apply_curves(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    columns = zip(probs.T, parameters["x"], parameters["y"], strict=True)
    return np.stack([np.interp(column, x, y) for column, x, y in columns], axis=1)


# -- the tables, simple before flexible; the rows needed grow with the parameters

SINGLE = {
    "temperature": Kind(lambda classes: 50, fit_temperature, apply_temperature),
    "vector": Kind(lambda classes: max(100, 20 * classes), fit_vector, apply_vector),
    "dirichlet": Kind(lambda classes: max(200, 10 * classes**2), fit_dirichlet, apply_dirichlet),
    "isotonic": Kind(lambda classes: max(1000, 50 * classes), fit_one_against_rest, apply_one_against_rest),
}
MULTI = {
    "platt": Kind(lambda classes: 100, fit_platt, apply_platt),
    "beta": Kind(lambda classes: 200, fit_beta, apply_beta),
    "isotonic": Kind(lambda classes: 1000, fit_curves, apply_curves),
}
KINDS: dict[bool, dict[str, Kind]] = {False: SINGLE, True: MULTI}  # any number of labels a row -> name -> kind


def as_lists(value: Any) -> Any:
    """Arrays as lists, for JSON."""
    return [as_lists(one) for one in value] if isinstance(value, list) else np.asarray(value).tolist()


def as_arrays(value: Any) -> Any:
    """Lists as arrays; rows of different lengths stay a list of arrays."""
    if isinstance(value, list) and value and isinstance(value[0], list) and len({len(row) for row in value}) > 1:
        return [np.array(row, dtype=np.float64) for row in value]
    return np.array(value, dtype=np.float64)
