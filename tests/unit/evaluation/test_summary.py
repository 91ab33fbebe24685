import json
import math

import numpy as np
import pytest

from lasttoken.errors import DataError
from lasttoken.evaluation.metrics import metrics_for
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.summary import measure, summarize
from lasttoken.labels import LabelSpace

SPACE = LabelSpace(("a", "b", "c"))
SINGLE = Predictions(
    [f"r{i}" for i in range(4)],
    np.array([0, 1, 1, 0]),
    np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.7, 0.3, 0.0]]),
    SPACE,
)
MULTI = Predictions(
    ["r0", "r1"],
    np.array([[True, False], [False, True]]),
    np.array([[0.9, 0.2], [0.5, 0.6]]),
    LabelSpace(("a", "b"), multi=True),
)


def test_summary_of_one_label_a_row() -> None:
    found = summarize(SINGLE, seed=0, draws=50)
    assert (found["n"], found["classes"], found["multi"]) == (4, 3, False)
    assert list(found["metrics"]) == metrics_for(multi=False)
    assert found["metrics"]["accuracy"]["estimate"] == 0.75
    assert found["metrics"]["accuracy"]["level"] == 0.95
    assert [one["label"] for one in found["per_class"]] == ["a", "b", "c"]
    error = found["per_class"][0].pop("ece")
    assert (error["estimate"] > 0, error["low"], error["high"]) == (True, None, None)  # four rows
    assert found["per_class"][0] == {
        "label": "a", "precision": pytest.approx(2 / 3), "recall": 1, "f1": pytest.approx(0.8),
        "support": 2, "predicted": 3, "auroc": 1,
    }  # fmt: skip
    assert found["per_class"][2]["auroc"] is None


def test_summary_of_any_number_of_labels() -> None:
    found = summarize(MULTI, seed=0, draws=50)
    assert found["multi"] is True
    assert list(found["metrics"]) == metrics_for(multi=True)
    assert found["metrics"]["subset_accuracy"]["estimate"] == 0.5


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_summary_is_strict_json(rows: int) -> None:
    part = Predictions(SINGLE.ids[:rows], SINGLE.targets[:rows], SINGLE.probs[:rows], SPACE)
    found = summarize(part, seed=0, draws=20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_seed_gives_the_same_figures_again_and_another_seed_others() -> None:
    assert summarize(SINGLE, seed=3, draws=50) == summarize(SINGLE, seed=3, draws=50)
    assert measure(SINGLE, "macro_f1", seed=3, draws=50).low != measure(SINGLE, "macro_f1", seed=4, draws=50).low


def test_a_metric_has_its_own_random_numbers() -> None:
    whole = summarize(SINGLE, seed=3, draws=50)["metrics"]
    assert whole["brier"] == measure(SINGLE, "brier", seed=3, draws=50).to_dict()


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(DataError, match="'f3' is not defined where a text has one label; choose from"):
        measure(SINGLE, "f3", seed=0)


def test_a_metric_that_is_undefined_is_nan() -> None:
    one_kind = Predictions(["r0", "r1"], np.array([0, 0]), np.eye(3)[[0, 0]], SPACE)
    found = measure(one_kind, "auroc", seed=0, draws=20)
    assert all(math.isnan(value) for value in (found.estimate, found.low, found.high))


def test_accuracy_and_micro_f1_of_one_label_a_row_have_one_interval() -> None:
    random = np.random.default_rng(0)
    y, probs = random.integers(0, 3, 80), random.dirichlet(np.ones(3), 80)
    space = LabelSpace(("a", "b", "c"))
    found = summarize(Predictions([str(i) for i in range(80)], y, probs, space), seed=0)["metrics"]
    assert found["accuracy"] == pytest.approx(found["micro_f1"])
