import pytest

from lasttoken.wording import figure, listed, p_value, span, there_and_here


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0312, ".031"), (-0.011, "-.011"), (1.25, "1.250"), (0.9996, "1.000"), (-0.0001, ".000"), (10.5, "10.500")],
)
def test_figure(value: float, said: str) -> None:
    assert figure(value) == said


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.0004, "p < .001"), (0.001, "p = .001"), (0.0482, "p = .048"), (0.61, "p = .61"), (1.0, "p = 1.00")],
)
def test_p_value(p: float, said: str) -> None:
    assert p_value(p) == said


def test_span() -> None:
    assert span(-0.011, 0.019) == "[-.011, .019]"


def test_a_setting_that_differs_is_one_line() -> None:
    assert there_and_here("folds", 3, None) == "folds (3 there, not given here)"
    assert there_and_here("suffix", "", "\nTopic:") == r"suffix ('' there, '\nTopic:' here)"
    assert there_and_here("dora", True, False, ("in a", "in b")) == "dora (true in a, false in b)"
    assert there_and_here("source", "a" * 31, "b") == "source"


def test_listed() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
