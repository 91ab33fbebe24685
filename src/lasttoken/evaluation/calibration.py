"""Calibration of probabilities on validation rows: of the predictions made at .8, 80 % are right.

A calibration is a method and its fitted parameters. It needs only probabilities, whatever model made them: all methods
work on log-probabilities or log-odds, which equal the logits up to a constant. The method is chosen by cross-validated
log-loss, with no calibration among the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit as sigmoid
from scipy.special import softmax as softmax_over

from lasttoken.errors import DataError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.labels import is_indicator
from lasttoken.wording import counted

FOLDS = 5
TINIEST = 1e-12  # a probability of 0 has no logarithm
IDENTITY_ROWS = 2.0  # strength of the L2 penalty towards no calibration, in validation rows
POOLED_ROWS = 5.0  # strength of the L2 penalty on a label's parameters towards the pooled fit, in validation rows
CLAIMS = 2_000_000  # (row, label) probabilities that one fit uses at most
FEW = 20  # positive or negative rows below which a label gets no isotonic curve of its own


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted map from probabilities (N, C) to calibrated ones (N, C)."""

    method: str
    multi: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)  # arrays, or lists of arrays

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, C). With one label a row, rows sum to one, but a row of zeros stays zeros."""
        return probs if self.method == "none" else KINDS[self.multi][self.method](self.parameters, probs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: as_lists(value) for key, value in self.parameters.items()}
        return {"method": self.method, "multi": self.multi, "parameters": plain}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` stored. Raises DataError on a method that this version does not know."""
        method, multi = stored["method"], stored["multi"]
        if method != "none" and method not in KINDS[multi]:
            raise DataError(f"calibration {method!r} is not known to this version; update lasttoken")
        return cls(method, multi, {key: as_arrays(value) for key, value in stored["parameters"].items()})


NONE = Calibration("none")
AUTOS = ("auto", "auto_temperature")  # methods that choose one
MORE_ROWS = "give more with --valid or a larger --valid-share"


@dataclass(frozen=True)
class Kind:
    """A calibration method."""

    needed: Callable[[int], int]  # number of labels -> fewest validation rows
    fit: Callable[[np.ndarray, np.ndarray], dict[str, Any]]  # (probs (N, C), y) -> parameters
    apply: Callable[[Mapping[str, Any], np.ndarray], np.ndarray]
    normed: bool = False  # whether rows sum to one
    per_class: bool = False  # has parameters for each class, so every class needs validation rows

    def __call__(self, parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, C)."""
        found = self.apply(parameters, probs)
        return found * probs.any(axis=1, keepdims=True) if self.normed else found


def check_calibration(method: str, y: np.ndarray, classes: int) -> None:
    """Raises DataError, before training, where `method` cannot be fitted on validation rows with targets y."""
    multi = is_indicator(y)
    kinds = KINDS[multi]
    if method in (*AUTOS, "off"):
        return
    if method not in kinds:
        raise DataError(f"calibration {method!r} is none of {', '.join([*AUTOS, 'off', *kinds])}")
    if len(y) < kinds[method].needed(classes):
        raise DataError(f"{too_few(method, multi, classes, len(y))}; use another method, or calibration = off")
    if kinds[method].per_class and (lacking := classes - len(np.unique(y))):
        raise DataError(
            f"calibration: {method} needs validation rows of every label, {counted(lacking, 'label has', 'labels have')} "
            "none; use temperature, or calibration = off"
        )


def too_few(method: str, multi: bool, classes: int, rows: int) -> str:
    """The message that a method needs more validation rows than there are."""
    return f"calibration: {method} needs {KINDS[multi][method].needed(classes)} validation rows, there are {rows} ({MORE_ROWS})"


def fit_calibration(
    probs: np.ndarray, y: np.ndarray, *, method: str = "auto", seed: int = 0
) -> tuple[Calibration, np.ndarray, str]:
    """(calibration fitted on validation rows, their cross-fitted probabilities (N, C), a sentence on how it was chosen).

    probs (N, C), y (N,) int64 or (N, C) bool. `auto` takes the method with the lowest cross-validated log-loss, or none
    where that is not lower by at least a standard error, or there are too few rows. A method with parameters for each
    class is skipped where a class has no validation row: it would give that class a probability near 0. Raises DataError
    where the chosen method cannot be fitted.
    """
    multi, (n, classes) = is_indicator(y), probs.shape
    check_calibration(method, y, classes)
    if method == "off":
        return NONE, probs, "calibration: off"
    kinds = KINDS[multi]
    lacking = 0 if multi else classes - len(np.unique(y))
    among = candidates(method, multi)
    tried = [name for name in among if n >= kinds[name].needed(classes)]
    left = [name for name in tried if lacking and kinds[name].per_class]
    tried = [name for name in tried if name not in left]
    if not tried:
        return NONE, probs, f"{too_few(among[0], multi, classes, n)}; probabilities stay uncalibrated"
    held = {"none": probs} | {name: cross_fitted(kinds[name], probs, y, seed) for name in tried}
    losses = {name: METRICS["log_loss"](y, calibrated) for name, calibrated in held.items()}
    best = min(losses, key=losses.__getitem__)
    if method not in AUTOS:
        best = method
    elif not clearly_better(held[best], probs, y):
        best = "none"
    losses_text = "cross-validated log-loss " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    if left:
        rowless = counted(lacking, "label has", "labels have")
        losses_text += f"; {', '.join(left)} not tried, as {rowless} no validation row"
    if best == "none":
        return (
            NONE,
            probs,
            f"calibration: none, as no method is clearly better on {n} validation rows; {losses_text}",
        )
    fitted = Calibration(best, multi, kinds[best].fit(probs, y))
    return fitted, held[best], f"calibration: {best}, from {n} validation rows; {losses_text}"


def candidates(method: str, multi: bool) -> list[str]:
    """The methods that `method` tries: itself, or those that it chooses among."""
    if method == "auto":  # with several labels platt has a temperature, and is as quick to fit
        return [name for name in KINDS[multi] if not (multi and name == "temperature")]
    return ["temperature"] if method == "auto_temperature" else [method]


def clearly_better(calibrated: np.ndarray, probs: np.ndarray, y: np.ndarray) -> bool:
    """Whether the log-loss falls by more than its standard error over the rows."""
    loss = METRICS["log_loss"]
    gain = loss.sums(y, probs).amounts - loss.sums(y, calibrated).amounts  # (N,)
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


def folds_of(n: int, seed: int) -> np.ndarray:
    """The cross-validation fold of each row (N,), by n and seed alone: calibration and thresholds share folds."""
    return np.random.default_rng(seed).permutation(n) % FOLDS


def cross_fitted(kind: Kind, probs: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Cross-fitted probabilities (N, C): the calibration of each row is fitted on the other folds."""
    folds = folds_of(len(y), seed)
    calibrated = np.empty_like(probs)
    for fold in range(FOLDS):
        parameters = kind.fit(probs[folds != fold], y[folds != fold])
        calibrated[folds == fold] = kind(parameters, probs[folds == fold])
    return calibrated


