"""Texts and labels as Python has them: each kind is read or refused in one sentence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
from scipy import sparse

from lasttoken import LinearClassifier
from lasttoken.data.from_python import as_texts, encoded
from lasttoken.errors import DataError

NAMES = ["b", "a", "b", "c"]


@pytest.mark.parametrize(
    "texts",
    [
        ["x", "y"],
        ("x", "y"),
        (text for text in "xy"),
        np.array(["x", "y"]),
        np.array(["x", "y"], dtype=object),
        np.array([["x"], ["y"]]),
        pd.Series(["x", "y"], index=[7, 7]),
        pd.Series(["x", "y"], dtype="string"),
        pd.Index(["x", "y"]),
        pd.Categorical(["x", "y"]),
        pd.DataFrame({"body": ["x", "y"]}),
        pa.array(["x", "y"]),
        pa.chunked_array([["x"], ["y"]]),
        pa.table({"body": ["x", "y"]}),
    ],
)
def test_texts_of_every_kind_become_a_list_of_plain_strings(texts: Any) -> None:
    found = as_texts(texts)
    assert found == ["x", "y"]
    assert {type(text) for text in found} == {str}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("xy", "texts must be a list of strings, got one string; put it into a list"),
        (b"xy", "texts must be a list of strings, got one string; put it into a list"),
        ({"x": 1}, "texts must be a list, got a dict; put its values into a list, in order"),
        ({"x"}, "texts must be a list, got a set; put its values into a list, in order"),
        (7, "texts must be a list, got 7; put it into a list"),
        (None, "texts must be a list, got None; put it into a list"),
        (np.array("xy"), "an array of 0 dimensions is not a list; give one value per row"),
        (np.zeros((1, 1, 1)), "an array of 3 dimensions is not a list; give one value per row"),
        (
            pd.DataFrame({"a": ["x"], "b": ["y"]}),
            "texts must be one column, got 2; pass one, or join them into one first",
        ),
        (sparse.csr_matrix((2, 1)), "texts must be strings, got a sparse matrix; give the texts themselves, not their"),
        (["x", b"y"], "text 1 is b'y', not a string; decode it first: text.decode()"),
        (pd.Series(["x", None], dtype="string"), "text 1 is <NA>, not a string; drop or fill such rows"),
        (["x", "y\ud83d"], "text 1 holds \\ud83d, which is half a character; write the pair or remove it"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_in_one_sentence(texts: Any, said: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(said)):
        as_texts(texts)


@pytest.mark.parametrize(
    "labels",
    [
        NAMES,
        tuple(NAMES),
        iter(NAMES),
        np.array(NAMES),
        np.array(NAMES, dtype=object),
        np.array(NAMES)[:, None],
        pd.Series(NAMES, index=[3, 2, 1, 0]),
        pd.Series(NAMES, dtype="string"),
        pd.Categorical(NAMES),
        pd.DataFrame({"topic": NAMES}),
        pd.DataFrame({"topic": pd.Categorical(NAMES)}),
        pa.array(NAMES),
        pa.array(NAMES).dictionary_encode(),
    ],
)
def test_labels_of_every_kind_are_encoded(labels: Any) -> None:
    classes, targets = encoded(labels)
    assert classes.tolist() == ["a", "b", "c"]
    assert targets.tolist() == [1, 0, 1, 2]
    assert targets.dtype == np.int64


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 5, 2], dtype=np.int8),
        pd.DataFrame({"y": [2, 5, 2]}),
        pd.DataFrame({"y": pd.array([2, 5, 2], dtype="Int64")}),
        [[2], [5], [2]],
        np.array([[2.0], [5.0], [2.0]]),
        sparse.csr_matrix([[0], [1], [0]]),
        [True, False, True],
        pd.Series(pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-01"])),
        np.array(["2026-01-01", "2026-01-02", "2026-01-01"], dtype="datetime64[ns]"),
    ],
)
def test_labels_that_are_no_text_are_encoded(labels: Any) -> None:
    classes, targets = encoded(labels)
    first, second = (1, 0) if classes.dtype == bool else (0, 1)
    assert targets.tolist() == [first, second, first]


def test_a_column_of_small_integers_keeps_its_type() -> None:
    assert encoded(np.array([2, 5], dtype=np.int8))[0].dtype == np.int8


INDICATOR = [[1, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    "labels",
    [
        INDICATOR,
        np.array(INDICATOR),
        np.array(INDICATOR, dtype=float),
        list(np.array(INDICATOR)),
        sparse.csr_matrix(INDICATOR),
        sparse.coo_array(np.array(INDICATOR)),
    ],
)
def test_an_indicator_of_every_kind_is_read(labels: Any) -> None:
    classes, targets = encoded(labels)
    assert classes.tolist() == [0, 1, 2]
    assert targets.tolist() == [[True, False, True], [False, False, True]]


def test_the_columns_of_a_data_frame_name_the_classes() -> None:
    frame = pd.DataFrame({"rude": [1, 0], "angry": [0, 1], 7: [True, False]})
    classes, targets = encoded(frame)
    assert classes.tolist() == ["rude", "angry", "7"]
    assert targets.tolist() == [[True, False, True], [False, True, False]]
    again, turned = encoded(frame[[7, "angry", "rude"]], classes)
    assert (again.tolist(), turned.tolist()) == (classes.tolist(), targets.tolist())
    assert encoded(np.array([[1, 0, 0]]), classes)[1].tolist() == [[True, False, False]]
    with pytest.raises(
        DataError, match=r"the label columns are \['rude', 'sad'\], but those of training were \['rude', 'angry', '7'\]"
    ):
        encoded(pd.DataFrame({"rude": [1], "sad": [0]}), classes)
    with pytest.raises(DataError, match="two classes are named 'a'; give every class its own name"):
        encoded(pd.DataFrame([[1, 0]], columns=["a", "a"]))


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None],
        ["a", float("nan")],
        pd.Series(["a", None]),
        pd.Series(["a", None], dtype="string"),
        pd.Series([1.0, float("nan")]),
        pd.Series([True, None], dtype="boolean"),
        pd.Series(pd.to_datetime(["2026-01-01", None])),
        pd.Categorical(["a", None]),
        pa.array(["a", None]),
        np.array([1.0, np.nan]),
        pd.DataFrame({"a": pd.array([True, None], dtype="boolean"), "b": [True, False]}),
    ],
)
def test_missing_labels_of_every_kind_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="some labels are None or NaN; drop or fill such rows"):
        encoded(labels)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("abc", "labels must be a list of strings, got one string; put it into a list"),
        ({"a": 1}, "labels must be a list, got a dict"),
        (np.array(1), "an array of 0 dimensions is not a list"),
        ([b"a", b"b"], "some labels are bytes; decode them first: label.decode()"),
        (["a", 1], "some labels are text and some are not; write all of them as text, or none"),
        ([{"a": 1}, {"b": 1}], "labels such as {'a': 1} are neither names nor numbers; give text"),
        (["a", "a"], "labels hold 1 class(es): ['a']; two or more are needed"),
        ([], "labels hold 0 class(es): []; two or more are needed"),
        ([["a"], []], "labels hold 1 class(es): ['a']; two or more are needed"),
        (["a", "b\ud83d"], "label 'b\\ud83d' holds \\ud83d, which is half a character"),
        ([["a", "b\ud83d"]], "label 'b\\ud83d' holds \\ud83d, which is half a character"),
        ([[0, 1], [1]], "the labels of text 0 are [0, 1], but other texts have lists of names"),
        ([{1, 2}, {1}], "the labels of text 0 are {1, 2}, but other texts have lists of names"),
        (np.array([[0, 2], [1, 0]]), "labels with two dimensions must be 0 or 1, one column per label"),
        (np.zeros((2, 2, 2)), "an array of 3 dimensions is not a list"),
    ],
)
def test_what_are_no_labels_is_refused_in_one_sentence(labels: Any, said: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(said)):
        encoded(labels)


def test_validation_labels_are_among_those_of_training() -> None:
    classes, _ = encoded([1, 2])
    with pytest.raises(DataError, match=r"validation labels \['1'\] are not among the training labels"):
        encoded(["1"], classes)
    assert encoded([2, 1, 2], classes)[1].tolist() == [1, 0, 1]


def test_an_estimator_names_its_classes_by_columns_and_refuses_before_fitting() -> None:
    data = tiny.dataset(60, multi=True)
    texts = list(data.texts)
    frame = pd.DataFrame(data.targets.astype(int), columns=["z", "y", "x"])
    found = LinearClassifier().fit(pd.DataFrame({"body": texts}), frame)
    assert found.classes_.tolist() == ["z", "y", "x"]
    assert found.predict(texts).shape == (60, 3)
    assert found.score(texts, frame[["x", "y", "z"]]) == found.score(texts, frame)
    again = LinearClassifier()
    with pytest.raises(DataError, match="half a character"):
        again.fit([*texts, "a\ud83d"], [*"ab" * 30, "a"])
    with pytest.raises(DataError, match="half a character"):
        again.fit(texts, ["a", "b\ud83d"] * 30)
    assert not vars(again).keys() & {"predictor_", "steps_", "classes_"}
