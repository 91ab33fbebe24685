"""A training that was still gaining at its end: the last score is the best, and rose by more than its noise."""

from __future__ import annotations

import pytest

from lasttoken.evaluation.gaining import Gain, gain_at_end

RISING = [(1.0, 0.90), (2.0, 0.931), (3.0, 0.947)]


def test_a_rise_beyond_the_noise_is_a_gain() -> None:
    assert gain_at_end(RISING, rows=500) == Gain(0.931, 0.947, 1.0)  # a standard error of .010


@pytest.mark.parametrize(
    ("scores", "rows"),
    [
        (RISING, 100),  # a standard error of .022
        ([*RISING, (4.0, 0.947)], 500),  # no better than before
        ([*RISING, (4.0, 0.900)], 500),
        ([(1.0, 0.5), (2.0, 0.9), (3.0, 0.9)], 10_000),
        ([(1.0, 0.947)], 500),  # nothing to compare with
        ([], 500),
    ],
)
def test_no_gain(scores: list[tuple[float, float]], rows: int) -> None:
    assert gain_at_end(scores, rows=rows) is None


def test_many_scores_an_epoch_are_compared_an_epoch_apart() -> None:
    """Each step is within the noise, all four together are not."""
    scores = [(1 + i / 4, 0.90 + 0.004 * i) for i in range(5)]
    assert gain_at_end(scores, rows=700) == Gain(0.90, pytest.approx(0.916), 1.0)


def test_of_a_single_epoch_the_second_half_counts() -> None:
    assert gain_at_end([(0.25, 0.5), (0.5, 0.6), (0.75, 0.7), (1.0, 0.8)], rows=500) == Gain(0.6, 0.8, 0.5)


def test_a_perfect_score_has_no_noise() -> None:
    assert gain_at_end([(1.0, 0.99), (2.0, 1.0)], rows=100) == Gain(0.99, 1.0, 1.0)
