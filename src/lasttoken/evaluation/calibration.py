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
from scipy.special import expit as sigmoid
from scipy.special import softmax as softmax_over

from lasttoken.errors import DataError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.wording import counted

FOLDS = 5
TINIEST = 1e-12  # a probability of 0 has no logarithm
PULL = 2.0  # rows that doing nothing weighs against what the validation rows say
SHRINK = 5.0  # rows that the fit of all labels weighs against a label's own
CLAIMS = 2_000_000  # of rows and labels that one fit looks at
FEW = 20  # rows of either kind below which a label has no isotonic curve of its own


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted map from probabilities (N, C) to calibrated ones (N, C)."""

    method: str
    multi: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)  # arrays, or lists of arrays

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """The calibrated probabilities, rows summing to one where a row has one label; of 0, which say nothing, still 0."""
        return probs if self.method == "none" else KINDS[self.multi][self.method](self.parameters, probs)

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
MORE_ROWS = "give more with --valid, or a larger data.valid_share"


@dataclass(frozen=True)
class Kind:
    """A way to calibrate."""

    needed: Callable[[int], int]  # labels -> validation rows below which it is not tried
    fit: Callable[[np.ndarray, np.ndarray], dict[str, Any]]  # (probs (N, C), y) -> parameters
    apply: Callable[[Mapping[str, Any], np.ndarray], np.ndarray]
    normed: bool = False  # whether rows sum to one
    alone: bool = False  # whether each of the row's possible labels is moved by itself, which takes rows of it

    def __call__(self, parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) as the parameters have them."""
        found = self.apply(parameters, probs)
        return found * probs.any(axis=1, keepdims=True) if self.normed else found


def check_calibration(method: str, y: np.ndarray, classes: int) -> None:
    """Raises DataError where the method that is named cannot be fitted on validation rows of the truth y: before training."""
    multi = y.ndim == 2
    kinds = KINDS[multi]
    if method in ("auto", "off"):
        return
    if method not in kinds:
        raise DataError(f"calibration {method!r} is none of {', '.join(['auto', 'off', *kinds])}")
    if len(y) < kinds[method].needed(classes):
        raise DataError(f"{too_few(method, multi, classes, len(y))}; use another method, or calibration = off")
    if kinds[method].alone and (lacking := classes - len(np.unique(y))):
        raise DataError(
            f"calibration: {method} needs validation rows of every label, {counted(lacking, 'label has', 'labels have')} "
            "none; use temperature, or calibration = off"
        )


def too_few(method: str, multi: bool, classes: int, rows: int) -> str:
    """How many validation rows are missing."""
    return f"calibration: {method} needs {KINDS[multi][method].needed(classes)} validation rows, there are {rows} ({MORE_ROWS})"


def fit_calibration(
    probs: np.ndarray, y: np.ndarray, *, method: str = "auto", seed: int = 0
) -> tuple[Calibration, np.ndarray, str]:
    """(the calibration fitted on validation rows, their probabilities as it gives them to rows that it was not fitted
    on (N, C), a sentence that says how it was chosen).

    probs (N, C), y (N,) int64 or (N, C) bool. `auto` takes the method with the lowest cross-validated log-loss, and none
    where that is not lower by a standard error at least, or there are too few rows. What moves each class by itself is
    not tried where a class has no row, which would take all there is from it. Raises DataError where a method that was
    named cannot be fitted.
    """
    multi, (n, classes) = y.ndim == 2, probs.shape
    check_calibration(method, y, classes)
    if method == "off":
        return NONE, probs, "calibration: off"
    kinds = KINDS[multi]
    lacking = 0 if multi else classes - len(np.unique(y))
    tried = [name for name in (kinds if method == "auto" else [method]) if n >= kinds[name].needed(classes)]
    left = [name for name in tried if lacking and kinds[name].alone]
    tried = [name for name in tried if name not in left]
    if not tried:
        return NONE, probs, f"{too_few(next(iter(kinds)), multi, classes, n)}; probabilities are left as they are"
    held = {"none": probs} | {name: cross_fitted(kinds[name], probs, y, seed) for name in tried}
    losses = {name: METRICS["log_loss"](y, calibrated) for name, calibrated in held.items()}
    best = min(losses, key=losses.__getitem__)
    if method != "auto":
        best = method
    elif not clearly_better(held[best], probs, y):
        best = "none"
    told = "cross-validated log-loss " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    if left:
        told += f"; {', '.join(left)} not tried, as {counted(lacking, 'label has', 'labels have')} no validation row"
    if best == "none":
        return (
            NONE,
            probs,
            f"calibration: left as it is, nothing tried on {n} validation rows is clearly better; {told}",
        )
    fitted = Calibration(best, multi, kinds[best].fit(probs, y))
    return fitted, held[best], f"calibration: {best}, from {n} validation rows; {told}"


def clearly_better(calibrated: np.ndarray, probs: np.ndarray, y: np.ndarray) -> bool:
    """Whether the log-loss falls by more than its standard error over the rows."""
    loss = METRICS["log_loss"]
    gain = loss.sums(y, probs).amounts - loss.sums(y, calibrated).amounts  # (N,)
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


def folds_of(n: int, seed: int) -> np.ndarray:
    """The fold of each row (N,), the same for whatever is chosen on the same rows."""
    return np.random.default_rng(seed).permutation(n) % FOLDS


