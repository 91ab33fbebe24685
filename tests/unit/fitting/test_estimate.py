"""The time that a training will take, from updates of given durations."""

from __future__ import annotations

from lasttoken.config.settings import Training
from lasttoken.fitting.estimate import estimated
from lasttoken.train.outcome import Step

SETTINGS = Training(epochs=3, batch=16)


def steps(seconds: list[float], first: int = 1) -> list[Step]:
    return [Step(first + i, 0.5, 0.1, 1.0, 16.0, spent, 16) for i, spent in enumerate(seconds)]


def said(seconds: list[float], settings: Training = SETTINGS, scoring: float | None = 20.0, count: int = 921) -> str:
    return estimated(steps(seconds), settings, rows=4907, valid=700, count=count, scoring=scoring) or ""


def test_the_estimate_is_told_once_after_five_updates() -> None:
    five = [3.0, 0.5, 0.4, 0.5, 0.6]  # the first one warms up
    assert [bool(said(five[:n])) for n in range(1, 6)] == [False, False, False, False, True]
    assert not said([*five, 0.5])
    # 916 updates of half a second, and nearly three validations of 20 s
    assert said(five) == (
        "about 8 min 38 s of training at most: 3 epochs of 4,907 rows, 16 per update, 2 updates per second"
    )


def test_a_training_of_seconds_is_not_estimated() -> None:
    assert said([0.01] * 5, scoring=0.1) == ""


def test_a_long_one_names_the_way_to_limit_it() -> None:
    assert said([1.0] * 5, SETTINGS.model_copy(update={"epochs": 20}), count=6140) == (
        "about 1 h 49 min of training at most: 20 epochs of 4,907 rows, 16 per update, 1 updates per second; "
        "with --time 30m, train and compare choose epochs, frozen blocks and rows to fit"
    )


def test_a_validation_that_was_not_measured_is_taken_for_forward_passes() -> None:
    """700 rows are 43.75 updates' rows, and a third of their time: 14.6 s."""
    assert said([1.0] * 5, scoring=None) == said([1.0] * 5, scoring=700 / 16 / 3)


def test_a_resumed_training_has_less_left() -> None:
    found = estimated(steps([0.5] * 5, 800), SETTINGS, rows=4907, valid=700, count=921, scoring=20.0)
    assert found is not None
    assert found.startswith("about 1 min 6 s of training")  # 117 updates, an eighth of three validations
