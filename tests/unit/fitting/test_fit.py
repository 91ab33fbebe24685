"""How long a training is, in epochs, updates and validations."""

import pytest

from lasttoken.config.settings import Training
from lasttoken.fitting.fit import Length, length_of


@pytest.mark.parametrize(
    ("settings", "rows", "expected"),
    [
        (Training(batch=8), 100, Length(20.0, 260, 13, 7)),  # the most epochs
        (Training(batch=8), 1000, Length(4.0, 500, 125, 2)),  # 500 updates
        (Training(batch=8), 9003, Length(3.0, 3378, 1126, 2)),  # the fewest epochs
        (Training(batch=8, epochs=2.5), 1000, Length(2.5, 313, 125, 2)),
        (Training(batch=8, epochs=12.0, evaluations=4), 56, Length(12.0, 84, 2, 14)),  # 7 updates an epoch
        (Training(batch=8, epochs=9.0, evaluations=4), 16, Length(9.0, 18, 1, 6)),  # 2 updates an epoch
        (Training(batch=8, epochs=1.0, patience=5), 3, Length(1.0, 1, 1, 5)),
    ],
)
def test_updates_and_validations_of_a_training(settings: Training, rows: int, expected: Length) -> None:
    assert length_of(settings, rows) == expected
