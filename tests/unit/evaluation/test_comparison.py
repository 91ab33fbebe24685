import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lasttoken.errors import DataError
from lasttoken.evaluation.comparison import Comparison, Pair, compare
from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.predictions import Predictions
from lasttoken.evaluation.summary import measure
from lasttoken.labels import LabelSpace

SPACE = LabelSpace(("no", "yes"))
N = 200
Y = np.arange(N) % 2


def run(wrong: int, start: int = 0) -> Predictions:
    """N rows, right but for `wrong` of them from row `start` on, each with probability .9 on what is decided."""
    chosen = Y.copy()
    chosen[start : start + wrong] = 1 - chosen[start : start + wrong]
    return Predictions([f"r{i}" for i in range(N)], Y, np.where(np.eye(2)[chosen] == 1, 0.9, 0.1), SPACE)


def pair(difference: Interval, p: float, **other: Any) -> Pair:
    plain = Pair("embedding", "linear", "macro_f1", 500, 3, difference, p, p, p, p, 0.021)
    return replace(plain, **other)


def test_the_better_of_two_is_named_with_interval_and_p() -> None:
    found = pair(Interval(0.031, 0.012, 0.050, 0.95), 0.002)
    assert found.verdict == "embedding beats linear by .031 macro-F1 [.012, .050], p = .002 (Holm)"
    assert found.winner == "embedding"


def test_the_second_can_win() -> None:
    found = pair(Interval(-0.031, -0.050, -0.012, 0.95), 0.0001, family=1)
    assert found.verdict == "linear beats embedding by .031 macro-F1 [.012, .050], p < .001"


def test_less_loss_wins() -> None:
    found = pair(Interval(-0.25, -0.4, -0.1, 0.95), 0.01, metric="log_loss")
    assert found.verdict == "embedding beats linear by .250 log-loss [.100, .400], p = .010 (Holm)"


def test_what_is_not_shown_is_said_with_what_would_be() -> None:
    found = pair(Interval(0.004, -0.011, 0.019, 0.95), 0.61, family=1)
    assert found.winner is None
    assert found.verdict == (
        "no difference shown between embedding and linear (.004 [-.011, .019], p = .61); "
        "this test set would show one of .021 or more"
    )


def test_a_claim_needs_both_the_p_value_and_the_interval() -> None:
    assert pair(Interval(0.03, 0.01, 0.05, 0.95), 0.06).winner is None
    assert pair(Interval(0.03, -0.001, 0.06, 0.95), 0.04).winner is None
    assert pair(Interval(0.03, 0.001, 0.06, 0.95), 0.05).winner == "embedding"


@pytest.mark.parametrize(
    ("wrong", "named"), [(1, "int"), ([1], "int"), ([], "nothing"), (run(20).probs, "ndarray"), ("runs/a", "str")]
)
def test_what_holds_no_predictions_is_named(wrong: Any, named: str) -> None:
    with pytest.raises(
        DataError, match=rf"^run 'a' holds {named}; give its Predictions, or a list of them, one a seed$"
    ):
        compare({"a": wrong})


def test_runs_without_names_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^runs is a list; give the Predictions of each by its name: \{'a': \.\.\., 'b': \.\.\.\} "
    ):
        compare([run(20)])  # type: ignore[arg-type]


def test_two_copies_are_the_same() -> None:
    found = compare({"a": run(20), "b": run(20)}, draws=50)
    assert found.pairs[0].verdict == "a and b are the same on these 200 rows by macro-F1"
    assert (found.pairs[0].p_holm, found.pairs[0].p_mcnemar) == (1, 1)


def test_a_difference_on_every_row_has_no_spread_and_is_still_claimed() -> None:
    found = compare({"a": run(0), "b": run(N)}, metric="accuracy", draws=199)
    assert found.pairs[0].verdict == "a beats b by 1.000 accuracy [.974, 1.000], p = .005"


def test_compare_finds_the_better_run() -> None:
    found = compare({"poor": run(60), "good": run(10)}, metric="accuracy")
    only = found.pairs[0]
    assert (only.a, only.b, only.n, only.family) == ("good", "poor", 200, 1)  # the better one first
    assert only.difference.estimate == pytest.approx(0.25)
    assert 0 < only.difference.low < 0.25 < only.difference.high
    assert compare({"good": run(10), "poor": run(60)}, metric="accuracy").to_dict()["pairs"] == found.to_dict()["pairs"]
    assert only.p == 1 / 2001
    assert only.p_mcnemar == 2 / 2**50  # good is right on 50 rows on which poor is not, never the reverse
    assert found.summary() == "good scores highest (.950 accuracy); shown to beat poor (.700)."


