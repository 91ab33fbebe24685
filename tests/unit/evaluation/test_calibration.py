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
    found, _, _ = fit_calibration(probs, y, method="temperature")
    assert float(found.parameters["temperature"]) == pytest.approx(3.0, rel=0.1)
    assert np.array_equal(found(probs).argmax(axis=1), probs.argmax(axis=1))


@pytest.mark.parametrize("method", SINGLE)
def test_one_label_a_row_is_calibrated_on_other_rows(method: str) -> None:
    probs, y = single(3000, shift=np.array([1.0, 0.0, -1.0]))
    others, truth = single(5000, shift=np.array([1.0, 0.0, -1.0]), seed=1)
    found, _, _ = fit_calibration(probs, y, method=method)
    calibrated = found(others)
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(len(others)))
    assert METRICS["ece"](truth, others) > 0.1
    assert METRICS["ece"](truth, calibrated) < (0.05 if method == "temperature" else 0.03)
    assert METRICS["log_loss"](truth, calibrated) < METRICS["log_loss"](truth, others)


EACH = [method for method in MULTI if method != "temperature"]  # those that calibrate each label by itself


def test_one_temperature_for_all_labels_is_found_and_keeps_their_order() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 4)) * 2
    y = rng.random((3000, 4)) < sigmoid(logits)
    found, _, _ = fit_calibration(sigmoid(logits * 3), y, method="auto_temperature")
    assert found.method == "temperature"
    assert found.parameters["temperature"] == pytest.approx(3, rel=0.1)
    assert found(np.array([[0.5, 0.2, 0.9, 0.0]]))[0] == pytest.approx([0.5, 0.386, 0.675, 0], abs=0.02)
    assert "temperature" not in fit_calibration(sigmoid(logits * 3), y)[2]  # platt has it in it