# -- one label a row


def softmax(scores: np.ndarray) -> np.ndarray:
    return softmax_over(scores, axis=1)


def log(probs: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probs, TINIEST, 1))


def cross_entropy(scores: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean loss, its gradient by the scores (N, C))."""
    probs, rows = softmax(scores), np.arange(len(y))
    gradient = probs.copy()
    gradient[rows, y] -= 1
    return float(-log(probs)[rows, y].mean()), gradient / len(y)


def fit_temperature(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A temperature that divides all log-probabilities (Guo et al. 2017, arXiv:1706.04599); it keeps their order."""
    scores, ridge = log(probs), IDENTITY_ROWS / len(y)
    found = minimize_scalar(
        lambda t: cross_entropy(scores / np.exp(t), y)[0] + ridge * t**2, bounds=(-3, 3), method="bounded"
    )
    return {"temperature": np.exp(found.x)}


def apply_temperature(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) / parameters["temperature"])


def fit_scale(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A temperature that divides all log-odds, of every label alike; it keeps their order, and one half."""
    yes, no = odds(probs)
    logits, ridge = yes - no, IDENTITY_ROWS / len(y)

    def loss(log_temperature: float) -> float:
        claims = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, claims) - y * claims).mean()) + ridge * log_temperature**2

    return {"temperature": np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)}


def apply_scale(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return sigmoid((yes - no) / parameters["temperature"])


def fit_vector(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A scale and a shift for each class (Guo et al. 2017), with an L2 penalty towards 1 and 0."""
    scores, classes, ridge = log(probs), probs.shape[1], IDENTITY_ROWS / len(y)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scale, shift = flat[:classes], flat[classes:]
        value, gradient = cross_entropy(scores * scale + shift, y)
        value += ridge * float(((scale - 1) ** 2).sum() + (shift**2).sum())
        return value, np.r_[(gradient * scores).sum(0) + 2 * ridge * (scale - 1), gradient.sum(0) + 2 * ridge * shift]

    found = minimize(loss, np.r_[np.ones(classes), np.zeros(classes)], jac=True, method="L-BFGS-B").x
    return {"scale": found[:classes], "shift": found[classes:]}


def apply_vector(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) * parameters["scale"] + parameters["shift"])


