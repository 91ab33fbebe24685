import math

import numpy as np
import pytest

from lasttoken.errors import DataError
from lasttoken.evaluation.metrics import METRICS, confusion, metrics_for, named, per_class, reliability
from lasttoken.labels import LabelSpace

# four rows of three classes; decisions 0 0 1 2, so row 1 is wrong
Y = np.array([0, 1, 1, 2])
PROBS = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.0, 0.3, 0.7]])

# three rows of two labels; decisions (yes no) (yes yes) (no no)
Y_MULTI = np.array([[True, False], [False, True], [True, False]])
PROBS_MULTI = np.array([[0.9, 0.2], [0.5, 0.6], [0.4, 0.3]])

SINGLE = {
    "accuracy": 3 / 4,
    "micro_f1": 3 / 4,
    "macro_f1": (2 / 3 + 2 / 3 + 1) / 3,
    "weighted_f1": (2 / 3 + 2 * 2 / 3 + 1) / 4,
    # Gorodkin: (4 * 3 - (2*1 + 1*2 + 1*1)) / sqrt((16 - 6) * (16 - 6))
    "mcc": 7 / 10,
    "log_loss": -math.log(0.8 * 0.3 * 0.5 * 0.7) / 4,
    "brier": ((0.04 + 0.01 + 0.01) + (0.36 + 0.49 + 0.01) + (0.04 + 0.25 + 0.09) + (0.0 + 0.09 + 0.09)) / 4,
    # every row in a bin of its own
    "ece": (0.2 + 0.6 + 0.5 + 0.3) / 4,
    "ece_mass": (0.2 + 0.6 + 0.5 + 0.3) / 4,
    # class 1 has two claims of .3 in one bin, one of them true: |1 - .6|; class 2 two of .1, none true
    "classwise_ece": ((0.2 + 0.6 + 0.2 + 0) / 4 + (0.1 + 0.4 + 0.5) / 4 + (0.2 + 0.3 + 0.3) / 4) / 3,
    # class 0: 3 of 3 pairs; class 1: .3 and .5 against .1 and .3: 3 wins and a tie of 4; class 2: 3 of 3
    "auroc": (1 + 3.5 / 4 + 1) / 3,
}
MULTI = {
    "micro_f1": 4 / 6,
    "macro_f1": (2 / 4 + 1) / 2,
    "weighted_f1": (2 * 2 / 4 + 1) / 3,
    "samples_f1": (1 + 2 / 3 + 0) / 3,
    "subset_accuracy": 1 / 3,
    "log_loss": -math.log(0.9 * 0.8 * 0.5 * 0.6 * 0.4 * 0.7) / 6,
    "brier": (0.01 + 0.04 + 0.25 + 0.16 + 0.36 + 0.09) / 6,
    # all six probabilities in bins of their own
    "ece": (0.1 + 0.2 + 0.5 + 0.4 + 0.6 + 0.3) / 6,
    "ece_mass": (0.1 + 0.2 + 0.5 + 0.4 + 0.6 + 0.3) / 6,
    "classwise_ece": ((0.1 + 0.5 + 0.6) / 3 + (0.2 + 0.4 + 0.3) / 3) / 2,
    # every row has one label: it is the most probable one of each; of three or five asked for there are two
    "p_at_1": 1,
    "p_at_3": 1 / 3,
    "p_at_5": 1 / 5,
    "r_at_5": 1,
    "ndcg_at_5": 1,
    # label 0: .9 and .4 against .5: 1 of 2; label 1: .6 against .2 and .3
    "auroc": (1 / 2 + 1) / 2,
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_label_a_row(name: str) -> None:
    assert METRICS[name](Y, PROBS) == pytest.approx(SINGLE[name])


@pytest.mark.parametrize("name", MULTI)
def test_any_number_of_labels(name: str) -> None:
    assert METRICS[name](Y_MULTI, PROBS_MULTI) == pytest.approx(MULTI[name])


def test_every_metric_has_a_literal_example_above() -> None:
    assert set(metrics_for(multi=False)) == SINGLE.keys()
    assert set(metrics_for(multi=True)) == MULTI.keys()


def test_lower_is_better_for_losses_and_calibration_errors_only() -> None:
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"log_loss", "brier", "ece", "ece_mass", "classwise_ece"}


def test_a_label_that_is_nowhere_stays_in_the_macro_average() -> None:
    # all rows right, and the third of the three labels neither true nor predicted: not 1 but 2 / 3
    y, probs = np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    assert METRICS["macro_f1"](y, probs) == pytest.approx(2 / 3)
    assert METRICS["weighted_f1"](y, probs) == 1
    y, probs = np.array([[True, False], [True, False]]), np.array([[0.9, 0.1], [0.9, 0.1]])
    assert METRICS["macro_f1"](y, probs) == 0.5


def test_predicting_a_new_wrong_label_cannot_raise_macro_f1() -> None:
    y = np.array([0, 0, 1])
    missed = np.eye(3)[[0, 0, 0]]
    strayed = np.eye(3)[[0, 0, 2]]
    assert METRICS["macro_f1"](y, missed) == pytest.approx(0.8 / 3)
    assert METRICS["macro_f1"](y, strayed) == pytest.approx(1 / 3)
    assert METRICS["macro_f1"](y, np.eye(3)[[0, 2, 2]]) == pytest.approx((2 / 3) / 3)


