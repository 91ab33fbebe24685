"""Cross-validated scores: fold values, the corrected resampled t-test, and what may be compared."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lasttoken.errors import DataError
from lasttoken.evaluation.comparison import compare
from lasttoken.evaluation.folds import compare_folds, corrected_error, fold_values, measure_folds, over_folds, paired
from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import Predictions, read_predictions, write_predictions
from lasttoken.evaluation.significance import bootstrap, minimum_detectable_effect
from lasttoken.evaluation.summary import measure
from lasttoken.labels import LabelSpace
from lasttoken.seed import generator

SPACE = LabelSpace(("no", "yes"))
ACCURACY, MACRO = METRICS["accuracy"], METRICS["macro_f1"]


def judged(right: list[list[int]], *, order: np.ndarray | None = None) -> Predictions:
    """Predictions of rows in folds, right where 1; classes by turns."""
    fold = np.repeat(np.arange(len(right)), [len(one) for one in right])
    hit = np.concatenate([np.array(one, dtype=bool) for one in right])
    y = np.arange(len(hit)) % 2
    probs = np.where(np.eye(2)[np.where(hit, y, 1 - y)] == 1, 0.9, 0.1)
    found = Predictions([str(i) for i in range(len(hit))], y, probs, SPACE, None, fold)
    return found if order is None else found.take(order)


FIVE = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]  # accuracies .75 .5 1 .25 .75
LESS = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]  # .5 .25 .75 .25 .5


def test_fold_values_of_a_mean_over_rows_are_the_scores_of_the_folds() -> None:
    values, shares = fold_values(ACCURACY, judged([*FIVE, [1, 0]]))
    assert values == pytest.approx([0.75, 0.5, 1, 0.25, 0.75, 0.5])
    assert shares == pytest.approx([4 / 22] * 5 + [2 / 22])


def test_fold_values_of_macro_f1_are_taken_over_all_rows() -> None:
    run = judged([[1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]])
    values, _ = fold_values(MACRO, run)
    kept = run.fold != 0
    without = MACRO(run.targets[kept], run.probs[kept])
    assert values[0] == pytest.approx(3 * MACRO(run.targets, run.probs) - 2 * without)


def test_the_corrected_error_is_nadeau_and_bengios() -> None:
    """Values .75 .5 1 .25 .75: mean .65, variance .325 / 4 = .08125; (1 / 5 + 1 / 4) * .08125 = .0365625."""
    values, shares = np.array([[0.75, 0.5, 1.0, 0.25, 0.75]]), np.full((1, 5), 0.2)
    assert corrected_error(values, shares, 1) == pytest.approx(math.sqrt(0.0365625))
    # twice over: ten values, sum of squares .65, variance .65 / 9; (1 / 10 + 1 / 4) of it
    twice = np.concatenate([values, values])
    assert corrected_error(twice, np.full((2, 5), 0.2), 2) == pytest.approx(math.sqrt(0.35 * 0.65 / 9))
    # another seed on the same folds is no new division: as one repeat
    assert corrected_error(twice, np.full((2, 5), 0.2), 1) == pytest.approx(math.sqrt(0.0365625))


def test_the_difference_has_the_p_value_of_the_corrected_t_test() -> None:
    """Differences 1 0 0 1 0: mean .4, variance .3; t = .4 / sqrt((1 / 5 + 1 / 4) * .3) = 1.0887, 4 df: p = .338."""
    apart = judged([[1] * 4, [1, 0] * 2, [0, 1] * 2, [1] * 4, [1, 1, 0, 0]])
    near = judged([[0] * 4, [1, 0] * 2, [0, 1] * 2, [0] * 4, [1, 1, 0, 0]])
    found, p = compare_folds(ACCURACY, [apart], [near], rng=generator(0, "a"), draws=200)
    assert found.estimate == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(math.sqrt(0.45 * 0.3))
    assert p == pytest.approx(0.3375, abs=1e-3)
    assert found.high == pytest.approx(0.4 + 2.7764 * 0.3674, abs=1e-3)


def test_folds_that_agree_do_not_narrow_what_rows_show() -> None:
    """A beats B by one row of four in every fold: without a floor t would be infinite after five rows."""
    found, p = compare_folds(
        ACCURACY, [judged([[1, 1, 1, 1]] * 5)], [judged([[0, 1, 1, 1]] * 5)], rng=generator(0, "a"), draws=200
    )
    assert 0.07 < found.standard_error < 0.12  # of rows: sqrt(.25 * .75 / 20) = .097
    assert p > 0.01


def test_t_with_an_error_at_hand() -> None:
    rows = Interval(0.2, 0.1, 0.3, 0.95, 0.05)
    found, p = over_folds(rows, math.sqrt(0.45 * 0.0125), 4)
    assert p == pytest.approx(0.0560, abs=1e-4)  # scipy.stats.t.sf(2.6667, 4) * 2
    assert found.low == pytest.approx(0.2 - 2.7764 * 0.075, abs=1e-4)
    assert over_folds(rows, 0.0, 4)[0].standard_error == 0.05  # folds that happen to agree show nothing by themselves
    same = Interval(0.0, 0.0, 0.0, 0.95, 0.0)
    assert over_folds(same, 0.0, 4)[1] == 1.0
    assert over_folds(replace(same, estimate=1.0), 0.0, 4)[1] == 0.5**4


def test_the_interval_of_a_score_is_wider_than_that_of_a_test_set() -> None:
    run = judged(FIVE * 4)
    folds = measure(run, "accuracy", seed=0)
    rows = bootstrap(ACCURACY, run.targets, run.probs, rng=generator(0, "intervals"))
    assert folds.estimate == rows.estimate == 0.65
    assert folds.low < rows.low
    assert folds.high > rows.high
    # one fold alone, such as what is left of truncated rows, is judged as a test part
    alone = run.take(np.arange(4))
    assert measure(alone, "accuracy", seed=0).standard_error > 0


def test_repeats_narrow_the_interval_and_keep_its_degrees_of_freedom() -> None:
    first, order = judged(FIVE), np.random.default_rng(0).permutation(20)
    second = replace(first, fold=first.fold[order] if first.fold is not None else None)
    one = measure_folds(ACCURACY, [first], rng=generator(0, "a"), draws=100)
    two = measure_folds(ACCURACY, [first, second], rng=generator(0, "a"), draws=100)
    assert two.standard_error < one.standard_error
    assert (two.high - two.estimate) / two.standard_error == pytest.approx(2.7764, abs=1e-3)  # t of 4 df
    ten = measure_folds(ACCURACY, [judged(FIVE + LESS)], rng=generator(0, "a"), draws=100)
    assert (ten.high - ten.estimate) / ten.standard_error == pytest.approx(2.7764, abs=1e-3)  # of 4 too


def test_predictions_keep_the_fold_of_every_row(tmp_path: Path) -> None:
    run = judged(FIVE)
    write_predictions(run, tmp_path / "p.parquet")
    again = read_predictions(tmp_path / "p.parquet")
    assert again.fold is not None
    assert again.fold.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    turned = run.take(np.arange(20)[::-1])
    assert turned.fold is not None
    assert turned.fold.tolist() == again.fold.tolist()[::-1]
    with pytest.raises(ValueError, match="every fold from 0 needs rows"):
        replace(run, fold=np.full(20, 1))


def test_a_comparison_of_cross_validations() -> None:
    order = np.random.default_rng(1).permutation(20)
    found = compare({"a": judged(FIVE), "b": judged(LESS, order=order)}, metric="accuracy")
    pair = found.to_dict()["pairs"][0]
    assert pair["test"] == "corrected t over folds"
    assert pair["p_mcnemar"] is None
    assert found.folds == 5
    assert found.summary() == (
        "a scores highest (.650 accuracy, 5-fold cross-validation); not shown to differ from b (.450)."
    )
    assert "these rows would show one of" in pair["verdict"]
    error = found.pairs[0].difference.standard_error
    assert pair["mde"] == pytest.approx((2.7764 + 0.9410) * error, abs=1e-3)  # t of 4 df
    assert minimum_detectable_effect(error) < pair["mde"]
    twice = compare({"a": [judged(FIVE), judged(FIVE)]}, metric="accuracy")
    assert twice.spread("a") == {"seeds": 0.0, "rows": None}


def test_what_cannot_be_compared() -> None:
    crossed = judged(FIVE)
    with pytest.raises(DataError, match="some of these runs were cross-validated and some judged on a test part"):
        compare({"a": crossed, "b": replace(crossed, fold=None)}, metric="accuracy")
    other = replace(crossed, fold=np.arange(20) % 5)
    with pytest.raises(DataError, match="a and b were cross-validated on different folds; train both with the same"):
        compare({"a": crossed, "b": other}, metric="accuracy")
    left, right = paired([crossed, other], [other], ("a", "b"))  # where one repeat of a method could not run
    assert left == [other]
    assert right == [other]
