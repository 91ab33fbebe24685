"""What is given up for a time, in its order: epochs, then blocks, then rows. Seconds are given, none is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lasttoken.errors import ConfigError
from lasttoken.plan.within import Job, Speed, choose, seconds_after, seconds_of, told

JOB = Job(rows=4800, valid=500, test=1000, epochs=20, batch=16, evaluations=1, depth=30, head_first=True)
SPEED = Speed(start=10, update=0.5, row=0.02, end=10)


def chosen(seconds: float, job: Job = JOB, speed: Speed = SPEED) -> tuple[float, int, int]:
    """(epochs, frozen blocks, rows)."""
    found = choose(job, speed, seconds, time="10m")
    assert seconds_of(found, speed) <= 0.9 * seconds
    return found.epochs, found.trunk, found.rows


def test_seconds_are_the_sum_of_the_stages() -> None:
    # 10 to load, 106 for features, 20 epochs of 300 updates and 500 rows to validate, 30 to predict, 10 at the end
    assert seconds_of(JOB, SPEED) == pytest.approx(10 + 106 + 20 * (150 + 10) + 30 + 10)
    assert seconds_after(JOB, SPEED) == pytest.approx(40)


def test_frozen_blocks_run_once_over_all_texts() -> None:
    half = replace(JOB, trunk=15, epochs=2.0)
    assert seconds_of(half, SPEED) == pytest.approx(10 + 106 + 2 * (75 + 5) + 30 + 10)
    without_head = replace(half, head_first=False)
    assert seconds_of(without_head, SPEED) == pytest.approx(10 + 53 + 2 * (75 + 5) + 30 + 10)


def test_where_all_fits_nothing_is_given_up() -> None:
    assert chosen(3800) == (20, 0, 4800)
    assert told(JOB, JOB, SPEED, time="--time 2h") == (
        "--time 2h: all of it fits, 20 epochs of 4,800 rows take about 55 min 56 s"
    )


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (3600, (19.0, 0, 4800)),
        (1200, (5.0, 0, 4800)),
        (720, (3.0, 0, 4800)),  # 636 s of 648
        (600, (4.0, 15, 4800)),  # three epochs of all blocks would take 636 s of 540
        (400, (4.0, 22, 4800)),
        (300, (2.0, 22, 4800)),
        (200, (2.0, 22, 3120)),
    ],
)
def test_epochs_go_first_then_blocks_then_rows(seconds: float, found: tuple[float, int, int]) -> None:
    assert chosen(seconds) == found


def test_a_method_without_frozen_blocks_gives_up_rows() -> None:
    job = replace(JOB, depth=0, head_first=False)
    assert chosen(720, job) == (3.0, 0, 4800)
    assert chosen(400, job) == (2.0, 0, 4640)


def test_a_probe_has_rows_alone_to_give_up() -> None:
    probe = Job(rows=4800, valid=500, test=1000, epochs=0)
    assert chosen(200, probe) == (0, 0, 4800)
    assert chosen(100, probe) == (0, 0, 1500)


def test_few_epochs_that_were_asked_for_stay() -> None:
    assert chosen(800, replace(JOB, epochs=0.5)) == (0.5, 0, 4800)


def test_what_was_given_up_is_told() -> None:
    found = choose(JOB, SPEED, 200, time="200s")
    assert told(JOB, found, SPEED, time="--time 200s") == (
        "--time 200s: 2 of 20 epochs, 3,120 of 4,800 rows and LoRA on the upper 8 of 30 blocks, about 3 min 0 s; "
        "all of it would take about 55 min 56 s"
    )


def test_no_time_at_all_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ConfigError) as raised:
        choose(replace(JOB, fewest=77), SPEED, 30, time="30s")
    assert raised.value.problems == [
        "--time 30s: loading the model, predicting 1,500 validation and test rows and the least training take about "
        "1 min 16 s; give more time, or use --method linear"
    ]
