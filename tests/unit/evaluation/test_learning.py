import math

import numpy as np
import pytest

from lasttoken.evaluation.learning import FARTHEST, fit_curve, power_law, rows_words, sentences
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import Predictions
from lasttoken.labels import LabelSpace

ACCURACY = METRICS["accuracy"]
SPACE = LabelSpace(("no", "yes"))


def at(accuracy: float, *, n: int = 2000) -> Predictions:
    """Predictions of n rows, right on just this share."""
    y = np.arange(n) % 2
    right = np.random.default_rng(0).permutation(n) < round(accuracy * n)
    return Predictions(
        [str(i) for i in range(n)], y, np.where(np.eye(2)[np.where(right, y, 1 - y)] == 1, 0.9, 0.1), SPACE
    )


def test_a_power_law_with_a_floor_is_found_again() -> None:
    sizes = np.array([100.0, 300, 1000, 3000, 10_000])
    slope, scale, floor = power_law(sizes, (0.08 + 2.5 * sizes**-0.4)[:, None])
    assert (slope[0], scale[0], floor[0]) == (
        pytest.approx(0.4, abs=0.02), pytest.approx(2.5, rel=0.1), pytest.approx(0.08, abs=0.01)
    )  # fmt: skip


def test_three_sizes_know_no_floor() -> None:
    sizes = np.array([100.0, 300, 1000])
    slope, scale, floor = power_law(sizes, (2 * sizes**-0.5)[:, None])
    assert (slope[0], scale[0], floor[0]) == (pytest.approx(0.5), pytest.approx(2.0), 0.0)


def test_more_rows_that_do_not_help_give_a_flat_curve() -> None:
    sizes = np.array([100.0, 200, 400, 800])
    _, scale, floor = power_law(sizes, np.array([0.2, 0.21, 0.22, 0.23])[:, None])
    assert scale[0] == 0
    assert floor[0] == pytest.approx(0.215)


def test_how_many_rows_a_score_takes() -> None:
    curve = fit_curve(ACCURACY, {100: [at(0.8)], 400: [at(0.9)]})  # the error halves with four times the rows
    rows, low, high = curve.rows_for(0.95)
    assert rows == pytest.approx(1600, rel=0.01)
    assert low < rows < high
    assert curve.at(1600)[0] == pytest.approx(0.95, abs=1e-3)


def test_what_is_too_far_is_not_promised() -> None:
    curve = fit_curve(ACCURACY, {100: [at(0.8)], 400: [at(0.81)]})
    assert math.isinf(curve.rows_for(0.99)[0])
    assert (
        rows_words(*curve.rows_for(0.99), most=FARTHEST * 400)
        == "more than 4,000 training rows, if the score can be reached"
    )
    assert rows_words(1234.0, 801.0, math.inf, most=4000) == "about 1,200 training rows (800 to more than 4,000)"


def test_the_question_is_answered_in_words() -> None:
    curves = {
        "linear": fit_curve(ACCURACY, {100: [at(0.8)], 400: [at(0.9)]}),
        "probe": fit_curve(ACCURACY, {100: [at(0.7)], 400: [at(0.85)]}),
    }
    first, second = sentences(curves, ACCURACY)
    assert first.startswith("linear: .900 accuracy with 400 rows (.800 with 100); with 800 about .929 [")
    assert "for .900" not in first  # it is the best already
    assert "; for .900, the score of linear: about 900 training rows (" in second
    assert "for .950: about 1,600 training rows" in sentences(curves, ACCURACY, goal=0.95)[0]


def test_scores_without_a_mistake_have_no_interval() -> None:
    curve = fit_curve(ACCURACY, {100: [at(1.0)], 400: [at(1.0)]})
    assert sentences({"linear": curve}, ACCURACY) == [
        "linear: 1.000 accuracy with 400 rows (1.000 with 100); with 800 about 1.000 (no interval: these rows and seeds show no "
        "spread)"
    ]


def test_seeds_that_differ_widen_the_answer() -> None:
    calm = fit_curve(ACCURACY, {100: [at(0.8), at(0.8)], 400: [at(0.9), at(0.9)]})
    wild = fit_curve(ACCURACY, {100: [at(0.7), at(0.9)], 400: [at(0.87), at(0.93)]})
    assert wild.at(800)[2] - wild.at(800)[1] > 1.5 * (calm.at(800)[2] - calm.at(800)[1])


def test_a_goal_that_is_reached_and_a_curve_above_its_last_point() -> None:
    good = {"linear": fit_curve(ACCURACY, {100: [at(0.8)], 400: [at(0.9)]})}
    assert sentences(good, ACCURACY, goal=0.85)[0].endswith("; the goal of .850 is reached")
    dipped = {"linear": fit_curve(ACCURACY, {n: [at(s)] for n, s in ((100, 0.6), (200, 0.8), (400, 0.85), (800, 0.8))})}
    assert "for .820: no more rows, as the fitted curve lies above" in sentences(dipped, ACCURACY, goal=0.82)[0]
