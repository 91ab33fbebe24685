import numpy as np
import pytest

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.subset import nested_order, with_fewer
from lasttoken.errors import DataError
from lasttoken.labels import LabelSpace

SPACE = LabelSpace(("a", "b", "c"))


def dataset(targets: np.ndarray, space: LabelSpace = SPACE) -> Dataset:
    n = len(targets)
    return Dataset([str(i) for i in range(n)], [f"text {i}" for i in range(n)], targets, space)


def splits(train: Dataset) -> Splits:
    few = train.take(np.arange(3))
    return Splits(train, few, few, "made here")


COMMON = dataset(np.random.default_rng(0).choice(3, 1000, p=[0.7, 0.28, 0.02]))


def test_a_smaller_set_lies_inside_a_larger_one_and_keeps_the_shares() -> None:
    small, large = (with_fewer(splits(COMMON), rows, seed=1).train for rows in (50, 200))
    assert set(small.ids) < set(large.ids)
    assert np.bincount(large.targets, minlength=3) == pytest.approx(np.bincount(COMMON.targets) / 5, abs=2)
    assert large.ids == sorted(large.ids, key=int)  # the order of the rows stays


def test_another_seed_draws_other_rows() -> None:
    assert set(with_fewer(splits(COMMON), 50, seed=1).train.ids) != set(
        with_fewer(splits(COMMON), 50, seed=2).train.ids
    )


def test_every_label_keeps_a_row() -> None:
    for seed in range(10):
        assert set(with_fewer(splits(COMMON), 3, seed=seed).train.targets.tolist()) == {0, 1, 2}


def test_labels_that_are_rarest_in_no_row_are_covered() -> None:
    member = np.zeros((60, 3), dtype=bool)
    member[:, 0] = True  # every row has a
    member[:30, 1] = True
    member[:5, 2] = True
    order, needed = nested_order(dataset(member, LabelSpace(("a", "b", "c"), multi=True)), seed=0)
    assert sorted(order.tolist()) == list(range(60))
    assert needed == 1  # one row holds all three
    assert member[order[:1]].all()


def test_too_many_and_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"2,000 training rows are asked for, there are 1,000; ask for fewer"):
        with_fewer(splits(COMMON), 2000, seed=0)
    with pytest.raises(DataError, match="2 training rows are asked for, but 3 are needed for each of the 3 labels"):
        with_fewer(splits(COMMON), 2, seed=0)


def test_the_origin_says_so() -> None:
    assert with_fewer(splits(COMMON), 50, seed=4).origin == "made here; 50 of 1,000 training rows, seed 4"
