import numpy as np

from lasttoken.evaluation.row_statistics import RowSums

TABLE = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])


def test_dense_keeps_the_entries_that_are_not_zero() -> None:
    sums = RowSums.dense(TABLE)
    assert (sums.n, sums.width) == (2, 3)
    assert sums.rows.tolist() == [0, 0, 1]
    assert sums.columns.tolist() == [0, 2, 1]
    assert sums.amounts.tolist() == [1, 2, 3]


def test_total_counts_every_row_once() -> None:
    assert RowSums.dense(TABLE).total().tolist() == [1, 3, 2]


def test_weighted_counts_rows_as_often_as_told() -> None:
    weights = np.array([[2, 0], [0, 1], [1, 1]])
    assert RowSums.dense(TABLE).weighted(weights).tolist() == [[2, 0, 4], [0, 3, 0], [1, 3, 2]]


def test_minus_leaves_out_what_cancels() -> None:
    other = np.array([[1.0, 0.0, 0.5], [0.0, 3.0, 4.0]])
    difference = RowSums.dense(TABLE).minus(RowSums.dense(other))
    assert difference.rows.tolist() == [0, 1]
    assert difference.columns.tolist() == [2, 2]
    assert difference.amounts.tolist() == [1.5, -4]


def test_marks_in_one_place_add_up() -> None:
    assert RowSums.marks(2, 2, np.array([0, 0, 1]), np.array([1, 1, 0])).total().tolist() == [1, 2]