def test_f1_without_labels_and_without_decisions_is_zero() -> None:
    y, probs = np.zeros((2, 3), dtype=bool), np.full((2, 3), 0.1)
    for name in ("macro_f1", "micro_f1", "weighted_f1"):
        assert METRICS[name](y, probs) == 0
    for name in ("samples_f1", "subset_accuracy"):  # every row is right
        assert METRICS[name](y, probs) == 1


@pytest.mark.parametrize("name", metrics_for(multi=False))
def test_constant_probabilities(name: str) -> None:
    found = METRICS[name](np.array([0, 1, 2, 0]), np.full((4, 3), 1 / 3))
    expected = {
        "accuracy": 1 / 2, "micro_f1": 1 / 2, "macro_f1": (2 / 3) / 3, "weighted_f1": (2 / 3) / 2, "mcc": 0,
        "log_loss": math.log(3), "brier": 2 / 3, "ece": 1 / 2 - 1 / 3, "auroc": 1 / 2,
        "ece_mass": 1 / 2 - 1 / 3, "classwise_ece": (1 / 6 + 1 / 12 + 1 / 12) / 3,
    }  # fmt: skip
    assert found == pytest.approx(expected[name])


@pytest.mark.parametrize("multi", [False, True])
def test_no_rows_give_nan(multi: bool) -> None:
    y = np.zeros((0, 3), dtype=bool) if multi else np.zeros(0, dtype=np.int64)
    assert all(math.isnan(METRICS[name](y, np.zeros((0, 3)))) for name in metrics_for(multi))


def test_one_row() -> None:
    found = {name: METRICS[name](np.array([1]), np.array([[0.25, 0.75]])) for name in metrics_for(multi=False)}
    assert math.isnan(found.pop("auroc"))
    assert found == pytest.approx(
        {"accuracy": 1, "micro_f1": 1, "macro_f1": 0.5, "weighted_f1": 1, "mcc": 0, "brier": 0.125, "ece": 0.25}
        | {"log_loss": -math.log(0.75), "ece_mass": 0.25, "classwise_ece": 0.25}
    )


def test_a_probability_of_zero_costs_36_nats() -> None:
    loss = METRICS["log_loss"](np.array([0]), np.array([[0.0, 1.0]]))
    assert loss == pytest.approx(52 * math.log(2))  # the smallest step of a float64 at 1 is 2^-52


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    found = reliability(np.array([0, 0, 1]), np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]), bins=5)
    assert found.count.tolist() == [0, 0, 1, 2, 0]
    assert found.confidence[2:4].tolist() == pytest.approx([0.6, 0.75])
    assert found.accuracy[2:4].tolist() == [1, 1]
    assert np.isnan(found.accuracy).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(("y", "probs"), [(Y, PROBS), (Y_MULTI, PROBS_MULTI)])
def test_the_calibration_error_is_what_the_diagram_shows(y: np.ndarray, probs: np.ndarray) -> None:
    found = reliability(y, probs)
    gap = np.nansum(found.count * np.abs(found.accuracy - found.confidence)) / found.count.sum()
    assert METRICS["ece"](y, probs) == pytest.approx(gap)


def test_reliability_of_many_labels_pools_all_their_probabilities() -> None:
    found = reliability(Y_MULTI, PROBS_MULTI, bins=2)
    assert found.count.tolist() == [4, 2]
    assert found.confidence.tolist() == pytest.approx([1.4 / 4, 0.75])
    assert found.accuracy.tolist() == [0.25, 1]


def test_per_class() -> None:
    zero, one, two = per_class(Y, PROBS, PROBS.argmax(axis=1), LabelSpace(("a", "b", "c")))
    assert (zero.label, zero.precision, zero.recall, zero.f1) == ("a", 0.5, 1, pytest.approx(2 / 3))
    assert (one.precision, one.recall, one.support, one.predicted, one.auroc) == (1, 0.5, 2, 1, 0.875)
    assert (two.f1, two.support, two.predicted, two.auroc) == (1, 1, 1, 1)


def test_per_class_of_a_label_that_is_nowhere() -> None:
    probs = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    last = per_class(np.array([0, 1]), probs, np.array([0, 1]), LabelSpace(("a", "b", "c")))[2]
    assert (last.precision, last.recall, last.f1, last.support, last.predicted) == (0, 0, 0, 0, 0)
    assert math.isnan(last.auroc)


def test_confusion_has_the_truth_in_rows() -> None:
    assert confusion(Y, PROBS.argmax(axis=1), 3).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_confusion_of_many_labels_is_one_table_a_label() -> None:
    assert confusion(Y_MULTI, PROBS_MULTI >= 0.5, 2).tolist() == [[[0, 1], [1, 1]], [[2, 0], [0, 1]]]


def test_a_metric_of_the_other_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"'mcc' is not defined where a text has any number of labels; choose from"):
        METRICS["mcc"](Y_MULTI, PROBS_MULTI)
    with pytest.raises(DataError, match=r"'samples_f1' is not defined where a text has one label; choose from"):
        named("samples_f1", multi=False)
    with pytest.raises(DataError, match=r"'f2' is not defined where"):
        named("f2", multi=True)
