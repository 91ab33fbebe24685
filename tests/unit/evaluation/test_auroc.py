import math

import numpy as np
import pytest

from lasttoken.evaluation.auroc import areas, macro_shares, midranks, shares


def test_tied_scores_share_their_mean_rank() -> None:
    assert midranks(np.array([0.3, 0.1, 0.3, 0.9])).tolist() == [2.5, 1, 2.5, 4]


def test_areas_count_pairs_in_the_right_order() -> None:
    y = np.array([[True], [False], [True], [False]])
    assert areas(y, np.array([[0.9], [0.2], [0.4], [0.4]])).tolist() == [pytest.approx(3.5 / 4)]


def test_area_is_nan_where_all_rows_are_of_one_kind() -> None:
    found = areas(np.array([0, 0, 1]), np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]))
    assert found[:2].tolist() == [1, 1]
    assert math.isnan(found[2])
    assert shares(np.array([True, True]), np.array([0.1, 0.2])) is None


def test_shares_have_the_area_as_mean_and_delongs_variance() -> None:
    truth = np.array([True, True, True, False, False])
    found = shares(truth, np.array([0.9, 0.6, 0.3, 0.5, 0.1]))
    assert found is not None
    assert found.mean() == pytest.approx(5 / 6)
    # placements of positives 1, 1, 1/2 (variance 1/12, of 3), of negatives 2/3, 1 (variance 1/18, of 2)
    assert found.var() / 5 == pytest.approx((1 / 12) / 3 + (1 / 18) / 2)


def test_macro_shares_pass_over_classes_of_one_kind() -> None:
    y = np.array([[True, False], [False, False]])
    assert macro_shares(y, np.array([[0.9, 0.1], [0.2, 0.1]])).tolist() == [1, 1]
    assert np.isnan(macro_shares(y[:, 1:], np.array([[0.1], [0.1]]))).all()
