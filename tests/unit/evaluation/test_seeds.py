import math

import numpy as np
import pytest

from lasttoken.evaluation.comparison import compare
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.seeds import compare_means, measure_mean, over_seeds, right_share
from lasttoken.labels import LabelSpace
from lasttoken.seed import generator

SPACE = LabelSpace(("no", "yes"))
ACCURACY = METRICS["accuracy"]


def fit(rate: float, *, n: int, rng: np.random.Generator, easy: np.ndarray | None = None) -> Predictions:
    """A fit that is right on about `rate` of n rows; `easy` (N,) adds what rows have in common for all fits."""
    y = np.arange(n) % 2
    right = rng.random(n) < (rate if easy is None else np.clip(rate + easy, 0, 1))
    chosen = np.where(right, y, 1 - y)
    return Predictions([str(i) for i in range(n)], y, np.where(np.eye(2)[chosen] == 1, 0.9, 0.1), SPACE)


def test_variances_of_rows_and_seeds_add_up() -> None:
    found, p = over_seeds(0.03, 0.01**2, 1000, [np.array([0.80, 0.82, 0.84])])
    assert found.standard_error == pytest.approx(math.sqrt(0.01**2 + 0.02**2 / 3))
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)
    assert p == pytest.approx(0.0962, abs=1e-4)  # t = 1.96 on 6.1 degrees of freedom, scipy.stats.t


def test_rows_alone_give_the_normal_interval() -> None:
    found, p = over_seeds(0.02, 0.01**2, 100_000, [])
    assert (found.low, found.high) == (pytest.approx(0.0004, abs=1e-5), pytest.approx(0.0396, abs=1e-5))
    assert p == pytest.approx(0.0455, abs=1e-4)


def test_nothing_is_claimed_of_one_row_nor_of_what_is_the_same() -> None:
    assert over_seeds(1.0, math.nan, 1, [])[1] == 1.0
    same, p = over_seeds(0.0, 0.0, 50, [np.array([0.5, 0.5])])
    assert (same.low, same.high, p) == (0.0, 0.0, 1.0)


def test_rows_that_all_agree_have_the_p_value_of_a_sign_test() -> None:
    assert over_seeds(1.0, 0.0, 6, [])[1] == 2 / 2**6


def test_the_mean_over_seeds_stands_on_both() -> None:
    rng = np.random.default_rng(0)
    alike = [fit(0.8, n=2000, rng=rng) for _ in range(3)]
    apart = [fit(rate, n=2000, rng=rng) for rate in (0.7, 0.8, 0.9)]
    narrow = measure_mean(ACCURACY, alike, rng=generator(0, "a"), draws=300)
    wide = measure_mean(ACCURACY, apart, rng=generator(0, "a"), draws=300)
    assert narrow.high - narrow.low < 0.06
    assert wide.high - wide.low > 0.3  # three seeds a tenth apart say little, however many rows there are
    assert wide.high <= 1


def test_a_difference_is_shown_where_seeds_agree_and_not_where_they_do_not() -> None:
    rng = np.random.default_rng(1)
    good, poor = ([fit(rate, n=1000, rng=rng) for _ in range(3)] for rate in (0.85, 0.75))
    mixed = [fit(rate, n=1000, rng=rng) for rate in (0.60, 0.95, 0.70)]
    assert compare_means(ACCURACY, good, poor, rng=generator(0, "a"), draws=300)[1] < 0.01
    assert compare_means(ACCURACY, good, mixed, rng=generator(0, "a"), draws=300)[1] > 0.1


def test_false_claims_are_as_rare_as_promised() -> None:
    """Two methods alike, three seeds each, rows of different difficulty: p <= .05 in about a twentieth of worlds."""
    rng, found = np.random.default_rng(2), []
    for world in range(200):
        easy = rng.normal(0, 0.2, 300)  # rows are not alike
        rates = rng.normal(0.75, 0.02, 6)  # nor are seeds
        fits = [fit(rate, n=300, rng=rng, easy=easy) for rate in rates.tolist()]
        found.append(compare_means(ACCURACY, fits[:3], fits[3:], rng=generator(world, "a"), draws=100)[1])
    assert np.mean(np.array(found) <= 0.05) < 0.09  # 200 worlds: two standard errors above .05 is .081


def test_shares_of_seeds_that_are_right() -> None:
    rng = np.random.default_rng(3)
    assert right_share([fit(1.0, n=4, rng=rng), fit(0.0, n=4, rng=rng)]).tolist() == [0.5] * 4


def test_a_comparison_of_fits_with_several_seeds() -> None:
    rng = np.random.default_rng(4)
    runs = {"a": [fit(0.9, n=400, rng=rng) for _ in range(3)], "b": fit(0.7, n=400, rng=rng)}
    found = compare(runs, metric="accuracy", draws=200)
    only = found.pairs[0]
    assert (only.a, only.b, only.seeds) == ("a", "b", (3, 1))
    assert found.scores["a"].estimate == pytest.approx(np.mean(found.by_seed["a"]))
    spread, error = found.to_dict()["spread"]["a"], found.scores["a"].standard_error
    assert spread["seeds"] == pytest.approx(np.std(found.by_seed["a"], ddof=1))
    assert spread["rows"] ** 2 + spread["seeds"] ** 2 / len(found.by_seed["a"]) == pytest.approx(error**2)
    assert "mean of 3 seeds" in found.summary()
    assert only.only_a > only.only_b
    assert found.to_dict()["pairs"][0]["test"] == "t over rows and seeds"


def test_a_perfect_score_of_every_seed_leaves_room() -> None:
    rng = np.random.default_rng(5)
    found = measure_mean(ACCURACY, [fit(1.0, n=40, rng=rng) for _ in range(2)], rng=generator(0, "a"), draws=50)
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.912, abs=1e-3)  # that of one seed
