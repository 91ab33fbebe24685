"""Calibration: what each method finds again of a distortion that is known, when it is refused, and that it is stored whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lasttoken.errors import DataError
from lasttoken.evaluation.calibration import (
    MULTI,
    SINGLE,
    Calibration,
    cross_entropy,
    fit_calibration,
    log,
    sigmoid,
    softmax,
)
from lasttoken.evaluation.metrics import METRICS

Rows = tuple[np.ndarray, np.ndarray]


def single(n: int, *, classes: int = 3, times: float = 3.0, shift: np.ndarray | float = 0.0, seed: int = 0) -> Rows:
    """(probabilities whose logarithms are `times` too large and `shift` off, labels drawn from the true ones)."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(n, classes)) * 2
    y = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    return softmax(scores * times + shift), y


def multi(n: int, *, classes: int = 6, seed: int = 0) -> Rows:
    """(probabilities with twice the log-odds and a shift of one, labels drawn from the true ones); labels grow rarer."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(n, classes)) * 2 + np.linspace(0, -4, classes)
    return sigmoid(scores * 2 + 1), random.random((n, classes)) < sigmoid(scores)


def test_temperature_is_found_again_and_changes_no_decision() -> None:
    probs, y = single(4000)
    found, _ = fit_calibration(probs, y, method="temperature")
    assert float(found.parameters["temperature"]) == pytest.approx(3.0, rel=0.1)
    assert np.array_equal(found(probs).argmax(axis=1), probs.argmax(axis=1))


@pytest.mark.parametrize("method", SINGLE)
def test_one_label_a_row_is_calibrated_on_other_rows(method: str) -> None:
    probs, y = single(3000, shift=np.array([1.0, 0.0, -1.0]))
    others, truth = single(5000, shift=np.array([1.0, 0.0, -1.0]), seed=1)
    found, _ = fit_calibration(probs, y, method=method)
    calibrated = found(others)
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(len(others)))
    assert METRICS["ece"](truth, others) > 0.1
    assert METRICS["ece"](truth, calibrated) < (0.05 if method == "temperature" else 0.03)
    assert METRICS["log_loss"](truth, calibrated) < METRICS["log_loss"](truth, others)


@pytest.mark.parametrize("method", MULTI)
def test_each_label_is_calibrated_on_other_rows(method: str) -> None:
    found, _ = fit_calibration(*multi(3000), method=method)
    others, truth = multi(5000, seed=1)
    assert METRICS["classwise_ece"](truth, others) > 0.05
    assert METRICS["classwise_ece"](truth, found(others)) < 0.015
    assert METRICS["log_loss"](truth, found(others)) < METRICS["log_loss"](truth, others)


@pytest.mark.parametrize("method", ["vector", "dirichlet"])
def test_gradients_are_those_of_the_loss(method: str) -> None:
    """The optimum is one: no small step in any direction lowers what was minimised."""
    probs, y = single(500, seed=3)
    found, _ = fit_calibration(probs, y, method=method)
    base = cross_entropy(log(found(probs)), y)[0]
    random = np.random.default_rng(0)
    for _ in range(20):
        moved = {k: np.asarray(v) + random.normal(size=np.shape(v)) * 0.2 for k, v in found.parameters.items()}
        assert cross_entropy(log(Calibration(method, False, moved)(probs)), y)[0] > base - 1e-3


def test_the_method_with_the_lowest_held_out_loss_is_taken() -> None:
    rows = single(1200, shift=np.array([2.0, 0.0, -2.0]))
    found, told = fit_calibration(*rows)
    assert found.method in ("vector", "dirichlet")  # a temperature cannot undo the shift
    assert told.startswith(f"calibration: {found.method} of 1200 validation rows; cross-validated log-loss none ")


def test_probabilities_that_are_right_are_hardly_moved() -> None:
    rows = single(2000, times=1.0)
    found, _ = fit_calibration(*rows)
    assert np.abs(found(rows[0]) - rows[0]).max() < 0.1


def test_too_few_rows_are_told() -> None:
    probs, y = single(40)
    found, told = fit_calibration(probs, y)
    assert found.method == "none"
    assert told == "calibration: temperature needs 50 validation rows, there are 40; probabilities are left as they are"
    with pytest.raises(DataError, match=r"isotonic needs 1000 validation rows, there are 40; use another method, or"):
        fit_calibration(probs, y, method="isotonic")
    assert fit_calibration(*multi(60))[1].startswith("calibration: platt needs 100 validation rows, there are 60;")


def test_a_method_for_the_other_kind_of_rows_is_refused() -> None:
    with pytest.raises(DataError, match="calibration 'platt' is none of auto, off, temperature, vector, dirichlet"):
        fit_calibration(*single(100), method="platt")
    assert fit_calibration(*single(100), method="off")[0].method == "none"


def test_a_class_that_validation_lacks_and_a_label_that_is_never_true() -> None:
    probs, y = single(400)
    kept = y != 2
    for method in ("temperature", "vector", "dirichlet"):
        found, _ = fit_calibration(probs[kept], y[kept], method=method)
        assert np.isfinite(found(probs)).all()
    scores, truth = multi(1200)
    truth[:, 5] = False
    for method in MULTI:
        found, _ = fit_calibration(scores, truth, method=method)
        calibrated = found(scores)[:, 5]
        assert np.isfinite(calibrated).all()
        assert calibrated.mean() < scores[:, 5].mean()


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_constant_probabilities(value: float) -> None:
    y = np.arange(300) % 3
    probs = np.full((300, 3), 1 / 3) if value else np.eye(3)[(y + (np.arange(300) % 5 == 0)) % 3]
    for method in ("temperature", "vector", "dirichlet"):
        found, _ = fit_calibration(probs, y, method=method)
        assert np.isfinite(found(probs)).all()
    labels = np.eye(3, dtype=bool)[y]
    for method in ("platt", "beta"):
        found, _ = fit_calibration(probs, labels, method=method)
        assert np.isfinite(found(probs)).all()


@pytest.mark.parametrize("method", [*SINGLE, *MULTI])
def test_what_is_stored_calibrates_bit_for_bit(method: str) -> None:
    probs, y = single(1500) if method in SINGLE else multi(1500)
    found, _ = fit_calibration(probs, y, method=method)
    again = Calibration.of(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again(probs), found(probs))


def test_an_unknown_stored_method_is_refused() -> None:
    with pytest.raises(DataError, match="calibration 'newer' is not known to this version"):
        Calibration.of({"method": "newer", "multi": False, "parameters": {}})
