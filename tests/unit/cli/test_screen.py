"""Lines where there is no terminal, a bar where there is one, silence in every process but the first."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest

from lasttoken.cli import screen as screens
from lasttoken.cli.screen import Screen
from lasttoken.journal import LOGGER

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


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    seen = {0.0: "training", 10.0: "training", **dict.fromkeys((11.0, 20.0, 40.0), "training, micro_f1 0.5")}
    for done, (clock.now, what) in enumerate(seen.items()):
        screen.progress("embedding", what, done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "embedding: training, micro_f1 0.5, 2 of 10, about 44 s left",  # told at once
        "embedding: training, micro_f1 0.5, 4 of 10, about 60 s left",
    ]


def test_an_estimate_of_the_whole_may_change_on_the_way(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    for clock.now, done, whole in ((0.0, 0, 900), (10.0, 100, 900), (20.0, 200, 1000), (40.0, 400, 1000)):
        screen.progress("predict", "rows", done, whole)
    assert capsys.readouterr().err.splitlines() == [
        "predict: rows, 200 of 1,000, about 80 s left",
        "predict: rows, 400 of 1,000, about 60 s left",
    ]


def test_resumed_work_counts_from_where_it_began(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    for clock.now, done in ((0.0, 50), (20.0, 60)):
        screen.progress("embedding", "training", done, 100)
    assert capsys.readouterr().err == "embedding: training, 60 of 100, about 80 s left\n"


def test_where_the_end_is_not_known_none_is_promised(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    screen.progress("predict", "rows", 4096, 0)
    clock.now = 20.0
    screen.progress("predict", "rows", 8192, 0)
    assert capsys.readouterr().err == "predict: rows, 8,192, 20 s so far\n"


def test_new_task_starts_its_own_clock(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    for clock.now, what, done in ((0.0, "reading", 1), (100.0, "trying layers", 1), (110.0, "trying layers", 2)):
        screen.progress("probe", what, done, 10)
    assert capsys.readouterr().err == ""


def test_training_goes_on_with_its_clock_after_each_validation(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    """The time left holds the validations; each of these has a clock of its own."""
    screen = Screen(clock=clock)
    for clock.now, what, done, total in (
        (0.0, "training", 0, 4),
        (10.0, "validating", 0, 50),
        (20.0, "training, micro-F1 .5", 1, 4),
        (30.0, "validating", 0, 50),
        (46.0, "validating", 40, 50),
    ):
        screen.progress("embedding", what, done, total)
    clock.now = 50.0
    screen.progress("embedding", "training, micro-F1 .5", 2, 4)
    screen.tick()
    clock.now = 51.0
    screen.tick()
    assert capsys.readouterr().err.splitlines() == [
        "embedding: training, micro-F1 .5, 1 of 4, about 60 s left",  # a new score is told at once
        "embedding: validating, 40 of 50, about 4 s left",
        "embedding: training, micro-F1 .5, 2 of 4, about 51 s left",
    ]


def test_a_stage_that_reports_nothing_is_named_soon_and_then_now_and_again(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    screen = Screen(clock=clock)
    screen.progress("embedding", "loading smollm2", 0, 0)
    said = []
    for clock.now in (0.5, 1.0, 1.5, 15.5, 16.0, 30.0, 31.0, 135.0):
        screen.progress("embedding", "loading smollm2", 0, 0)  # told again, it is the same stage
        screen.tick()
        said.append(capsys.readouterr().err)
    assert said == [
        "",
        "embedding: loading smollm2\n",
        "",
        "",
        "embedding: loading smollm2, 16 s so far\n",
        "",
        "embedding: loading smollm2, 31 s so far\n",
        "embedding: loading smollm2, 2 min 15 s so far\n",
    ]


def test_what_is_over_is_not_named(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    screen = Screen(clock=clock)
    screen.tick()
    screen.progress("embedding", "training", 10, 10)
    clock.now = 99.0
    screen.tick()
    assert capsys.readouterr().err == ""


def test_a_screen_looks_by_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "TICK", 0.01)
    monkeypatch.setattr(screens, "SOON", 0.0)
    with Screen() as screen:
        screen.progress("embedding", "loading tiny", 0, 0)
        assert screen.stage is not None
        for _ in range(1000):
            if screen.stage.told:
                break
            threading.Event().wait(0.01)
    assert capsys.readouterr().err == "embedding: loading tiny\n"
    assert not screen.watch.is_alive()


def test_what_the_package_logs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    level = LOGGER.level
    with Screen():
        LOGGER.info("%s: de-quantising to bfloat16 (once)", "a.gguf")
    LOGGER.info("not this")
    assert capsys.readouterr().err == "a.gguf: de-quantising to bfloat16 (once)\n"
    assert LOGGER.level == level


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
