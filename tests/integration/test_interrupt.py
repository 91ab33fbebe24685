"""Ctrl-C in the middle of training: the command ends in seconds with 2, and what it leaves is whole or nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lasttoken.record.folder import verify

SECONDS = 20  # for what a free machine does in two; without an end to it training would go on for hours
ENDLESS = ("method.train.epochs=100000", "method.train.patience=1000000", "method.train.schedule=constant")


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """interrupted(verb, ..., seen=..., after=...) -> (exit code, stderr).

    The command gets SIGINT `after` seconds after it said `seen`.
    """
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object, seen: str, after: float) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lasttoken.cli.main", *map(str, arguments)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that runs the tests in the background has SIGINT ignored, and a process inherits that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        assert process.stderr is not None
        said = ""
        while seen not in said:
            line = process.stderr.readline()
            assert line, f"ended before it said {seen!r}:\n{said}"
            said += line
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=SECONDS)
        return process.returncode, said + rest

    yield call
    for process in started:
        process.kill()  # where an assertion came first
        process.wait()


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def test_before_the_first_score_a_checkpoint_is_left(
    interrupted: Callable[..., tuple[int, str]], table: Path, tmp_path: Path
) -> None:
    # nine updates to the first score
    slow = settings(*ENDLESS, "method.train.batch=8", "method.train.budget=512", "method.head_init=random")
    options = ("--method", "embedding", "--model", "tiny", "--device", "cpu", "--out", "out", *slow)
    code, said = interrupted("train", table, *options, seen="embedding: training:", after=0.1)
    assert code == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        "lasttoken: stopped by Ctrl-C; a checkpoint is kept, and the same command with --resume goes on"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]


def test_after_a_score_the_best_weights_are_kept_whole(
    interrupted: Callable[..., tuple[int, str]],
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Nine scores an epoch, one or more before Ctrl-C; a fitted head might have none better than its start."""
    options = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--out", "out")
    fast = settings(*ENDLESS, "method.max_length=16", "method.train.evaluations=9", "method.head_init=random")
    code, said = interrupted("train", table, *options, *fast, seen="training, validation", after=0.5)
    assert code == 130, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("lasttoken: training stopped by Ctrl-C; the weights of update ")
    assert " are kept; best validation micro-F1 " in last
    assert last.endswith("; the same command with --resume goes on, and keeps this run as out.interrupted")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.training"]
    verify(tmp_path / "out")
    notes = json.loads((tmp_path / "out/metrics.json").read_text())["notes"]
    assert any(note.startswith("training stopped by Ctrl-C") for note in notes)
    labelled = command("predict", tmp_path / "out", table, "-o", tmp_path / "labelled.csv", "--device", "cpu")
    assert labelled.code == 0, labelled.err


def test_comparison_keeps_the_runs_that_were_finished(
    interrupted: Callable[..., tuple[int, str]],
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    words = ("--device", "cpu", "--out", tmp_path / "out")
    slow = settings(*(setting.replace("method", "embedding") for setting in ENDLESS), "embedding.train.batch=70")
    code, said = interrupted(
        "compare",
        table,
        "--methods",
        "linear,embedding",
        "--model",
        folder("llama"),
        *words,
        *slow,
        seen="embedding: training:",
        after=0.0,
    )
    assert code == 130, said
    assert "Traceback" not in said
    assert "stopped by Ctrl-C" in said.splitlines()[-1]
    assert "linear" in {path.name for path in (tmp_path / "out").iterdir()}
    assert not list(tmp_path.rglob("*.part"))
    verify(tmp_path / "out/linear")
    again = command("compare", table, "--methods", "linear", *words)
    assert again.code == 0, again.err
    assert f"linear: kept from before, {tmp_path / 'out/linear'}" in again.err


def test_comparison_that_was_stopped_can_be_given_again(
    interrupted: Callable[..., tuple[int, str]],
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The run that Ctrl-C cut short, its best weights kept, goes on by the very same command."""
    words = ("compare", table, "--methods", "embedding", "--model", folder("llama"), "--device", "cpu")
    brief = ("max_length=16", "train.epochs=20", "train.patience=180", "train.evaluations=9")
    words += ("--out", tmp_path / "out", *settings(*(f"embedding.{setting}" for setting in brief)))
    code, said = interrupted(*words, seen="training, validation", after=0.0)  # of 180 scores the first few
    assert code == 130, said
    assert (tmp_path / "out/embedding").is_dir(), said
    assert (
        f"embedding: interrupted by Ctrl-C; {tmp_path / 'out/embedding'} holds the unfinished run; the same command goes on "
        "with embedding and keeps this run as embedding.interrupted\n"
    ) in said
    shown = command("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert "embedding was interrupted: training stopped by Ctrl-C" in shown.out
    again = command(*words)
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "out/embedding/metrics.json").read_text())["end"]["how"] == "finished"
    verify(tmp_path / "out/embedding.interrupted")
    assert "more runs, which are not in this report" not in again.err


def test_training_that_was_stopped_can_be_given_again(
    interrupted: Callable[..., tuple[int, str]],
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """As with `compare`; another command is refused, and so is the same one once the run is finished."""
    words = ("train", table, "--method", "embedding", "--model", folder("llama"), "--device", "cpu")
    brief = ("max_length=16", "train.epochs=20", "train.patience=180", "train.evaluations=9")
    words += ("--out", tmp_path / "out", *settings(*(f"embedding.{setting}" for setting in brief)))
    code, said = interrupted(*words, seen="training, validation", after=0.0)
    assert code == 130, said
    assert (tmp_path / "out").is_dir(), said
    other = command(*words, "--seed", "1", "--resume")
    assert other.code == 2
    assert other.err.splitlines()[-1] == (
        f"lasttoken: {tmp_path / 'out'} holds a run that differs in seed (0 there, 1 here); name another folder with --out"
    )
    again = command(*words, "--resume")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "out/metrics.json").read_text())["end"]["how"] == "finished"
    verify(tmp_path / "out.interrupted")
    third = command(*words)
    assert third.code == 2
    assert third.err == f"lasttoken: {tmp_path / 'out'} exists; name another folder with --out, or delete it first\n"


def test_half_a_training_of_a_fold_judges_nothing(
    interrupted: Callable[..., tuple[int, str]], table: Path, tmp_path: Path
) -> None:
    slow = settings(*ENDLESS, "method.train.batch=70", "method.train.budget=512")
    options = ("--method", "embedding", "--model", "tiny", "--device", "cpu", "--folds", "2", "--out", "out", *slow)
    code, said = interrupted("train", table, *options, seen="embedding: fold 1 of 2: training:", after=4)
    assert code == 130, said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == []
