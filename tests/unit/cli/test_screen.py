"""Lines where there is no terminal, a bar where there is one, silence in every process but the first."""

from __future__ import annotations

import io
import re
import sys

import pytest

from lasttoken.cli import screen as screens
from lasttoken.cli.screen import Screen

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|9[0-7])[;m]")


class Terminal(io.StringIO):
    """What stderr is when someone sits in front of it."""

    def isatty(self) -> bool:
        return True


def test_notes_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        journal = screen.journal("probe")
        journal.note("layer 3 of 6")
    assert journal.notes == ["layer 3 of 6"]
    assert capsys.readouterr() == ("", "probe: layer 3 of 6\n")


def test_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 0.0, 10.0, 11.0, 20.0, 40.0])  # one for the start, then one each time
    monkeypatch.setattr(screens.time, "monotonic", lambda: next(seconds))
    with Screen() as screen:
        for done, what in enumerate(["training", "training", *3 * ["training, micro_f1 0.5"]], start=1):
            screen.progress("embedding", what, done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "embedding: training, micro_f1 0.5, 3 of 10, about 26 s left",  # told at once
        "embedding: training, micro_f1 0.5, 5 of 10, about 40 s left",
    ]


def test_where_the_end_is_not_known_none_is_promised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(screens.time, "monotonic", lambda: next(seconds))
    with Screen() as screen:
        screen.progress("predict", "rows", 4096, 0)
        screen.progress("predict", "rows", 8192, 0)
    assert capsys.readouterr().err == "predict: rows, 8192 in 20 s\n"


def test_new_task_starts_its_own_clock(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 0.0, 100.0, 110.0])
    monkeypatch.setattr(screens.time, "monotonic", lambda: next(seconds))
    with Screen() as screen:
        screen.progress("probe", "reading", 1, 10)
        screen.progress("probe", "trying layers", 1, 10)
        screen.progress("probe", "trying layers", 2, 10)
    assert capsys.readouterr().err == ""


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(loud=False) as screen:
        journal = screen.journal("probe")
        journal.note("layer 3 of 6")
        journal.progress("trying layers", 1, 6)
    assert journal.notes == ["layer 3 of 6"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("colour", [True, False])
def test_no_color_is_heeded_on_a_terminal(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with Screen() as screen:
        journal = screen.journal("embedding")
        journal.progress("training", 1, 10)
        journal.note("a [bold]note[/bold] of an array [1, 2]")
        journal.progress("training, micro_f1 0.500", 5, 10)
    said = terminal.getvalue()
    assert "embedding: a [bold]note[/bold] of an array [1, 2]\n" in said  # brackets are text
    assert "5/10" in said
    assert bool(COLOUR.search(said)) is colour


def test_bar_is_gone_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")

    def fail() -> None:
        with Screen() as screen:
            screen.progress("probe", "trying layers", 1, 6)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased
    assert "\x1b[?25h" in terminal.getvalue()  # and the cursor is back
