"""Rules: thresholds that are worth it on other rows, at least one label, the top k, abstaining, and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import beta

from lasttoken.errors import DataError
from lasttoken.evaluation.calibration import sigmoid
from lasttoken.evaluation.decisions import (
    GROWTH,
    NEVER,
    Rule,
    abstain_below,
    best_cut,
    cut_for,
    fit_thresholds,
    risk_coverage,
)
from lasttoken.evaluation.metrics import METRICS

PROBS = np.array([[0.9, 0.2, 0.6], [0.4, 0.3, 0.1], [0.5, 0.5, 0.5]])


def rows(n: int, *, classes: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of labels that grow rare, which at one half are hardly ever given."""
    random = np.random.default_rng(seed)
    probs = sigmoid(random.normal(size=(n, classes)) * 1.5 + np.linspace(-1, -4, classes))
    return probs, random.random((n, classes)) < probs


def test_one_half_unless_told_otherwise() -> None:
    assert Rule()(PROBS, multi=True).tolist() == [[True, False, True], [False] * 3, [True] * 3]
    assert Rule()(PROBS, multi=False).tolist() == [0, 0, 0]


def test_thresholds_are_of_each_label() -> None:
    rule = Rule(thresholds=np.array([0.95, 0.2, 0.55]))
    assert rule(PROBS, multi=True).tolist() == [[False, True, True], [False, True, False], [False, True, False]]


def test_at_least_one_is_the_label_closest_to_its_threshold() -> None:
    rule = Rule(thresholds=np.array([0.95, 0.9, 0.11]), at_least_one=True)
    assert rule(PROBS, multi=True)[1].tolist() == [False, False, True]  # .1 of .11, not .4 of .95
    assert Rule(at_least_one=True)(PROBS, multi=True)[1].tolist() == [True, False, False]


def test_top_k_asks_for_no_threshold() -> None:
    assert Rule(top=2)(PROBS, multi=True).tolist() == [[True, False, True], [True, True, False], [True, True, False]]
    assert Rule(top=5)(PROBS, multi=True).all()


def test_a_rule_abstains_where_it_is_not_sure() -> None:
    probs = np.array([[0.8, 0.2], [0.55, 0.45]])
    assert Rule(abstain_below=0.6).abstains(probs, multi=False).tolist() == [False, True]
    assert Rule(abstain_below=0.6).abstains(np.array([[0.9, 0.05], [0.9, 0.5]]), multi=True).tolist() == [False, True]
    low = Rule(np.array([0.25, 0.5]), abstain_below=0.6)  # given at .3 is .3 sure, not .7
    assert low.abstains(np.array([[0.3, 0.0]]), multi=True).tolist() == [True]
    assert not Rule().abstains(probs, multi=False).any()


@pytest.mark.parametrize("rule", [Rule(), Rule(np.array([0.1, 1 / 3]), at_least_one=True, top=3, abstain_below=0.7)])
def test_what_is_stored_decides_the_same(rule: Rule) -> None:
    again = Rule.of(json.loads(json.dumps(rule.to_dict())))
    assert again.to_dict() == rule.to_dict()


def test_the_best_cut_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        probs, true = random.random(30).round(1), random.random(30) < 0.4
        true[0] = True

        def f1(limit: float, probs: np.ndarray = probs, true: np.ndarray = true) -> float:
            return 2 * (true & (probs >= limit)).sum() / ((probs >= limit).sum() + true.sum())

        assert f1(best_cut(probs, true)) == max(f1(limit) for limit in np.arange(-0.05, 1.1, 0.1))


def test_cuts_show_the_wanted_share() -> None:
    probs = np.linspace(1, 0, 101)[:-1]
    true = np.arange(100) < 60  # the 60 surest are true
    given = int((probs >= cut_for(probs, true, "precision", 0.8)).sum())
    assert 60 < given < 75  # 60 of 75 are 80 %, which leaves no room for chance
    assert beta.ppf(0.1, 60, given - 59) >= 0.8 > beta.ppf(0.1, 60, int(given * GROWTH) - 59)
    caught = int((true & (probs >= cut_for(probs, true, "recall", 0.8))).sum())
    assert beta.ppf(0.1, caught, 61 - caught) >= 0.8 > beta.ppf(0.1, caught - 1, 62 - caught)  # of 60
    assert cut_for(probs[:3], true[:3], "precision", 0.8) == NEVER  # three of three show nothing
    assert cut_for(probs[:3], true[:3], "recall", 0.8) == 0.0


