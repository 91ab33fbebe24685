"""What a generated answer is taken to say."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lasttoken.infer.generation import parse
from lasttoken.labels import LabelSpace
from lasttoken.text.prompt import Prompt

NAMES = ("sport", "sports car", "trade")


def prompt_for(names: tuple[str, ...]) -> Prompt:
    return cast("Any", SimpleNamespace(texts=[f" {name}" for name in names], separator=", "))


@pytest.mark.parametrize(
    ("answer", "columns", "invalid"),
    [
        (" trade", [2], False),
        ("TRADE\n", [2], False),
        (" sports car", [1], False),
        (" it is about sports cars", [1], False),  # the longest of the labels inside
        (" sporting goods", [0], False),
        (" weather", [], True),
        ("", [], True),
    ],
)
def test_one_label_a_row(answer: str, columns: list[int], invalid: bool) -> None:
    assert parse(answer, prompt_for(NAMES), LabelSpace(NAMES)) == (columns, invalid)


@pytest.mark.parametrize(
    ("separator", "answer", "columns"),
    [("\n", " New York\nRome", [0, 1]), (" AND ", " New York AND Rome", [0, 1]), (";", " rome", [1])],
)
def test_labels_are_divided_where_the_separator_stands(separator: str, answer: str, columns: list[int]) -> None:
    names = ("New York", "Rome")
    prompt = cast("Any", SimpleNamespace(texts=[" New York", " Rome"], separator=separator))
    assert parse(answer, prompt, LabelSpace(names, multi=True)) == (columns, False)


@pytest.mark.parametrize(
    ("answer", "columns", "invalid"),
    [
        (" sport, trade", [0, 2], False),
        (" none", [], False),
        (" trade, weather", [2], True),  # what is named counts, and the answer is still no valid one
        (" sportive", [], True),
    ],
)
def test_several_labels_a_row(answer: str, columns: list[int], invalid: bool) -> None:
    assert parse(answer, prompt_for(NAMES), LabelSpace(NAMES, multi=True)) == (columns, invalid)
