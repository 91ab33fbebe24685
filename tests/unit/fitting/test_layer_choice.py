"""The layer of the lowest loss: all of few layers are tried, a dozen of many."""

import numpy as np
import pytest

from lasttoken.fitting.layer_choice import best_layer


def valley(lowest: int) -> list[float]:
    """Mean losses of 31 layers that fall to `lowest` and rise again."""
    return [abs(layer - lowest) / 10 for layer in range(31)]


@pytest.mark.parametrize("lowest", [0, 1, 13, 17, 29, 30])
def test_the_lowest_of_many_layers_is_found_by_trying_twelve_at_most(lowest: int) -> None:
    best, losses = best_layer(31, lambda place: np.array([valley(lowest)[place], valley(lowest)[place]]))
    assert best == lowest
    assert len(losses) <= 12
    assert list(losses) == sorted(losses)


def test_of_few_layers_every_one_is_tried() -> None:
    means = [3.0, 1.0, 2.0, 0.5, 2.0]
    best, losses = best_layer(5, lambda place: np.array([means[place]]))
    assert best == 3
    assert {place: loss.tolist() for place, loss in losses.items()} == {i: [m] for i, m in enumerate(means)}


def test_of_equal_layers_the_lowest_is_taken_and_the_last_was_tried() -> None:
    best, losses = best_layer(31, lambda _: np.array([1.0]))
    assert best < 30
    assert 30 in losses
