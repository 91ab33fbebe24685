"""Batches planned by tokens."""

from itertools import islice

import numpy as np
import pytest

from lasttoken.text.batch import Budget, by_length, under_budget, updates

LENGTHS = np.array([3, 9, 1, 4, 20])


def test_prediction_goes_longest_first() -> None:
    assert [rows.tolist() for rows in by_length(LENGTHS, 13)] == [[4], [1, 3], [0, 2]]
    assert by_length(np.array([], dtype=np.int64), 13) == []


def test_a_row_longer_than_the_budget_travels_alone() -> None:
    assert [rows.tolist() for rows in under_budget(np.array([4, 4, 0]), LENGTHS, 5)] == [[4], [4], [0]]


def test_the_budget_may_be_reached_but_not_passed() -> None:
    assert [rows.tolist() for rows in under_budget(np.array([0, 1, 2]), LENGTHS, 12)] == [[0, 1], [2]]
    assert under_budget(np.array([], dtype=np.int64), LENGTHS, 12) == []


def test_an_epoch_ends_with_a_smaller_update_and_the_next_has_another_order() -> None:
    plan = list(islice(updates(LENGTHS, batch=2, budget=Budget(100), seed=0), 6))
    assert [sum(len(micro.rows) for micro in update) for update in plan] == [2, 2, 1, 2, 2, 1]
    first, second = (
        [row for update in half for micro in update for row in micro.rows] for half in (plan[:3], plan[3:])
    )
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


def test_a_process_without_rows_has_an_empty_update() -> None:
    plan = list(islice(updates(LENGTHS, batch=2, budget=Budget(100), seed=0, share=(1, 2)), 3))
    assert [sum(len(micro.rows) for micro in update) for update in plan] == [1, 1, 0]


def test_a_halved_budget_cuts_the_same_rows_smaller_and_stays_small() -> None:
    lengths, budget = np.array([9, 7, 5, 3, 1]), Budget(100)
    update = budget.cut(np.arange(5), lengths, 7)
    assert [micro.rows.tolist() for micro in update] == [[0, 1, 2, 3, 4]]
    update = budget.halve(update, lengths)
    assert budget.tokens == 12
    assert [micro.rows.tolist() for micro in update] == [[0], [1, 2], [3, 4]]
    update = budget.halve(update, lengths)
    assert budget.tokens == 6
    assert [micro.rows.tolist() for micro in update] == [[0], [1], [2], [3, 4]]
    update = budget.halve(update, lengths)
    assert [micro.rows.tolist() for micro in update] == [[0], [1], [2], [3], [4]]
    assert [(micro.update, micro.number) for micro in update] == [(7, number) for number in range(5)]
    assert budget.halve(update, lengths) is None


@pytest.mark.parametrize("done", [1, 2, 3, 5, 7])
def test_updates_after_any_number_of_them_are_those_that_would_have_come(done: int) -> None:
    def plan(skipped: int) -> list[list[list[int]]]:
        found = updates(LENGTHS, batch=2, budget=Budget(10), seed=3, done=skipped)
        return [[micro.rows.tolist() for micro in update] for update in islice(found, 9 - skipped)]

    assert plan(done) == plan(0)[done:]