def cross_fitted(kind: Kind, probs: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """The probabilities (N, C) of each row by a calibration that was not fitted on it."""
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
    """One number that all log-probabilities are divided by (Guo et al. 2017, arXiv:1706.04599), which keeps their order."""
    scores, ridge = log(probs), PULL / len(y)
    found = minimize_scalar(
        lambda t: cross_entropy(scores / np.exp(t), y)[0] + ridge * t**2, bounds=(-3, 3), method="bounded"
    )
    return {"temperature": np.exp(found.x)}


def apply_temperature(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return softmax(log(probs) / parameters["temperature"])


def fit_vector(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A factor and a shift for each class (Guo et al. 2017), held near 1 and 0."""
    scores, classes, ridge = log(probs), probs.shape[1], PULL / len(y)

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
    """A linear map of log-probabilities, what leaves its diagonal and its shift held near 0 (Kull 2019, arXiv:1910.12656)."""
    scores, classes, ridge = log(probs), probs.shape[1], PULL / len(y)
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
    """The rising curve (x, y) of how often claims come true (Zadrozny & Elkan 2002), never quite 0 or 1."""
    x, place, count = np.unique(probs, return_inverse=True, return_counts=True)  # equal claims are one
    risen = isotonic_regression(np.bincount(place, true.astype(float)) / count, weights=count.astype(float)).x
    risen = np.clip(risen, 1 / (len(true) + 2), 1 - 1 / (len(true) + 2))
    corner = np.r_[True, np.diff(risen) > 0] | np.r_[np.diff(risen) > 0, True]  # between corners it is straight
    return x[corner], risen[corner]


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
    held = np.clip(probs, TINIEST, 1 - TINIEST)
    return np.log(held), np.log1p(-held)


def logistic(features: np.ndarray, true: np.ndarray, towards: np.ndarray, weight: float) -> np.ndarray:
    """Coefficients (C, F) of C logistic regressions at once, by Newton's method with halved steps.

    features (N, C, F), true (N, C). Each is drawn to `towards` (F,), which weighs as much as `weight` rows.
    """
    n, classes, _ = features.shape
    pull = weight * np.maximum((features**2).mean(axis=(0, 1)), 1e-6)  # (F,), so that it does not depend on units
    size = max(1, CLAIMS // max(1, n))  # labels at once, so that memory stays bounded
    parts = [slice(start, start + size) for start in range(0, classes, size)]
    return np.concatenate([newton(features[:, part], true[:, part], towards, pull) for part in parts])


def newton(features: np.ndarray, true: np.ndarray, towards: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Coefficients (C, F) of some of the labels, drawn to `towards` (F,) with the forces `pull` (F,)."""
    classes, width = features.shape[1:]
    x = np.ascontiguousarray(features.transpose(1, 2, 0))  # (C, F, N)
    said = true.T.astype(np.float64)  # (C, N)
    found = np.repeat(towards[None], classes, axis=0)

    def scores(coefficients: np.ndarray) -> np.ndarray:  # (C, N)
        return (coefficients[:, None] @ x)[:, 0]

    def loss(coefficients: np.ndarray) -> np.ndarray:  # (C,)
        claims = scores(coefficients)
        away = (pull * (coefficients - towards) ** 2).sum(axis=1) / 2
        return (np.logaddexp(0, claims) - said * claims).sum(axis=1) + away

    now = loss(found)
    for _ in range(100):
        probs = sigmoid(scores(found))
        gradient = (x @ (probs - said)[..., None])[..., 0] + pull * (found - towards)
        curvature = (x * (probs * (1 - probs))[:, None]) @ x.transpose(0, 2, 1) + pull * np.eye(width)
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
    """Coefficients (F,) of all labels together, drawn a little to `start`; of CLAIMS draws of their claims, where these are more."""
    claims, said = features.reshape(-1, 1, features.shape[2]), true.reshape(-1, 1)
    if len(claims) > CLAIMS:
        drawn = np.random.default_rng(0).integers(len(claims), size=CLAIMS)
        claims, said = claims[drawn], said[drawn]
    return logistic(claims, said, start, PULL)[0]


def platt_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes - no, np.ones_like(yes)], axis=-1)


def fit_platt(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A factor and a shift of each label's log-odds (Platt 1999)."""
    features = platt_features(probs)
    return {"coefficients": logistic(features, y, pooled(features, y, np.array([1.0, 0.0])), SHRINK)}


def apply_platt(parameters: Mapping[str, Any], probs: np.ndarray) -> np.ndarray:
    return sigmoid(np.einsum("ncf,cf->nc", platt_features(probs), parameters["coefficients"]))


def beta_features(probs: np.ndarray) -> np.ndarray:
    yes, no = odds(probs)
    return np.stack([yes, -no, np.ones_like(yes)], axis=-1)


def fit_beta(probs: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Factors of log p and of -log (1 - p), and a shift (Kull 2017, AISTATS); a factor below 0 is taken out."""
    features = beta_features(probs)
    towards = pooled(features, y, np.array([1.0, 1.0, 0.0])).clip(min=[0, 0, -np.inf])
    found = logistic(features, y, towards, SHRINK)
    wrong = np.flatnonzero((found[:, :2] < 0).any(axis=1))
    if len(wrong):
        kept = np.c_[found[wrong, :2] >= 0, np.ones(len(wrong), dtype=bool)]  # (labels, F)
        again = logistic(features[:, wrong] * kept, y[:, wrong], towards, SHRINK)
        found[wrong] = np.where(kept, again, 0).clip(min=[0, 0, -np.inf])
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
    "temperature": Kind(lambda classes: 100, fit_temperature, apply_temperature, normed=True),
    "vector": Kind(lambda classes: max(200, 20 * classes), fit_vector, apply_vector, normed=True, alone=True),
    "dirichlet": Kind(
        lambda classes: max(200, 10 * classes**2), fit_dirichlet, apply_dirichlet, normed=True, alone=True
    ),
    "isotonic": Kind(
        lambda classes: max(1000, 50 * classes),
        fit_one_against_rest,
        apply_one_against_rest,
        normed=True,
        alone=True,
    ),
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
