import numpy as np
import pytest

from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.problem_metrics import by_band, label_counts, problem_metrics, propensities
from lasttoken.hierarchy import by_separator
from lasttoken.labels import LabelSpace

MULTI = LabelSpace(("a", "b", "c"), multi=True)


def test_labels_are_counted() -> None:
    assert label_counts(np.array([0, 2, 2]), 3).tolist() == [1, 0, 2]
    assert label_counts(np.array([[1, 1, 0], [0, 1, 0]], dtype=bool), 3).tolist() == [1, 2, 0]


def test_bands_are_macro_f1_of_their_labels() -> None:
    y = np.array([0, 0, 1, 1, 2, 2])
    chosen = np.array([0, 0, 1, 0, 2, 1])
    probs = np.eye(3)[chosen]
    frequent, rare = by_band(np.array([500, 50, 40]))[::-1]
    assert (rare.words, frequent.words) == ("macro-F1, 10-99 rows (2 labels)", "macro-F1, 100+ rows (1 label)")
    assert frequent(y, probs) == pytest.approx(0.8)  # class 0: precision 2/3, recall 1
    assert rare(y, probs) == pytest.approx((0.5 + 2 / 3) / 2)
    whole = METRICS["macro_f1"](y, probs)
    assert (frequent(y, probs) + 2 * rare(y, probs)) / 3 == pytest.approx(whole)


def test_one_band_says_nothing() -> None:
    assert by_band(np.array([200, 300])) == []


def test_rare_labels_are_less_likely_to_be_written_down() -> None:
    found = propensities(np.array([1, 10, 1000]), rows=10_000)
    assert (np.diff(found) > 0).all()
    assert found[0] == pytest.approx(1 / (1 + (np.log(10_000) - 1) * 2.5**0.55 * 2.5**-0.55))


def test_a_rare_hit_weighs_more() -> None:
    trained = np.array([1000, 1000, 1])
    at_1 = next(metric for metric in problem_metrics(MULTI, trained, 2000, None) if metric.name == "psp_at_1")
    y = np.array([[1, 0, 1], [1, 0, 1]], dtype=bool)
    common, rare = np.array([[0.9, 0, 0.1]] * 2), np.array([[0.1, 0, 0.9]] * 2)
    assert at_1(y, rare) == pytest.approx(1.0)
    assert at_1(y, common) == pytest.approx((1 / propensities(trained, 2000)[0]) / (1 / propensities(trained, 2000)[2]))
    assert METRICS["p_at_1"](y, rare) == METRICS["p_at_1"](y, common) == 1


def test_recall_at_five() -> None:
    y = np.array([[1, 1, 0, 0, 0, 0, 1], [0] * 7], dtype=bool)
    probs = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [0.1] * 7])
    assert METRICS["r_at_5"](y, probs) == pytest.approx((2 / 3 + 0) / 2)


def test_a_near_miss_is_half_right() -> None:
    space = LabelSpace(("A/x", "A/y", "B/z"))
    tree = by_separator(space.names, "/")
    metric = problem_metrics(space, np.array([20, 20, 20]), 60, tree)[-1]
    assert metric.name == "hierarchical_f1"
    y = np.array([0, 0])
    assert metric(y, np.eye(3)[[1, 1]]) == pytest.approx(0.5)  # one of two nodes
    assert metric(y, np.eye(3)[[0, 1]]) == pytest.approx(0.75)
    assert metric(y, np.eye(3)[[2, 2]]) == 0


def test_hierarchical_f1_of_closed_sets_is_micro_f1() -> None:
    space = LabelSpace(("A", "A/x", "A/y", "B"), multi=True)
    tree = by_separator(space.names, "/")
    rng = np.random.default_rng(0)
    from lasttoken.hierarchy import upwards

    above = tree.columns(space)
    y, chosen = (upwards(rng.random((50, 4)) > 0.6, above) for _ in range(2))
    metric = problem_metrics(space, y.sum(axis=0), 50, tree)[-1]
    assert metric(y, chosen.astype(float), chosen) == pytest.approx(
        METRICS["micro_f1"](y, chosen.astype(float), chosen)
    )