def test_a_winner_by_luck_is_called_level() -> None:
    found = compare({"embedding": run(20), "linear": run(22, start=100), "probe": run(90)}, metric="accuracy")
    assert found.summary() == (
        "embedding scores highest (.900 accuracy); not shown to differ from linear (.890); shown to beat probe (.550)."
    )
    assert [one.family for one in found.pairs] == [3, 3, 3]


def test_holm_goes_over_all_pairs() -> None:
    found = compare({"a": run(20), "b": run(22, start=100), "c": run(90)}, metric="accuracy")
    raw = [one.p for one in found.pairs]
    assert raw[1] == raw[2] == 1 / 2001
    assert [one.p_holm for one in found.pairs] == pytest.approx([raw[0], 3 / 2001, 3 / 2001])


def test_a_reference_is_in_every_pair() -> None:
    runs = {"a": run(20), "b": run(22, start=100), "c": run(90)}
    found = compare(runs, metric="accuracy", reference="b")
    assert [(one.a, one.b) for one in found.pairs] == [("a", "b"), ("b", "c")]
    assert found.summary() == (
        "a scores highest (.900 accuracy); b (.890) is not shown to differ from a (.900); "
        "b (.890) is shown to beat c (.550)."
    )


def test_a_run_keeps_its_figures_whoever_stands_beside_it() -> None:
    two = compare({"a": run(20), "b": run(40)}, draws=100, seed=5)
    three = compare({"a": run(20), "b": run(40), "c": run(60)}, draws=100, seed=5)
    assert two.pairs[0].difference == three.pairs[0].difference
    assert two.pairs[0].p == three.pairs[0].p
    assert two.scores["a"] == three.scores["a"] == measure(run(20), "macro_f1", seed=5, draws=100)


def test_more_pairs_ask_for_a_larger_effect() -> None:
    two = compare({"a": run(20), "b": run(40)}, draws=100)
    three = compare({"a": run(20), "b": run(40), "c": run(60)}, draws=100)
    assert three.pairs[0].mde > two.pairs[0].mde > 0


def test_lowest_is_best_for_a_loss() -> None:
    found = compare({"poor": run(60), "good": run(10)}, metric="log_loss", draws=200)
    assert found.summary().startswith("good scores lowest, which is best (.215 log-loss); shown to beat poor (")


def test_runs_of_one_score_are_named_together() -> None:
    two = compare({"a": run(20), "b": run(20, start=100)}, metric="accuracy", draws=200)
    assert two.summary() == "a and b score alike (.900 accuracy)."
    three = compare({"a": run(20), "b": run(20, start=100), "c": run(90)}, metric="accuracy", draws=200)
    assert three.summary() == "a and b score highest (.900 accuracy); a (.900) is shown to beat c (.550)."
    # what is shown of one of them need not be of the other
    near = compare({"a": run(20), "b": run(20, start=100), "c": run(32)}, metric="accuracy")
    assert near.summary() == "a and b score highest (.900 accuracy); a (.900) is shown to beat c (.840)."
    assert next(one for one in near.pairs if (one.a, one.b) == ("b", "c")).winner is None


def test_few_rows_show_large_differences_alone() -> None:
    y = np.zeros(85, dtype=np.int64)
    ids = [str(i) for i in range(85)]
    fits = {
        name: Predictions(ids, y, np.eye(2)[np.r_[np.ones(wrong, dtype=int), np.zeros(85 - wrong, dtype=int)]], SPACE)
        for name, wrong in (("a", 0), ("b", 2))
    }
    assert compare(fits, metric="accuracy").pairs[0].mde == pytest.approx(7.906 / 85, abs=1e-3)
    ten = {name: fit.take(np.arange(10)) for name, fit in fits.items()}
    five = compare({**ten, **{f"c{i}": ten["b"] for i in range(3)}}, metric="accuracy")
    assert five.pairs[0].verdict.endswith("; these rows are too few to show one of any size")


def test_a_single_run_has_nothing_to_be_compared_with() -> None:
    found = compare({"linear": run(20)}, metric="accuracy", draws=50)
    assert found.pairs == []
    assert found.summary() == "linear scores .900 accuracy; there is no other run to compare it with."


def test_rows_in_another_order_are_put_right() -> None:
    shuffled = np.random.default_rng(0).permutation(N)
    b = run(40)
    moved = Predictions([b.ids[i] for i in shuffled], Y[shuffled], b.probs[shuffled], SPACE)
    assert compare({"a": run(20), "b": moved}, draws=100) == compare({"a": run(20), "b": b}, draws=100)


