"""`lasttoken explain`: why a text got its label, from the command line, from Python and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lasttoken import load


@pytest.mark.parametrize("method", ["linear", "embedding"])
def test_words_and_their_weights(command: Callable[..., Any], runs: dict[str, Path], method: str) -> None:
    said = command("explain", runs[method], "Return the number of rows.", "--words", "3", "--device", "cpu")
    assert said.code == 0, said.err
    first, *words = said.out.splitlines()
    assert first.endswith("by removal" if method == "linear" else "by gradients")
    assert len(words) == 3
    weights = [abs(float(line.split()[0])) for line in words]
    assert weights == sorted(weights, reverse=True)
    assert "log-odds" in said.err


def test_json_holds_every_word(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    text = "Return the number of rows."
    labels = load(runs["linear"]).classes_.tolist()
    said = command("explain", runs["linear"], text, "--label", ",".join(labels[:2]), "--json")
    found = json.loads(said.out)
    assert [one["label"] for one in found] == labels[:2]
    assert [word["word"] for word in found[0]["words"]] == text.split()
    named = command("explain", runs["linear"], "--text-is", text, "--label", ",".join(labels[:2]), "--json")
    assert named.out == said.out
    for wrong in ((), (text, "--text-is", text)):
        assert "give one text to explain" in command("explain", runs["linear"], *wrong).err
    again = load(runs["linear"]).explain(text, labels[:1])[0]
    assert [word["score"] for word in found[0]["words"]] == pytest.approx(again.scores)


def test_a_text_that_is_too_long_for_the_name_of_a_file(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    """Two bytes a letter: no file could be named so, and asking whether one is must not fail."""
    text = "Пришло сломанным, дважды. " * 6
    assert len(text) < 256 < len(text.encode())
    said = command("explain", runs["linear"], text)
    assert said.code == 0, said.err


def test_text_from_standard_input(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    said = command("explain", runs["linear"], "-", stdin=b"Return the number of rows.")
    assert said.code == 0, said.err
    assert "Return" in said.out
    assert command("explain", runs["linear"], "-", "--json", stdin=b"one row\r\n").out == (
        command("explain", runs["linear"], "one row", "--json").out  # a line's end is no part of the text
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("",), "the text is empty"),
        (("a text", "--label", "nonsense"), "1 unknown label(s) 'nonsense'"),
        (("a text", "--by", "magic"), "--by: 'magic' is not among auto, gradients, removal"),
        (("a text", "--by", "gradients"), "a linear model has none; use --by removal"),
    ],
)
def test_mistakes_are_told(
    command: Callable[..., Any], runs: dict[str, Path], words: tuple[str, ...], problem: str
) -> None:
    said = command("explain", runs["linear"], *words)
    assert said.code == 2
    assert problem in said.err.splitlines()[-1]


def test_the_report_marks_words_of_the_surest_mistakes(runs: dict[str, Path]) -> None:
    lines = (runs["embedding"] / "explained.jsonl").read_text().splitlines()
    assert 0 < len(lines) <= 5
    assert all(len(one["words"]) == len(one["scores"]) for one in map(json.loads, lines))
    assert '<mark class="' in (runs["embedding"] / "report.html").read_text()