@pytest.mark.parametrize("objective", ["auto", "micro_f1", "macro_f1", "samples_f1"])
def test_thresholds_raise_their_objective_on_other_rows(objective: str) -> None:
    limits, told = fit_thresholds(*rows(1500), objective=objective)
    others, truth = rows(4000, seed=1)
    metric = METRICS["macro_f1" if objective == "auto" else objective]
    assert limits is not None
    assert metric(truth, others, others >= limits) > metric(truth, others) + 0.05
    assert told.startswith(f"thresholds for {metric.words}: ")
    micro = METRICS["micro_f1"]
    assert micro(truth, others, others >= limits) >= micro(truth, others) - 0.005


def faint(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of two clear labels and 18 that nothing tells: what macro-F1 gains there costs micro-F1."""
    random = np.random.default_rng(seed)
    spread, mean = np.repeat([3.0, 0.7], [2, 18]), np.repeat([-1.0, -3.0], [2, 18])
    probs = sigmoid(random.normal(size=(n, 20)) * spread + mean)
    return probs, random.random((n, 20)) < probs


def test_auto_gives_up_macro_f1_for_what_one_half_gave_before_calibration() -> None:
    """A loss that pushes claims up decides well at one half; calibrated, one half gives less, and would be no floor."""
    (probs, y), (others, truth) = faint(1500), faint(8000, seed=1)
    micro, macro = METRICS["micro_f1"], METRICS["macro_f1"]
    pushed = np.clip(probs * 0.5 / best_cut(probs.ravel(), y.ravel()), 0, 1)
    held, told = fit_thresholds(probs, y, objective="auto", raw=pushed)
    free, said = fit_thresholds(probs, y, objective="macro_f1", raw=pushed)
    assert held is not None
    assert free is not None
    at_half = micro(truth, others, others >= best_cut(probs.ravel(), y.ravel()))
    assert micro(truth, others, others >= free) < at_half - 0.02
    assert micro(truth, others, others >= held) > at_half - 0.01
    assert macro(truth, others, others >= free) > macro(truth, others, others >= held) > macro(truth, others) + 0.01
    assert told.endswith("; shrunk further towards the shared threshold, to keep micro-F1")
    assert said.endswith("cross-validated")


def test_where_nothing_keeps_micro_f1_the_least_is_lost() -> None:
    """Raw claims that fit these very rows are a floor that no held-out choice reaches; half of calibrated ones is worse yet."""
    (probs, y), (others, truth) = faint(1500), faint(8000, seed=1)
    micro = METRICS["micro_f1"]
    limits, told = fit_thresholds(probs, y, objective="auto", raw=np.where(y, 0.9, probs))
    assert limits is not None
    assert micro(truth, others, others >= limits) > micro(truth, others) + 0.01
    assert told.endswith("to keep micro-F1, which is 0.506 now and was 0.961 before calibration")


def test_where_one_half_keeps_more_micro_f1_than_any_other_it_stays() -> None:
    probs, y = faint(200, seed=11)
    probs[:, :2] = np.where(y[:, :2], 0.8, 0.2)  # the two clear labels are always right at one half
    none, told = fit_thresholds(probs, y, objective="auto")
    free, _ = fit_thresholds(probs, y, objective="macro_f1")
    assert free is not None  # macro-F1 of rows held out would rise
    assert none is None
    assert told.startswith("thresholds: one half; others cost more than 0.5% of micro-F1 (")


def test_thresholds_that_help_no_held_out_row_are_not_kept() -> None:
    exact, truth = np.array([[0.9, 0.1], [0.1, 0.9]] * 30), np.array([[True, False], [False, True]] * 30)
    none, said = fit_thresholds(exact, truth, objective="macro_f1")
    assert none is None
    assert said == "thresholds: one half; none raises macro-F1 on held-out rows (1.000)"


@pytest.mark.parametrize("objective", ["precision", "recall"])
def test_each_label_has_the_wanted_share_on_other_rows(objective: str) -> None:
    limits, told = fit_thresholds(*rows(3000, classes=5), objective=objective, wanted=0.7)
    others, truth = rows(20_000, classes=5, seed=1)
    assert limits is not None
    chosen = others >= limits
    of = (chosen if objective == "precision" else truth).sum(axis=0)
    reached = (chosen & truth).sum(axis=0) / np.maximum(of, 1)
    assert (reached[of > 0] > 0.67).all()
    assert told.startswith(f"thresholds for 70% {objective} of each label, at 90% confidence")


def test_a_label_that_cannot_show_its_precision_is_never_given() -> None:
    limits, told = fit_thresholds(*rows(200, classes=20), objective="precision", wanted=0.95)
    assert limits is not None
    assert (limits == NEVER).any()
    assert told.endswith("labels do not reach it and are never given")


def test_precision_is_shown_falsely_at_most_once_in_ten() -> None:
    """Of claims that say nothing; were every cut looked at, 31 % of labels would pass at one or another."""
    shown = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        shown += cut_for(random.uniform(0.5, 1, 300), random.random(300) < 0.899, "precision", 0.9) < NEVER
    assert shown <= 28  # 200 * (1 - SURE), and two standard deviations


def test_what_is_never_given_is_not_given_at_a_claim_of_one() -> None:
    certain = np.ones((60, 2)), np.arange(120).reshape(60, 2) % 5 < 3  # as of generated answers, .6 of them true
    limits, told = fit_thresholds(*certain, objective="precision", wanted=0.9)
    assert limits is not None
    assert told.endswith("2 of 2 labels do not reach it and are never given")
    assert not Rule(thresholds=limits)(certain[0], multi=True).any()
    rule = Rule(thresholds=np.array([NEVER, 0.9]), at_least_one=True)
    assert rule(np.array([[1.0, 0.1]]), multi=True).tolist() == [[False, True]]


def test_costs_need_no_rows() -> None:
    limits, told = fit_thresholds(PROBS, PROBS > 0.5, objective="cost", costs=(1, 4))
    assert limits is not None
    assert limits.tolist() == [0.2] * 3
    assert told == "thresholds: 0.200, by what a wrong and a missed label cost"


def test_a_label_that_is_never_true_has_the_threshold_of_all() -> None:
    probs, y = rows(500, classes=4)
    y[:, 3] = False
    limits, _ = fit_thresholds(probs, y, objective="macro_f1")
    assert limits is not None
    assert np.isfinite(limits).all()
    assert limits[3] == pytest.approx(best_cut(probs.ravel(), y.ravel()), abs=1e-9)


def test_one_row_and_constant_claims() -> None:
    constant = np.full((60, 2), 0.3), np.arange(120).reshape(60, 2) % 3 == 0
    for objective in ("micro_f1", "macro_f1", "samples_f1", "precision", "recall"):
        limits, told = fit_thresholds(PROBS[:1], PROBS[:1] > 0.5, objective=objective)
        assert limits is None
        assert told.startswith("thresholds: one half; choosing others needs 50 validation rows, there are 1 (give more")
        limits, _ = fit_thresholds(*constant, objective=objective)
        assert limits is None or np.isfinite(limits).all()


def test_unknown_objective() -> None:
    with pytest.raises(DataError, match="thresholds for 'f2': choose from auto, half, micro_f1, macro_f1"):
        fit_thresholds(PROBS, PROBS > 0.5, objective="f2")


def test_risk_falls_with_what_is_left_out() -> None:
    coverage, risk = risk_coverage(np.array([True, False, True, True]), np.array([0.9, 0.6, 0.8, 0.7]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [0, 0, 0, 0.25]


def test_abstaining_breaks_its_promise_at_most_once_in_twenty() -> None:
    broken = answered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        sure = random.uniform(0.5, 1, 600)
        limit = abstain_below(random.random(600) < sure**0.8, sure, most=0.15)  # surer than it says
        others = random.uniform(0.5, 1, 5000)
        wrong = 1 - others**0.8  # the true chance
        if (others >= limit).any():
            answered += 1
            broken += float(wrong[others >= limit].mean()) > 0.15
    assert answered > 150
    assert broken <= 10
    assert abstain_below(np.array([True] * 58), np.full(58, 0.9), most=0.05) == NEVER
    assert abstain_below(np.array([True] * 59), np.full(59, 0.9), most=0.05) == 0.9
