"""Batches planned by tokens."""

from itertools import islice

import numpy as np

from lasttoken.text.batch import Budget, by_length, epochs, under_budget

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
    plan = list(islice(epochs(LENGTHS, batch=2, budget=Budget(100), rng=np.random.default_rng(0)), 6))
    assert [sum(map(len, update)) for update in plan] == [2, 2, 1, 2, 2, 1]
    first, second = ([row for update in half for rows in update for row in rows] for half in (plan[:3], plan[3:]))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


def test_a_process_without_rows_has_an_empty_update() -> None:
    plan = list(islice(epochs(LENGTHS, batch=2, budget=Budget(100), rng=np.random.default_rng(0), share=(1, 2)), 3))
    assert [sum(map(len, update)) for update in plan] == [1, 1, 0]


def test_a_halved_budget_cuts_the_same_rows_smaller_and_stays_small() -> None:
    lengths, budget = np.array([9, 7, 5, 3, 1]), Budget(100)
    update = budget.cut(np.arange(5), lengths)
    assert [rows.tolist() for rows in update] == [[0, 1, 2, 3, 4]]
    update = budget.halve(update, lengths)
    assert budget.tokens == 12
    assert [rows.tolist() for rows in update] == [[0], [1, 2], [3, 4]]
    update = budget.halve(update, lengths)
    assert budget.tokens == 6
    assert [rows.tolist() for rows in update] == [[0], [1], [2], [3, 4]]
    update = budget.halve(update, lengths)
    assert [rows.tolist() for rows in update] == [[0], [1], [2], [3], [4]]
    assert budget.halve(update, lengths) is None