@pytest.mark.parametrize(("rows", "method"), [(99, "none"), (1000, "temperature")])
def test_a_temperature_alone_is_taken_where_rows_allow(rows: int, method: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 3)) * 2
    y = (softmax(logits).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    assert fit_calibration(softmax(logits * 4), y, method="auto_temperature")[0].method == method


@pytest.mark.parametrize("method", EACH)
def test_each_label_is_calibrated_on_other_rows(method: str) -> None:
    found, _, _ = fit_calibration(*multi(3000), method=method)
    others, truth = multi(5000, seed=1)
    assert METRICS["classwise_ece"](truth, others) > 0.05
    assert METRICS["classwise_ece"](truth, found(others)) < 0.015
    assert METRICS["log_loss"](truth, found(others)) < METRICS["log_loss"](truth, others)


@pytest.mark.parametrize("method", ["vector", "dirichlet"])
def test_the_fit_is_an_optimum(method: str) -> None:
    """No small step in any direction lowers what was minimised."""
    probs, y = single(500, seed=3)
    found, _, _ = fit_calibration(probs, y, method=method)
    base = cross_entropy(log(found(probs)), y)[0]
    random = np.random.default_rng(0)
    for _ in range(20):
        moved = {k: np.asarray(v) + random.normal(size=np.shape(v)) * 0.2 for k, v in found.parameters.items()}
        assert cross_entropy(log(Calibration(method, False, moved)(probs)), y)[0] > base - 1e-3


def test_the_method_with_the_lowest_held_out_loss_is_taken() -> None:
    rows = single(1200, shift=np.array([2.0, 0.0, -2.0]))
    found, _, told = fit_calibration(*rows)
    assert found.method in ("vector", "dirichlet")  # a temperature cannot undo the shift
    assert told.startswith(f"calibration: {found.method}, from 1200 validation rows; cross-validated log-loss none ")


@pytest.mark.parametrize("method", ["platt", "beta"])
@pytest.mark.parametrize("times", [0.5, 3, 5, 8])
def test_saturated_probabilities_do_not_throw_the_fit_off(method: str, times: float) -> None:
    """Log-odds that are several times too large: the fit still finds the loss of the true probabilities."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(4000, 4)) * 2 + np.linspace(0, -3, 4)
    y = random.random(scores.shape) < sigmoid(scores)
    found, _, _ = fit_calibration(sigmoid(times * scores)[:2000], y[:2000], method=method)
    loss = METRICS["log_loss"](y[2000:], found(sigmoid(times * scores)[2000:]))
    assert loss < METRICS["log_loss"](y[2000:], sigmoid(scores)[2000:]) + 0.01


def test_a_rare_label_keeps_its_rate() -> None:
    probs, y = multi(4000)
    for method in EACH:
        found, _, _ = fit_calibration(probs, y, method=method)
        rates = found(probs).mean(axis=0)
        assert rates == pytest.approx(y.mean(axis=0), abs=0.005)


def test_equal_claims_are_one_whatever_their_order() -> None:
    probs = np.full((1200, 2), 0.3)
    probs[:, 1] = np.tile([0.2, 1.0], 600)
    y = np.stack([np.arange(1200) >= 840, np.arange(1200) % 2 == 1], axis=1)  # .3 true, and the true ones last
    y[:240, 1] = False
    found, _, _ = fit_calibration(probs, y, method="isotonic")
    assert found(probs)[:, 0] == pytest.approx(np.full(1200, 0.3), abs=0.001)
    assert sorted(set(found(probs)[:, 1].round(2).tolist())) == [0.0, 0.8]


def test_a_hundred_rows_without_a_mistake_make_no_certainty() -> None:
    probs = np.tile([0.6, 0.4], (100, 1))
    found, _, _ = fit_calibration(probs, np.zeros(100, dtype=int), method="temperature")
    assert 0.7 < found(probs)[0, 0] < 0.98


def test_held_out_probabilities_are_of_rows_that_were_not_fitted_on() -> None:
    probs, y = single(300)
    found, held, _ = fit_calibration(probs, y, method="dirichlet")
    assert METRICS["log_loss"](y, found(probs)) < METRICS["log_loss"](y, held) < METRICS["log_loss"](y, probs)


def test_probabilities_that_are_right_are_hardly_moved() -> None:
    rows = single(2000, times=1.0)
    found, _, _ = fit_calibration(*rows)
    assert np.abs(found(rows[0]) - rows[0]).max() < 0.1


def test_too_few_rows_are_told() -> None:
    probs, y = single(40)
    found, _, told = fit_calibration(probs, y)
    assert found.method == "none"
    assert told.startswith("calibration: temperature needs 100 validation rows, there are 40 (give more with --valid")
    assert told.endswith("a larger --valid-share); probabilities stay uncalibrated")
    with pytest.raises(
        DataError, match=r"isotonic needs 1000 validation rows, there are 40 .*; use another method, or"
    ):
        fit_calibration(probs, y, method="isotonic")
    assert fit_calibration(*multi(60))[2].startswith(
        "calibration: platt needs 100 validation rows, there are 60 (give more"
    )


def test_a_method_for_the_other_kind_of_rows_is_refused() -> None:
    with pytest.raises(
        DataError, match="calibration 'platt' is none of auto, auto_temperature, off, temperature, vector, dirichlet"
    ):
        fit_calibration(*single(100), method="platt")
    assert fit_calibration(*single(100), method="off")[0].method == "none"


def test_a_class_that_validation_lacks_keeps_its_claims() -> None:
    probs, y = single(1600)
    kept = y != 2
    found, _, told = fit_calibration(probs[kept], y[kept])
    assert found.method in ("temperature", "none")
    assert told.endswith("; vector, dirichlet, isotonic not tried, as 1 label has no validation row")
    log_loss = METRICS["log_loss"]
    assert log_loss(y, found(probs)) < log_loss(y, probs) + 0.02
    for method in ("vector", "dirichlet", "isotonic"):
        with pytest.raises(
            DataError, match=f"{method} needs validation rows of every label, 1 label has none; use temp"
        ):
            fit_calibration(probs[kept], y[kept], method=method)
    assert "not tried" not in fit_calibration(probs, y)[2]
    assert "not tried" not in fit_calibration(probs[kept], y[kept], method="temperature")[2]


def test_a_label_that_is_never_true() -> None:
    scores, truth = multi(1200)
    truth[:, 5] = False
    for method in EACH:
        found, _, _ = fit_calibration(scores, truth, method=method)
        calibrated = found(scores)[:, 5]
        assert np.isfinite(calibrated).all()
        assert calibrated.mean() < scores[:, 5].mean()


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_constant_probabilities(value: float) -> None:
    y = np.arange(300) % 3
    probs = np.full((300, 3), 1 / 3) if value else np.eye(3)[(y + (np.arange(300) % 5 == 0)) % 3]
    for method in ("temperature", "vector", "dirichlet"):
        found, _, _ = fit_calibration(probs, y, method=method)
        assert np.isfinite(found(probs)).all()
    labels = np.eye(3, dtype=bool)[y]
    for method in ("platt", "beta"):
        found, _, _ = fit_calibration(probs, labels, method=method)
        assert np.isfinite(found(probs)).all()


@pytest.mark.parametrize("method", [*SINGLE, *MULTI])
def test_what_is_stored_calibrates_bit_for_bit(method: str) -> None:
    probs, y = single(1500) if method in SINGLE else multi(1500)
    found, _, _ = fit_calibration(probs, y, method=method)
    again = Calibration.of(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again(probs), found(probs))


def test_an_unknown_stored_method_is_refused() -> None:
    with pytest.raises(DataError, match="calibration 'newer' is not known to this version"):
        Calibration.of({"method": "newer", "multi": False, "parameters": {}})


def test_what_is_not_clearly_better_is_left_alone() -> None:
    left = 0
    for seed in range(20):
        found, _, told = fit_calibration(*single(120, times=1.0, seed=seed))
        left += found.method == "none"
        assert (found.method == "none") == told.startswith("calibration: none, as no method is clearly better on 120")
    assert left >= 15
