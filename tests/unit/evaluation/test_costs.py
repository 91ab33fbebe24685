"""What mistakes cost: matrices by name, the cheapest decision, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lasttoken.config.settings import Decision
from lasttoken.errors import DataError
from lasttoken.evaluation.costs import cheapest, cost_matrix, label_costs, paid
from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy, fit_policy, judged
from lasttoken.evaluation.predictions import Predictions
from lasttoken.labels import NOTHING, LabelSpace

ONE = LabelSpace(("ham", "spam", "urgent"))
MANY = LabelSpace(("a", "b"), multi=True)


def rows(n: int, labels: LabelSpace, seed: int = 0) -> Predictions:
    """Predictions whose claims are right as often as they say."""
    rng = np.random.default_rng(seed)
    ids = [str(i) for i in range(n)]
    if labels.multi:
        probs = rng.random((n, len(labels)))
        return Predictions(ids, rng.random(probs.shape) < probs, probs, labels)
    probs = rng.dirichlet(np.ones(len(labels)), n)
    y = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return Predictions(ids, y, probs, labels)


def test_what_is_not_named_costs_one() -> None:
    assert cost_matrix({"urgent": {"ham": 9, "spam": 20}, "ham": {"urgent": 0.5}}, ONE).tolist() == [
        [0, 1, 0.5],
        [1, 0, 1],
        [9, 20, 0],
    ]
    assert label_costs({"b": {"missed": 4}}, MANY, false=2, missed=1).tolist() == [[2, 2], [1, 4]]


def test_the_cheapest_label_is_given() -> None:
    costs = cost_matrix({"urgent": {"ham": 9, "spam": 9}}, ONE)
    probs = np.array([[0.8, 0.05, 0.15], [0.9, 0.05, 0.05], [0, 0, 0]])
    # by hand, first row: ham .05 + 9 * .15 = 1.4, spam .8 + 9 * .15 = 2.15, urgent .85
    np.testing.assert_allclose(probs[0] @ costs, [1.4, 2.15, 0.85])
    assert cheapest(probs, costs).tolist() == [2, 0, NOTHING]
    assert cheapest(probs, np.zeros((3, 3))).tolist() == [0, 0, NOTHING]  # where nothing costs, the most probable
    assert cheapest(np.array([[0.2, 0.5, 0.3]]), np.zeros((3, 3))).tolist() == [1]
    assert paid(costs, np.array([2, 2, 0]), np.array([0, 2, NOTHING])).tolist() == [9, 0, 1]


def test_costs_of_one_label_are_decided_by_and_judged() -> None:
    settings = Decision(costs={"urgent": {"ham": 9, "spam": 9}})
    policy, notes = fit_policy(settings, rows(400, ONE))
    assert any(
        note.startswith("decisions: the label of least expected cost; not the most probable one for ") for note in notes
    )
    test = rows(4000, ONE, seed=1)
    cost = judged(policy, test, settings)["cost"]
    assert cost["each"]["high"] < cost["by_most_probable"]["low"]
    assert cost["saved"]["estimate"] == pytest.approx(cost["by_most_probable"]["estimate"] - cost["each"]["estimate"])
    assert 0 < cost["saved"]["low"] < cost["saved"]["high"]
    again = Policy(policy.calibration, type(policy.rule).of(policy.rule.to_dict()))
    np.testing.assert_array_equal(again.shipped(test).chosen, policy.shipped(test).chosen)
    assert (policy.shipped(test).chosen == 2).mean() > (test.chosen == 2).mean()


def test_costs_of_several_labels_are_thresholds() -> None:
    settings = Decision(thresholds="cost", missed_cost=3, costs={"b": {"false": 4, "missed": 1}})
    policy, notes = fit_policy(settings, rows(100, MANY))
    assert policy.rule.thresholds is not None
    assert policy.rule.thresholds.tolist() == [0.25, 0.8]  # 1 / (1 + 3), 4 / (4 + 1)
    assert "thresholds: from 0.250 to 0.800, by what a wrong and a missed label cost" in notes


@pytest.mark.parametrize(
    ("settings", "labels", "said"),
    [
        ({"costs": {"spma": {"ham": 2}}}, ONE, "decision.costs: 1 unknown label(s) 'spma'; known are 'ham'"),
        ({"costs": {"spam": {"hamm": 2}}}, ONE, "did you mean 'ham' for 'hamm'?"),
        (
            {"costs": {"spam": {"ham": 2}}, "missed_cost": 2},
            ONE,
            "decision.missed_cost: each row has one label; give the costs",
        ),
        ({"costs": {"spam": {"spam": 2}}}, ONE, "'spam' decided for 'spam' is right and costs nothing; leave it out"),
        (
            {"thresholds": "cost", "costs": {"a": {"false": 0, "missed": 0}}},
            MANY,
            "no mistake about 'a' costs anything",
        ),
        ({"thresholds": "cost"}, ONE, "leave it out; give the costs of mistakes with decision.costs alone"),
        (
            {"thresholds": "cost", "costs": {"a": {"b": 2}}},
            MANY,
            "'a' has 'b'; where rows may have several labels each",
        ),
        ({"costs": {"a": {"false": 2}}}, MANY, "decision.costs: is for decision.thresholds = cost; set that too"),
    ],
)
def test_costs_that_do_not_fit(settings: dict, labels: LabelSpace, said: str) -> None:
    with pytest.raises(DataError) as caught:
        fit_policy(Decision(**settings), rows(100, labels))
    assert said in str(caught.value)


def test_of_rows_left_to_a_person_no_cost_is_told() -> None:
    settings = Decision(costs={"urgent": {"ham": 9, "spam": 9}}, most_wrong=0.4)
    policy, _ = fit_policy(settings, rows(2000, ONE))
    test = rows(4000, ONE, seed=1)
    shipped = policy.shipped(test)
    answered = ~policy.rule.abstains(shipped.probs, multi=False)
    assert 0.1 < answered.mean() < 0.9
    assert policy.rule.costs is not None
    expected = paid(policy.rule.costs, test.targets, shipped.chosen)[answered].mean()
    assert judged(policy, test, settings)["cost"]["each"]["estimate"] == pytest.approx(expected)


def test_rows_that_cost_nothing_leave_room() -> None:
    costs = cost_matrix({"ham": {"spam": 10}}, ONE)
    y = np.zeros(50, dtype=np.int64)
    sure = Predictions([str(i) for i in range(50)], y, np.eye(3)[y], ONE)
    each = judged(Policy(rule=Rule(costs=costs)), sure, Decision())["cost"]["each"]
    assert (each["estimate"], each["low"]) == (0, 0)
    assert each["high"] == pytest.approx(10 * (1 - 0.025 ** (1 / 50)))


def test_answers_that_name_no_label_cost_as_much_as_the_dearest_mistake() -> None:
    costs = cost_matrix({"ham": {"spam": 10}}, ONE)
    none = Predictions(["0", "1"], np.array([0, 1]), np.zeros((2, 3)), ONE)
    assert Policy(rule=Rule(costs=costs)).shipped(none).chosen.tolist() == [NOTHING, NOTHING]
    assert judged(Policy(rule=Rule(costs=costs)), none, Decision())["cost"]["each"]["estimate"] == 5.5  # 10 and 1


def test_a_wanted_precision_is_judged_label_by_label() -> None:
    settings = Decision(thresholds="precision", wanted=0.8)
    policy, _ = fit_policy(settings, rows(2000, MANY))
    found = judged(policy, rows(4000, MANY, seed=1), settings)["each"]
    assert (found["of"], found["wanted"], found["labels"], found["short"]) == ("precision", 0.8, 2, 0)
    assert found["had"]["low"] > 0.8
    bold = Policy(policy.calibration, type(policy.rule)(thresholds=np.array([0.3, 0.9])))
    worse = judged(bold, rows(4000, MANY, seed=1), settings)["each"]
    assert (worse["labels"], worse["short"]) == (2, 1)  # of the label given from .3 some .65 are right
    plenty = judged(bold, rows(4000, MANY, seed=1), Decision(thresholds="recall", wanted=0.8))["each"]
    assert (plenty["of"], plenty["short"]) == ("recall", 1)  # of the label given from .9 a fifth is found
