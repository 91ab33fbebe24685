"""How `linear` chooses its settings by the number of rows."""

import numpy as np
import pytest

from lasttoken.config.methods import Linear
from lasttoken.data.dataset import Dataset
from lasttoken.labels import LabelSpace
from lasttoken.methods.linear import documents_needed, strengths


def rows(n: int, *, multi: bool) -> Dataset:
    targets = np.arange(n) % 2
    ids, texts = [str(i) for i in range(n)], ["a text"] * n
    return Dataset(ids, texts, np.eye(2, dtype=bool)[targets] if multi else targets, LabelSpace(("a", "b"), multi))


@pytest.mark.parametrize(
    ("n", "multi", "count", "choices"),
    [
        (40, False, 1, (3.0, 30.0)),
        (1000, False, 1, (3.0, 30.0)),
        (1001, False, 2, (3.0, 30.0)),
        (40, True, 2, (30.0,)),
        (501, True, 2, (3.0, 30.0)),
    ],
)
def test_auto_settings_depend_on_the_number_of_rows(
    n: int, multi: bool, count: int, choices: tuple[float, ...]
) -> None:
    train = rows(n, multi=multi)
    assert documents_needed(Linear(), train) == count
    assert strengths(Linear(), train) == choices


def test_settings_that_are_given_are_kept() -> None:
    config = Linear(min_count=3, regularisation=(1.0,))
    assert documents_needed(config, rows(40, multi=False)) == 3
    assert strengths(config, rows(40, multi=True)) == (1.0,)
