"""Learning-rate schedules at the points that define them."""

import pytest

from lasttoken.train.schedule import schedule


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_shapes_without_warmup(name: str, wanted: list[float]) -> None:
    factor = schedule(name, warmup=0.0)
    assert [factor(p) for p in (0.0, 0.25, 0.5, 0.75)] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_warmup_rises_from_a_little_to_one(name: str) -> None:
    factor = schedule(name, warmup=0.2)
    assert factor(0.0) == pytest.approx(0.001 / 0.201)
    assert factor(0.1) == pytest.approx(0.101 / 0.201)
    assert factor(0.2) == 1.0


def test_what_falls_begins_after_the_warmup() -> None:
    assert schedule("linear", warmup=0.2)(0.6) == pytest.approx(0.5)
    assert schedule("cosine", warmup=0.2)(0.6) == pytest.approx(0.5)


def test_an_unknown_name_is_no_schedule() -> None:
    with pytest.raises(KeyError, match="step"):
        schedule("step", warmup=0.0)