def fit_dirichlet(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A linear map of log-probabilities, L2 penalty on its off-diagonal and its shift (Kull 2019, arXiv:1910.12656)."""
    scores, classes, ridge = log(probs), probs.shape[1], IDENTITY_ROWS / len(y)
    off = 1 - np.eye(classes)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix, shift = flat[:-classes].reshape(classes, classes), flat[-classes:]
        value, gradient = cross_entropy(scores @ matrix.T + shift, y)
        value += ridge * float((off * matrix**2).sum() + (shift**2).sum())
        of_matrix = gradient.T @ scores + 2 * ridge * off * matrix
        return value, np.r_[of_matrix.ravel(), gradient.sum(0) + 2 * ridge * shift]

    found = minimize(loss, np.r_[np.eye(classes).ravel(), np.zeros(classes)], jac=True, method="L-BFGS-B").x
    return {"matrix": found[:-classes].reshape(classes, classes), "shift": found[-classes:]}


def apply_dirichlet(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) @ parameters["matrix"].T + parameters["shift"])


def curve(probs: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression of truth on probability as (x, y) (Zadrozny & Elkan 2002), kept off 0 and 1."""
    x, place, count = np.unique(probs, return_inverse=True, return_counts=True)  # ties share one point
    risen = isotonic_regression(np.bincount(place, true.astype(float)) / count, weights=count.astype(float)).x
    risen = np.clip(risen, 1 / (len(true) + 2), 1 - 1 / (len(true) + 2))
    corner = np.r_[True, np.diff(risen) > 0] | np.r_[np.diff(risen) > 0, True]  # piecewise linear between corners
    return x[corner], risen[corner]


def fit_one_against_rest(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """An isotonic curve for each class against the rest; rows are then normalised (Zadrozny & Elkan 2002)."""
    curves = [curve(probs[:, j], y == j) for j in range(probs.shape[1])]
    return {"x": [x for x, _ in curves], "y": [y for _, y in curves]}


def apply_one_against_rest(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    found = apply_curves(parameters, probs)
    return found / found.sum(axis=1, keepdims=True)


# -- any number of labels a row, each calibrated by itself


def odds(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log p, log (1 - p)), each (N, C)."""
    held = np.clip(probs, TINIEST, 1 - TINIEST)
    return np.log(held), np.log1p(-held)


def logistic(features: np.ndarray, true: np.ndarray, towards: np.ndarray, weight: float) -> np.ndarray:
    """Coefficients (C, F) of C logistic regressions, by Newton's method with step halving.

    features (N, C, F), true (N, C). The L2 penalty is towards `towards` (F,), as strong as `weight` rows.
    """
    n, classes, _ = features.shape
    penalty = weight * np.maximum((features**2).mean(axis=(0, 1)), 1e-6)  # (F,), so that it does not depend on units
    size = max(1, CLAIMS // max(1, n))  # labels at once, so that memory stays bounded
    parts = [slice(start, start + size) for start in range(0, classes, size)]
    return np.concatenate([newton(features[:, part], true[:, part], towards, penalty) for part in parts])


def newton(features: np.ndarray, true: np.ndarray, towards: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Coefficients (C, F) of some of the labels, with the L2 penalties `penalty` (F,) towards `towards` (F,)."""
    classes, width = features.shape[1:]
    x = np.ascontiguousarray(features.transpose(1, 2, 0))  # (C, F, N)
    said = true.T.astype(np.float64)  # (C, N)
    found = np.repeat(towards[None], classes, axis=0)

    def scores(coefficients: np.ndarray) -> np.ndarray:  # (C, N)
        return (coefficients[:, None] @ x)[:, 0]

    def loss(coefficients: np.ndarray) -> np.ndarray:  # (C,)
        claims = scores(coefficients)
        away = (penalty * (coefficients - towards) ** 2).sum(axis=1) / 2
        return (np.logaddexp(0, claims) - said * claims).sum(axis=1) + away

    now = loss(found)
    for _ in range(100):
        probs = sigmoid(scores(found))
        gradient = (x @ (probs - said)[..., None])[..., 0] + penalty * (found - towards)
        curvature = (x * (probs * (1 - probs))[:, None]) @ x.transpose(0, 2, 1) + penalty * np.eye(width)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        size, moved, after = np.ones(classes), found - step, loss(found - step)
        for _ in range(40):  # far from its optimum a full step overshoots
            worse = after > now
            if not worse.any():
                break
            size[worse] /= 2
            moved = found - size[:, None] * step
            after = loss(moved)
        better = after < now
        found, gained = np.where(better[:, None], moved, found), np.where(better, now - after, 0)
        now = np.minimum(now, after)
        if gained.max() <= 1e-9 * len(features):
            break
    return found


def pooled(features: np.ndarray, true: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients (F,) of one fit to all labels, L2 penalty towards `start`; a sample of CLAIMS where N * C is larger."""
    claims, said = features.reshape(-1, 1, features.shape[2]), true.reshape(-1, 1)
    if len(claims) > CLAIMS:
        drawn = np.random.default_rng(0).integers(len(claims), size=CLAIMS)
        claims, said = claims[drawn], said[drawn]
    return logistic(claims, said, start, IDENTITY_ROWS)[0]


def platt_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes - no, np.ones_like(yes)], axis=-1)


def fit_platt(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A scale and a shift of each label's log-odds (Platt 1999)."""
    features = platt_features(probs)
    return {"coefficients": logistic(features, y, pooled(features, y, np.array([1.0, 0.0])), POOLED_ROWS)}


def apply_platt(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return sigmoid(np.einsum("ncf,cf->nc", platt_features(probs), parameters["coefficients"]))


def beta_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes, -no, np.ones_like(yes)], axis=-1)


def fit_beta(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Factors of log p and of -log (1 - p), and a shift (Kull 2017, AISTATS); negative factors are set to 0."""
    features = beta_features(probs)
    towards = pooled(features, y, np.array([1.0, 1.0, 0.0])).clip(min=[0, 0, -np.inf])
    found = logistic(features, y, towards, POOLED_ROWS)
    wrong = np.flatnonzero((found[:, :2] < 0).any(axis=1))
    if len(wrong):
        kept = np.c_[found[wrong, :2] >= 0, np.ones(len(wrong), dtype=bool)]  # (labels, F)
        again = logistic(features[:, wrong] * kept, y[:, wrong], towards, POOLED_ROWS)
        found[wrong] = np.where(kept, again, 0).clip(min=[0, 0, -np.inf])
    return {"coefficients": found}


def apply_beta(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return sigmoid(np.einsum("ncf,cf->nc", beta_features(probs), parameters["coefficients"]))


def fit_curves(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """An isotonic curve for each label; Platt's for labels with few positive or few negative rows."""
    counts = y.sum(axis=0)
    enough = np.minimum(counts, len(y) - counts) >= FEW
    grid = sigmoid(np.linspace(-12, 12, 97))
    smooth = apply_platt(fit_platt(probs, y), np.repeat(grid[:, None], probs.shape[1], axis=1))  # (97, C)
    curves = [curve(probs[:, j], y[:, j]) if enough[j] else (grid, smooth[:, j]) for j in range(probs.shape[1])]
    return {"x": [x for x, _ in curves], "y": [y for _, y in curves]}


def apply_curves(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    columns = zip(probs.T, parameters["x"], parameters["y"], strict=True)
    return np.stack([np.interp(column, x, y) for column, x, y in columns], axis=1)


# -- the methods, simple ones first; the rows needed grow with the number of parameters

SINGLE = {
    "temperature": Kind(lambda classes: 100, fit_temperature, apply_temperature, normed=True),
    "vector": Kind(lambda classes: max(200, 20 * classes), fit_vector, apply_vector, normed=True, per_class=True),
    "dirichlet": Kind(
        lambda classes: max(200, 10 * classes**2), fit_dirichlet, apply_dirichlet, normed=True, per_class=True
    ),
    "isotonic": Kind(
        lambda classes: max(1000, 50 * classes),
        fit_one_against_rest,
        apply_one_against_rest,
        normed=True,
        per_class=True,
    ),
}
MULTI = {
    "temperature": Kind(lambda classes: 100, fit_scale, apply_scale),
    "platt": Kind(lambda classes: 100, fit_platt, apply_platt),
    "beta": Kind(lambda classes: 200, fit_beta, apply_beta),
    "isotonic": Kind(lambda classes: 1000, fit_curves, apply_curves),
}
KINDS: dict[bool, dict[str, Kind]] = {False: SINGLE, True: MULTI}  # multi-label or not -> name -> method


def as_lists(value: Any) -> Any:
    """Arrays as lists, for JSON."""
    return [as_lists(one) for one in value] if isinstance(value, list) else np.asarray(value).tolist()


def as_arrays(value: Any) -> Any:
    """Lists as arrays; rows of different lengths stay a list of arrays."""
    if isinstance(value, list) and value and isinstance(value[0], list) and len({len(row) for row in value}) > 1:
        return [np.array(row, dtype=np.float64) for row in value]
    return np.array(value, dtype=np.float64)
