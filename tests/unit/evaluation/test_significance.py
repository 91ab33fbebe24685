import math

import numpy as np
import pytest

from lasttoken.evaluation.intervals import Interval, share_of
from lasttoken.evaluation.metrics import METRICS, metrics_for
from lasttoken.evaluation.problem_metrics import by_band
from lasttoken.evaluation.significance import (
    bootstrap,
    bootstrap_difference,
    detectable_rows,
    holm,
    mcnemar,
    minimum_detectable_effect,
    randomisation,
    recentred,
    resamples,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(n: int, classes: int, strength: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A truth (N,) and probabilities that know it the better the larger `strength` is."""
    y = random.integers(0, classes, n)
    return y, believed(y, classes, strength, random)


def believed(y: np.ndarray, classes: int, strength: float, random: np.random.Generator) -> np.ndarray:
    scores = np.exp(random.normal(size=(len(y), classes)) + strength * (y[:, None] == np.arange(classes)))
    return scores / scores.sum(axis=1, keepdims=True)


def test_mcnemar_is_the_binomial_tail() -> None:
    right_a = np.array([True] * 9 + [False] * 1 + [True] * 50)
    right_b = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(right_a, right_b) == 2 * (1 + 10) / 2**10


def test_mcnemar_without_disagreement_is_one() -> None:
    assert mcnemar(np.array([True, False]), np.array([True, False])) == 1


def test_mcnemar_of_balanced_disagreement_is_one() -> None:
    assert mcnemar(np.array([True, False]), np.array([False, True])) == 1


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    right_a, right_b = np.arange(20_000) < 10_100, np.arange(20_000) >= 10_100
    # 100 heads away from the middle of 20,000 tosses: sqrt(2) standard deviations, p .159 less continuity
    assert mcnemar(right_a, right_b) == pytest.approx(math.erfc(99.5 / math.sqrt(5000) / math.sqrt(2)), rel=1e-3)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []
    assert holm([0.01, math.nan, 0.03]) == pytest.approx([0.02, math.nan, 0.03], nan_ok=True)


def test_minimum_detectable_effect() -> None:
    assert minimum_detectable_effect(0.01) == pytest.approx(0.028016, abs=1e-6)  # 1.959964 + .841621
    assert minimum_detectable_effect(0.01, alpha=0.05 / 3) > minimum_detectable_effect(0.01)


def test_few_rows_that_differ_show_no_difference_four_times_in_five() -> None:
    # six rows of one kind give p = 2^-5 = .031, five give .063: P(Poisson(7.906) >= 6) = .8
    assert detectable_rows() == pytest.approx(7.9060, abs=1e-4)
    assert detectable_rows(alpha=0.05 / 3) > detectable_rows()
    random, n, shown = rng(10), 85, 0
    for _ in range(200):
        lost = random.random(n) < detectable_rows() / n
        b = np.eye(2)[lost.astype(int)]
        a = np.eye(2)[np.zeros(n, dtype=int)]
        shown += randomisation(METRICS["accuracy"], np.zeros(n, dtype=int), a, b, rng=random, draws=399) <= 0.05
    assert 143 <= shown <= 177  # Binomial(200, .8), three standard deviations each way


def test_resamples_draw_n_rows_in_as_many_blocks_as_memory_asks_for() -> None:
    found = list(resamples(400_000, 5, rng()))  # two draws of 400,000 rows fill a block of 2^20
    assert [len(block) for block in found] == [2, 2, 1]
    assert all((block.sum(axis=1) == 400_000).all() for block in found)


def test_an_interval_is_moved_onto_its_estimate() -> None:
    # 101 draws from .40 to .60 about .50, for an estimate of .70: ends 2.5 % in, moved by .20
    found = recentred(0.7, np.linspace(0.4, 0.6, 101), 0.95, (0, 1), 0.0)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.7, 0.605, 0.795))


def test_an_interval_stays_within_the_metrics_bounds() -> None:
    found = recentred(0.99, np.linspace(0.4, 0.6, 101), 0.95, (0, 1), 0.0)
    assert found.high == 1


@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "micro_f1", "weighted_f1", "mcc"])
def test_a_bootstrap_by_sums_is_a_bootstrap_by_rows(name: str) -> None:
    y, probs = rows(60, 4, 1.0, rng(1))
    metric = METRICS[name]
    formula = metric.formula(y)
    sums = metric.sums(y, probs)
    for weight in next(resamples(60, 20, rng(2))):
        again = np.repeat(np.arange(60), weight)
        assert formula.value(sums.weighted(weight[None]), 60)[0] == pytest.approx(metric(y[again], probs[again]))


def room(rows: int) -> float:
    """What the exact 95 % interval of a share leaves open below rows without an exception."""
    return 1 - 0.025 ** (1 / rows)


@pytest.mark.parametrize(
    ("name", "left"),
    # of all 100 rows, or of the 50 of the smaller class
    [("accuracy", room(100)), ("macro_f1", room(100)), ("weighted_f1", room(100)), ("auroc", room(50))],
)
def test_rows_that_are_all_right_leave_room_for_an_exception(name: str, left: float) -> None:
    y = np.array([0, 1] * 50)
    found = bootstrap(METRICS[name], y, np.eye(2)[y] * 0.8 + 0.1, rng=rng())
    assert (found.estimate, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - left)
    wrong = bootstrap(METRICS["accuracy"], y, np.eye(2)[1 - y], rng=rng())
    assert (wrong.low, wrong.high) == (0, pytest.approx(1 - 0.025 ** (1 / 100)))
    opposite = bootstrap(METRICS["mcc"], y, np.eye(2)[1 - y], rng=rng())
    assert (opposite.low, opposite.high) == (-1, pytest.approx(2 * room(100) - 1))


def test_rows_that_are_all_right_say_little_of_a_small_class() -> None:
    y = np.array([0] * 985 + [1] * 15)
    # a true recall of .78 of the 15 rows leaves them all right in one of forty test sets, and costs .11 macro-F1
    assert bootstrap(METRICS["macro_f1"], y, np.eye(2)[y], rng=rng()).low == pytest.approx(1 - room(15) / 2, abs=0.003)
    assert bootstrap(METRICS["accuracy"], y, np.eye(2)[y], rng=rng()).low == pytest.approx(0.025 ** (1 / 1000))


def test_labels_that_are_all_right_or_all_wrong_leave_room_on_both_sides() -> None:
    y = np.repeat([0, 1, 2, 3, 4], 12)
    said = np.where(y == 4, 5, y)  # of five labels that there are one is never found
    found = bootstrap(METRICS["macro_f1"], y, np.eye(6)[said], rng=rng())
    assert found.estimate == pytest.approx(4 / 6)
    # the sixth label has no row: it may be at 0, or like the others, whose mean is .8
    assert found.low < 4 / 6 - 0.06
    assert found.high > 0.8 + 0.06


def test_the_rows_of_a_band_are_those_of_its_labels() -> None:
    y = np.array([0] * 40 + [1] * 40 + [2] * 2)
    (band,) = [metric for metric in by_band(np.array([100, 100, 5])) if metric.name == "macro_f1_100"]
    found = bootstrap(band, y, np.eye(3)[y], rng=rng())
    assert found.low == pytest.approx(1 - room(80))


@pytest.mark.parametrize("seed", range(3))
def test_a_class_that_resamples_lose_does_not_split_the_interval(seed: int) -> None:
    """A class of three rows is missing from a twentieth of resamples: at 0 there, ends would depend on the draw."""
    y = np.array([0] * 60 + [1] * 60 + [2] * 3)
    probs = np.eye(3)[
        np.r_[[1] * 11, 2, y[12:]]
    ]  # of the first class 11 rows are taken for the second, one for the third
    found = bootstrap(METRICS["macro_f1"], y, probs, rng=rng(seed))
    # F1 of .89, .92 and .86; at 0 in resamples without the third class the low end would be .62
    assert 0.67 < found.low < 0.73 < found.estimate < found.high < 0.99


def test_a_share_has_its_exact_interval() -> None:
    found = share_of(np.array([True] * 81 + [False] * 19))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.81, 0.7193, 0.8816), abs=1e-4)  # R: binom.test
    assert share_of(np.ones(30)).low == pytest.approx(0.025 ** (1 / 30))
    assert math.isnan(share_of(np.zeros(0)).estimate)
    halves = share_of(np.array([0.0, 0.5, 1.0, 0.5] * 25))
    assert halves.high - halves.low == pytest.approx(2 * 1.984 * 0.3553 / 10, rel=0.05)  # t of 99 degrees of freedom


def test_rare_labels_do_not_push_the_interval_off_its_estimate() -> None:
    # ten labels of one row each: a resample misses about a third of them, so its macro-F1 is near .63
    found = bootstrap(METRICS["macro_f1"], np.arange(10), np.eye(10), rng=rng())
    assert found.estimate == 1
    assert found.low < found.high == 1


def test_the_interval_of_an_accuracy_is_about_the_normal_one() -> None:
    y = np.zeros(400, dtype=np.int64)
    probs = np.eye(2)[(np.arange(400) >= 300).astype(int)]  # 300 of 400 right
    found = bootstrap(METRICS["accuracy"], y, probs, rng=rng())
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    # the quantiles of 2,000 draws vary by about .003, and accuracies come in steps of .0025
    assert (found.estimate, found.low, found.high) == pytest.approx((0.75, 0.75 - half, 0.75 + half), abs=0.006)
    assert found.standard_error == pytest.approx(half / 1.96, rel=0.1)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_have_no_interval_and_no_evidence(n: int, multi: bool) -> None:
    y = np.ones((n, 2), dtype=bool) if multi else np.ones(n, dtype=np.int64)
    probs = np.full((n, 2), 0.5)
    for name in metrics_for(multi):
        found = bootstrap(METRICS[name], y, probs, rng=rng(), draws=10)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert math.isnan(found.estimate) == (n == 0 or name == "auroc")
        difference = bootstrap_difference(METRICS[name], y, probs, probs, rng=rng(), draws=10)
        assert math.isnan(difference.low)
        assert randomisation(METRICS[name], y, probs, probs, rng=rng(), draws=10) == 1


def test_an_undefined_interval_is_none_in_json() -> None:
    found = Interval(math.nan, math.nan, math.nan, 0.95).to_dict()
    assert found == {"estimate": None, "low": None, "high": None, "level": 0.95}


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    y, a = rows(500, 3, 1.0, rng(3))
    b = a.copy()
    b[:10] = 1 - a[:10]  # B differs on ten rows only
    found = bootstrap_difference(METRICS["accuracy"], y, a, b, rng=rng())
    alone = bootstrap(METRICS["accuracy"], y, a, rng=rng())
    assert found.high - found.low < (alone.high - alone.low) / 2


def test_a_classifier_does_not_differ_from_itself() -> None:
    y, a = rows(50, 3, 1.0, rng(4))
    found = bootstrap_difference(METRICS["macro_f1"], y, a, a, rng=rng(), draws=50)
    assert (found.estimate, found.standard_error) == (0, 0)
    assert -0.1 < found.low < 0 < found.high < 0.1  # fifty rows on which they agree do not show that they always do
    assert randomisation(METRICS["macro_f1"], y, a, a, rng=rng(), draws=50) == 1


def test_randomisation_of_accuracy_agrees_with_the_exact_binomial() -> None:
    y = np.zeros(40, dtype=np.int64)
    a = np.eye(2)[[0] * 9 + [1] + [0] * 30]
    b = np.eye(2)[[1] * 9 + [0] + [0] * 30]
    found = randomisation(METRICS["accuracy"], y, a, b, rng=rng(), draws=20_000)
    # both are tail(10 tosses, 9 or more of a side) = 22 / 1024; 20,000 draws have a standard error of .001
    assert found == pytest.approx(22 / 1024, abs=0.004)


def test_a_large_difference_has_the_smallest_p_that_the_draws_allow() -> None:
    y, a = rows(300, 3, 3.0, rng(5))
    b = believed(y, 3, 0.0, rng(6))
    assert randomisation(METRICS["macro_f1"], y, a, b, rng=rng(), draws=199) == 1 / 200


@pytest.mark.parametrize("name", ["macro_f1", "log_loss", "auroc"])
def test_alike_classifiers_are_found_different_in_five_of_a_hundred_data_sets(name: str) -> None:
    random, found = rng(7), 0
    for _ in range(400):
        y, a = rows(80, 3, 1.0, random)
        b = believed(y, 3, 1.0, random)
        found += randomisation(METRICS[name], y, a, b, rng=random, draws=99) <= 0.05
    # Binomial(400, .05): mean 20, standard deviation 4.4; outside 7..34 with a chance below .002
    assert 7 <= found <= 34


def test_the_interval_of_macro_f1_holds_the_truth_in_95_of_a_hundred_data_sets() -> None:
    random, held = rng(8), 0
    truth = METRICS["macro_f1"](*rows(200_000, 3, 1.0, random))
    for _ in range(300):
        y, probs = rows(150, 3, 1.0, random)
        found = bootstrap(METRICS["macro_f1"], y, probs, rng=random, draws=200)
        held += found.low <= truth <= found.high
    # Binomial(300, .94): mean 282, standard deviation 4.1; percentile intervals of N = 150 fall a little short of .95
    assert 268 <= held <= 295


def test_the_detectable_effect_is_shown_four_times_in_five() -> None:
    # A right on 80 % of rows, B on 80 % less the effect, independently: the standard error is known
    random, n, shown = rng(9), 400, 0
    effect = minimum_detectable_effect(math.sqrt(0.8 * 0.2 / n + 0.72 * 0.28 / n))
    for _ in range(200):
        a = np.eye(2)[(random.random(n) > 0.8).astype(int)]
        b = np.eye(2)[(random.random(n) > 0.8 - effect).astype(int)]
        shown += randomisation(METRICS["accuracy"], np.zeros(n, dtype=int), a, b, rng=random, draws=199) <= 0.05
    # Binomial(200, .8): mean 160, standard deviation 5.7, three of them each way
    assert 143 <= shown <= 177


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # R: binom.test(right, n)$conf.int
    [
        (60, 60, 0.9404, 1),
        (59, 60, 0.9106, 0.9996),
        (0, 27, 0, 0.1277),
        (1, 27, 0.0009, 0.1897),
        (6, 8, 0.3491, 0.9681),
    ],
)
def test_the_interval_of_accuracy_is_exact(right: int, n: int, low: float, high: float) -> None:
    y = np.zeros(n, dtype=np.int64)
    found = bootstrap(METRICS["accuracy"], y, np.eye(2)[(np.arange(n) >= right).astype(int)], rng=rng())
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_accuracy_of_eight_rows_is_held_in_95_of_a_hundred_data_sets() -> None:
    random, held = rng(10), 0
    for _ in range(400):
        right = random.random(8) < 0.9
        found = bootstrap(METRICS["accuracy"], np.zeros(8, dtype=int), np.eye(2)[(~right).astype(int)], rng=random)
        held += found.low <= 0.9 <= found.high
    # exact intervals hold in .95 or more: Binomial(400, .95) is below 366 with a chance of .001
    assert held >= 366


@pytest.mark.parametrize(("n", "strength"), [(8, 3.0), (8, 1.0), (20, 3.0), (20, 1.0)])
def test_macro_f1_of_few_rows_is_held_in_90_of_a_hundred_data_sets(n: int, strength: float) -> None:
    random, held = rng(11), 0
    truth = METRICS["macro_f1"](*rows(100_000, 4, strength, random))
    for _ in range(150):
        found = bootstrap(METRICS["macro_f1"], *rows(n, 4, strength, random), rng=random, draws=100)
        held += found.low <= truth <= found.high
    # Binomial(150, .95): below 134 with a chance of .002
    assert held >= 134


def test_the_difference_of_two_classifiers_of_eight_rows_is_held() -> None:
    random, held = rng(12), 0
    for _ in range(300):  # B is wrong on a fifth of the rows that A has right, and right on none that A has wrong
        right_a = random.random(8) < 0.9
        right_b = right_a & (random.random(8) < 0.8)
        a, b = (np.eye(2)[(~right).astype(int)] for right in (right_a, right_b))
        found = bootstrap_difference(METRICS["accuracy"], np.zeros(8, dtype=int), a, b, rng=random)
        held += found.low <= 0.18 <= found.high
    assert held >= 270


@pytest.mark.parametrize("name", ["ece", "ece_mass", "classwise_ece", "mcc"])
def test_what_few_rows_cannot_tell_has_no_interval(name: str) -> None:
    assert math.isnan(bootstrap(METRICS[name], *rows(39, 3, 1.0, rng()), rng=rng(), draws=50).low)
    assert not math.isnan(bootstrap(METRICS[name], *rows(40, 3, 1.0, rng()), rng=rng(), draws=50).low)


def test_a_loss_that_few_rows_decide_has_no_interval() -> None:
    y = np.zeros(100, dtype=np.int64)
    surely = np.tile([0.999, 0.001], (100, 1))
    surely[:2] = 0.001, 0.999
    assert math.isnan(bootstrap(METRICS["log_loss"], y, surely, rng=rng()).low)
    evenly = np.tile([0.6, 0.4], (100, 1))
    found = bootstrap(METRICS["log_loss"], y, evenly, rng=rng())
    assert (found.low, found.high) == pytest.approx((found.estimate, found.estimate))


def test_the_calibration_error_of_a_calibrated_classifier_may_be_nothing() -> None:
    random = rng(13)
    claim = random.uniform(0.5, 1, 500)
    y = (random.random(500) > claim).astype(int)
    found = bootstrap(METRICS["ece"], y, np.column_stack([claim, 1 - claim]), rng=random, draws=200)
    assert found.estimate > 0.02
    assert found.low == 0
