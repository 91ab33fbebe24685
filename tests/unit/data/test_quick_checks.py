"""What is said of a problem that looks wrong, and that nothing is said of one that does not."""

from __future__ import annotations

import pytest

from lasttoken.data.dataset import Rows, Splits
from lasttoken.data.quick_checks import alike, doubts, missing, unsplit
from lasttoken.data.split import make_splits


def problem(labels: list[str] | list[tuple[str, ...]], texts: list[str] | None = None, parts: str = "") -> Splits:
    """A problem whose rows are in the parts that the letters t, v and e (test) say."""
    truth = [(names,) if isinstance(names, str) else names for names in labels]
    ids = [str(i) for i in range(len(labels))]
    names = {"t": "train", "v": "valid", "e": "test"}
    splits = [names[letter] for letter in parts]
    return make_splits(Rows(ids, texts or ids, truth, not isinstance(labels[0], str), None, splits), seed=0)


def test_nothing_is_said_of_a_problem_in_order() -> None:
    assert doubts(problem(["good", "bad", "good", "bad"], parts="ttve")) == ()
    assert doubts(problem([("A", "B"), ("B",), ("A",), ()], parts="ttve"), ";") == ()


def test_texts_on_both_sides_of_a_split_are_counted() -> None:
    texts = ["one", "two", "one", "two", "one", "three"]
    found = doubts(problem(["a", "b", "a", "a", "b", "a"], texts, "ttveee"))
    assert [sentence.partition(";")[0] for sentence in found] == [
        "1 of 1 texts of valid are in train too, word for word",
        "2 of 3 texts of test are in train or valid too, word for word, 2 of them under another label",
    ]


def test_label_sets_of_equal_texts_are_compared_whole() -> None:
    labels = [("a", "b"), ("b",), ("a", "b"), ("a",)]
    (found,) = doubts(problem(labels, ["one", "two", "x", "one"], "ttve"))
    assert found.startswith("1 of 1 texts of test are in train or valid too, word for word, 1 of them under another")


@pytest.mark.parametrize(
    "names",
    [("pos", "pos "), ("Pos", "pos"), ("1", "1.0"), ("new  york", "new york"), ("ﬁne", "fine")],
)
def test_labels_that_may_be_one_are_shown(names: tuple[str, str]) -> None:
    assert repr(names[0]) in (alike([*names, "other"]) or "")
    assert repr(names[1]) in (alike([*names, "other"]) or "")


def test_labels_that_may_stand_for_none_are_shown() -> None:
    told = missing(["good", "NaN", "n/a"])
    assert told == "'NaN', 'n/a' are treated as labels; if they mean missing values, remove their rows"
    assert missing(["good", "NaN"]) == ("'NaN' is treated as a label; if it means a missing value, remove its rows")
    assert missing(["good", "nano", "nothing"]) is None


def test_labels_that_differ_are_not() -> None:
    assert (
        alike(["1", "10", "pos", "neg", "C", "C++", "C#", "1e1", "1_0", "12345678901234567890", "12345678901234567891"])
        is None
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["A", "C", "A;C", "A;D", "D;C"], "3 of 5 labels hold ';', such as 'A;C', 3 names in all;"),
        (["A", "C", "A|C", "C|A"], "--separator '|'"),
        (["['a', 'b']", "['a']", "['b']"], 'the labels look like lists written as text, such as "['),
    ],
)
def test_lists_read_as_names_are_told(names: list[str], said: str) -> None:
    assert said in (unsplit(names) or "")


@pytest.mark.parametrize(
    "names",
    [
        ["Arts, Culture", "Sports", "Science, Technology"],  # commas inside names, no piece of which comes twice
        ["A;B", "C"],
        ["a", "b"],
    ],
)
def test_names_that_hold_a_separator_are_left_alone(names: list[str]) -> None:
    assert unsplit(names) is None


def test_a_separator_that_separates_nothing_is_told() -> None:
    (found,) = doubts(problem([("A|C",), ("A",), ("C",), ("C|A",)] * 2, parts="ttttvvee"), ";")
    assert found.startswith("no row has more than one label: ';' separates nothing; 2 of 4 labels hold '|'")
    (found,) = doubts(problem([("A",), ("B",), ("A",), ("B",)], parts="ttve"), ";")
    assert found.endswith("if each row has exactly one, leave --separator out")


def test_what_to_do_depends_on_who_made_the_split() -> None:
    (given,) = doubts(problem(["a", "b", "b", "a"], ["x", "y", "z", "x"], "ttve"))
    assert given.endswith("remove them from test")
    texts = [f"text {i % 4}" for i in range(60)]
    made = doubts(
        make_splits(Rows([str(i) for i in range(60)], texts, [("ab"[i % 2],) for i in range(60)], False), seed=0)
    )
    assert all(sentence.endswith("one part: --group with the text column") for sentence in made)
    assert len(made) == 2


def test_a_text_that_train_has_under_both_labels_clashes_with_neither() -> None:
    (found,) = doubts(problem(["a", "b", "a", "b", "a"], ["x", "x", "y", "z", "x"], "tttve"))
    assert "under another label" not in found


def test_label_columns_in_which_no_row_has_a_1_are_told() -> None:
    asked = problem([("red",), ("blue",), ("red", "blue"), ()], parts="ttve")
    assert doubts(asked, None, ("red", "blue")) == ()
    assert doubts(asked, None, ("red", "grey", "blue")) == ("1 label column holds no 1 and is left out: 'grey'",)
    (found,) = doubts(asked, None, ("red", "grey", "blue", "gold"))
    assert found == "2 label columns hold no 1 and are left out: 'grey', 'gold'"