def test_other_rows_are_refused() -> None:
    b = run(20)
    other = Predictions([*b.ids[:-2], "x1", "x2"], Y, b.probs, SPACE)
    with pytest.raises(
        DataError,
        match=r"b and a were judged on different rows: 2 of 200 rows of a are not in b, "
        r"2 of 200 rows of b are not in a, for example 'r198' is only in a; train them on the same file with the same seed",
    ):
        compare({"a": b, "b": other})
    fewer = Predictions(b.ids[:50], Y[:50], b.probs[:50], SPACE)
    with pytest.raises(DataError, match=r"0 of 50 rows of a are not in b, 150 of 200 .* 'r100' is only in b;"):
        compare({"a": fewer, "b": b})


def test_other_targets_are_refused() -> None:
    b = run(20)
    changed = Y.copy()
    changed[[3, 7, 9]] = 1 - changed[[3, 7, 9]]
    with pytest.raises(DataError, match="b and a hold different targets for 3 of 200 rows, first id 'r3'; compare"):
        compare({"a": b, "b": replace(b, targets=changed)})


def test_other_labels_are_refused() -> None:
    b = run(20)
    with pytest.raises(DataError, match="b and a: 2 labels are in only one of them, for example 'maybe'; compare"):
        compare({"a": b, "b": replace(b, labels=LabelSpace(("maybe", "yes")))})
    with pytest.raises(DataError, match="b and a: their labels are in different orders; compare"):
        compare({"a": b, "b": replace(b, labels=LabelSpace(("yes", "no")))})
    with pytest.raises(DataError, match="b and a: one has a single label a row, the other any number; compare"):
        compare({"a": b, "b": replace(b, labels=LabelSpace(("no", "yes"), multi=True), targets=np.eye(2)[Y] == 1)})


def test_repeated_ids_are_refused() -> None:
    b = run(20)
    with pytest.raises(DataError, match="b: 1 of 200 row ids repeat; ids must differ"):
        compare({"a": b, "b": replace(b, ids=["r1", *b.ids[1:]])})


def test_no_runs_and_an_unknown_reference_are_refused() -> None:
    with pytest.raises(DataError, match="there are no runs to compare; name one or more"):
        compare({})
    with pytest.raises(DataError, match=r"reference 'c' is not among the runs \['a'\]"):
        compare({"a": run(1)}, reference="c")


def part(rows: int, wrong: int) -> Predictions:
    whole = run(wrong)
    return Predictions(whole.ids[:rows], Y[:rows], whole.probs[:rows], SPACE)


def test_one_row_shows_nothing() -> None:
    found = compare({"a": part(1, 0), "b": part(1, 1)}, draws=20)
    assert found.pairs[0].verdict == (
        "no difference can be shown between a and b: 1 row is too few for an interval of macro-F1"
    )
    assert found.summary() == "a scores highest (.500 macro-F1); not shown to differ from b (.000)."


def test_no_rows_show_nothing() -> None:
    found = compare({"a": part(0, 0), "b": part(0, 0)}, draws=20)
    assert found.pairs[0].verdict == ("no difference can be shown between a and b: macro-F1 is undefined on these rows")
    assert found.summary() == "macro-F1 is undefined on these rows, so nothing can be compared."


@pytest.mark.parametrize("rows", [0, 1, 200])
def test_a_comparison_is_strict_json(rows: int) -> None:
    found = compare({"a": part(rows, 20), "b": part(rows, 40)}, draws=50).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["scores"]) == ["a", "b"]
    assert found["pairs"][0]["verdict"].startswith(("no difference", "a beats b"))


def test_mcnemar_is_of_two_fits_and_not_of_seeds() -> None:
    fits = [part(200, right) for right in (20, 30, 40)]
    found = compare({"several": fits, "one": part(200, 60), "other": part(200, 90)}, draws=50)
    tested = {frozenset((pair.a, pair.b)): pair for pair in found.pairs}
    alone = tested.pop(frozenset(("one", "other")))
    assert alone.p_mcnemar == alone.p_mcnemar_holm < 0.05  # a family of its own
    assert [math.isnan(pair.p_mcnemar) for pair in tested.values()] == [True, True]
    assert all(pair.to_dict()["p_mcnemar_holm"] is None for pair in tested.values())
    assert all(pair.only_a + pair.only_b > 0 for pair in tested.values())


def test_many_labels_are_compared_by_exact_match() -> None:
    space, y = LabelSpace(("a", "b"), multi=True), np.eye(2, dtype=bool)[Y]
    ids = [f"r{i}" for i in range(N)]
    good, poor = np.where(y, 0.9, 0.1), np.full((N, 2), 0.6)
    found = compare({"good": Predictions(ids, y, good, space), "poor": Predictions(ids, y, poor, space)}, draws=100)
    assert isinstance(found, Comparison)
    assert found.pairs[0].p_mcnemar == pytest.approx(2 / 2.0**200)
    assert found.pairs[0].winner == "good"
    assert found.pairs[0].difference.estimate == pytest.approx(1 - 2 / 3)
