"""The policy: made on validation rows, stored whole, and its promises kept on rows it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lasttoken.config.settings import Decision
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation import policy as policies
from lasttoken.evaluation.calibration import sigmoid, softmax
from lasttoken.evaluation.conformal import covered, fit_sets, rows_needed, sets_of
from lasttoken.evaluation.decisions import abstain_below
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.policy import Policy, fit_policy, judged, read_policy, write_policy
from lasttoken.evaluation.predictions import Predictions
from lasttoken.labels import LabelSpace


def said(n: int, *, multi: bool, seed: int = 0, classes: int = 5) -> Predictions:
    """What an overconfident classifier says of rows."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(n, classes)) * 1.5
    ids, space = [str(i) for i in range(n)], LabelSpace(tuple("abcdefgh"[:classes]), multi)
    if multi:
        scores += np.linspace(0, -3, classes)
        return Predictions(ids, random.random((n, classes)) < sigmoid(scores), sigmoid(2 * scores), space)
    y = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    return Predictions(ids, y, softmax(3 * scores), space)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 2, "thresholds": "half"}, r"decision\.top: .* leave it or decision\.thresholds out"),
        ({"top": 2, "at_least_one": True}, r"decision\.top: .* leave it or decision\.at_least_one out"),
        ({"wanted": 0.8}, r"decision\.wanted: is for decision\.thresholds = precision or recall"),
        ({"thresholds": "half", "missed_cost": 2.0}, r"decision\.missed_cost: is for decision\.thresholds = cost"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_policy(Decision(**settings), said(100, multi=True))


def test_named_thresholds_need_rows_before_training() -> None:
    with pytest.raises(
        DataError, match=r"decision\.thresholds: recall needs 50 validation rows, there are 49; give more"
    ):
        fit_policy(Decision(thresholds="recall"), said(49, multi=True))


def test_abstaining_is_judged_on_rows_that_thresholds_were_not_chosen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds that know their rows by heart would make every decision right, and let every row be answered."""

    def by_heart(probs: np.ndarray, y: np.ndarray, **_: Any) -> tuple[np.ndarray, str]:
        known.append(len(y))
        return np.full(probs.shape[1], 0.5), "by heart"

    known: list[int] = []
    monkeypatch.setattr(policies, "fit_thresholds", by_heart)
    monkeypatch.setattr(policies, "confidence", lambda probs, chosen: probs.max(axis=1))
    fit_policy(Decision(most_wrong=0.3, calibration="off"), said(100, multi=True))
    assert known == [80] * 5 + [100]
    known.clear()
    fit_policy(Decision(calibration="off"), said(100, multi=True))  # nothing is promised
    assert known == [100]


def test_precision_and_at_least_one_cannot_both_be_had() -> None:
    with pytest.raises(
        DataError, match=r"decision\.at_least_one: gives labels below the threshold that guarantees prec"
    ):
        fit_policy(Decision(thresholds="precision", at_least_one=True), said(100, multi=True))


def test_labels_that_are_never_given_are_named() -> None:
    _, notes = fit_policy(Decision(thresholds="precision", wanted=0.95), said(200, multi=True))
    assert notes[-1].endswith("; 5 of 5 labels do not reach it and are never given: a, b, c, d, e")


def test_more_labels_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(DataError, match=r"decision\.top: 6 labels of 5 are asked for"):
        fit_policy(Decision(top=6), said(100, multi=True))


@pytest.mark.parametrize("multi", [False, True])
def test_a_policy_is_better_on_rows_it_never_saw(multi: bool) -> None:
    policy, notes = fit_policy(Decision(), said(1500, multi=multi))
    raw = said(4000, multi=multi, seed=1)
    shipped = policy.shipped(raw)
    for metric in ("log_loss", "ece", "brier"):
        assert METRICS[metric](raw.targets, shipped.probs) < METRICS[metric](raw.targets, raw.probs)
    if multi:
        before, after = (METRICS["macro_f1"](x.targets, x.probs, x.chosen) for x in (raw, shipped))
        assert after > before + 0.03
    assert [note.partition(":")[0].split()[0] for note in notes] == ["calibration"] + ["thresholds"] * multi


@pytest.mark.parametrize("multi", [False, True])
def test_what_is_stored_decides_bit_for_bit(multi: bool, tmp_path: Path) -> None:
    settings = Decision(coverage=0.9, most_wrong=0.3)
    policy, _ = fit_policy(settings, said(1500, multi=multi))
    write_policy(policy, tmp_path)
    raw = said(300, multi=multi, seed=1)
    first, again = policy.shipped(raw), read_policy(tmp_path).shipped(raw)
    assert np.array_equal(first.probs, again.probs)
    assert np.array_equal(first.chosen, again.chosen)
    assert read_policy(tmp_path).to_dict() == policy.to_dict()


def test_a_folder_without_a_policy_has_the_plain_one(tmp_path: Path) -> None:
    raw = said(20, multi=True)
    assert np.array_equal(read_policy(tmp_path).shipped(raw).chosen, raw.chosen)


@pytest.mark.parametrize("text", ["{", "{}", '{"calibration": {"method": "x", "multi": false, "parameters": {}}}'])
def test_a_damaged_policy_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"policy\.json: "):
        read_policy(tmp_path)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_truth_as_often_as_promised(multi: bool, coverage: float) -> None:
    had = []
    for seed in range(20):
        valid, test = said(500, multi=multi, seed=seed), said(2000, multi=multi, seed=100 + seed)
        limit = fit_sets(valid.probs, valid.targets, coverage)
        had.append(covered(sets_of(test.probs, limit), test.targets).mean())
    assert np.mean(had) == pytest.approx(coverage, abs=0.015)


def test_too_few_rows_have_sets_of_everything() -> None:
    few = said(5, multi=False)
    assert fit_sets(few.probs, few.targets, 0.95) == 0.0
    assert sets_of(few.probs, 0.0).all()


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize(("coverage", "rows"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_as_many_rows_as_a_coverage_needs(coverage: float, rows: int, multi: bool) -> None:
    assert rows_needed(coverage) == rows
    enough, short = said(rows, multi=multi), said(rows - 1, multi=multi)
    assert fit_sets(short.probs, short.targets, coverage) == 0.0 < fit_sets(enough.probs, enough.targets, coverage)


def test_a_coverage_that_rows_cannot_show_is_told() -> None:
    _, notes = fit_policy(Decision(coverage=0.99), said(30, multi=False))
    assert notes[-1] == (
        "sets hold every label: 99.0% coverage needs 99 validation rows and there are 30; "
        "give more rows with --valid or a larger --valid-share, or a lower decision.coverage"
    )


@pytest.mark.parametrize("calibration", ["auto", "dirichlet", "isotonic"])
def test_a_shipped_policy_keeps_its_coverage(calibration: str) -> None:
    """Sets are made of raw probabilities: those of a calibration fitted on the same rows would hold less."""
    had = []
    settings = Decision(coverage=0.9, calibration=calibration)  # type: ignore[arg-type]
    for seed in range(12):
        policy, _ = fit_policy(settings, said(1000, multi=False, seed=seed))
        found = judged(policy, said(2000, multi=False, seed=100 + seed), settings)
        had.append(found["sets"]["had"]["estimate"])
    assert np.mean(had) == pytest.approx(0.9, abs=0.01)


def test_promises_are_judged_on_other_rows() -> None:
    settings = Decision(coverage=0.9, most_wrong=0.2)
    policy, notes = fit_policy(settings, said(3000, multi=False))
    found = judged(policy, said(5000, multi=False, seed=1), settings)
    assert found["sets"]["had"]["low"] < 0.9 < found["sets"]["had"]["high"] + 0.01
    assert 1 < found["sets"]["size"] < 5
    assert found["wrong"]["estimate"] <= 0.2
    assert 0.1 < found["answered"]["estimate"] < 0.9
    assert notes[1].endswith("at most 20.0% wrong at 95 % confidence")
    assert judged(Policy(), said(10, multi=True), Decision()) == {}


def test_too_few_rows_to_promise_anything_are_told() -> None:
    policy, notes = fit_policy(Decision(most_wrong=0.01), said(60, multi=False))
    assert policy.rule.abstains(said(20, multi=False).probs, multi=False).all()
    assert notes[1] == (
        "abstains from every row: these 60 validation rows do not guarantee that at most 1.0% of answers are wrong, which "
        "takes at least 299 rows without a mistake; give more rows with --valid or a larger --valid-share, or allow more"
    )
    right, sure = np.ones(299, dtype=bool), np.linspace(0.5, 1, 299)
    assert abstain_below(right, sure, 0.01) < 1 < abstain_below(right[1:], sure[1:], 0.01)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"top": 2}, "top"), ({"thresholds": "half"}, "thresholds"), ({"at_least_one": True}, "at_")],
)
def test_settings_for_the_other_kind_of_rows(settings: dict, named: str) -> None:
    with pytest.raises(DataError, match=f"decision.{named}.*each row has one label"):
        fit_policy(Decision(**settings), said(100, multi=False))


def test_top_k_chooses_no_thresholds() -> None:
    policy, notes = fit_policy(Decision(top=2), said(300, multi=True))
    assert policy.rule.thresholds is None
    assert (policy.shipped(said(50, multi=True, seed=1)).chosen.sum(axis=1) == 2).all()
    assert len(notes) == 1
