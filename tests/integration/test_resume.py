"""`train --resume` after kill -9, SIGTERM and Ctrl-C: the run that an undisturbed training writes, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAME = ("adapter/lora.safetensors", "head.safetensors", "predictions/test.parquet", "policy.json")
SETTINGS = (
    "train.epochs=4",
    "train.evaluations=2",
    "train.patience=99",
    "train.lr=0.01",
    "lora.dropout=0.2",
    "max_length=64",
)
LONG = ("train.epochs=100000", "train.patience=1000000", "train.schedule=constant")


def words(table: Path, model: Path, out: Path, *more: object, settings: tuple[str, ...] = SETTINGS) -> list[str]:
    assigned = [word for setting in settings for word in ("--set", f"method.{setting}")]
    given = ["train", table, "--method", "embedding", "--model", model, "--device", "cpu", "--out", out, *assigned]
    return [str(word) for word in (*given, "--set", "method.head_init=random", "--set", "explained=0", *more)]


def same(one: Path, other: Path) -> None:
    for name in SAME:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    steps = [
        [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines.splitlines()]
        for lines in ((run / "steps.jsonl").read_text() for run in (one, other))
    ]
    assert steps[0] == steps[1]


@pytest.fixture(scope="module")
def undisturbed(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    said = command(*words(table, folder("llama"), out))
    assert said.code == 0, said.err
    return out


def ended(arguments: list[str], seen: str, kind: int, cwd: Path) -> tuple[int, str]:
    """(exit code, stderr) of a command that gets a signal once it has said `seen`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lasttoken.cli.main", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    assert process.stderr is not None
    said = ""
    while seen not in said:
        line = process.stderr.readline()
        assert line, f"ended before it said {seen!r}:\n{said}"
        said += line
    process.send_signal(kind)
    _, rest = process.communicate(timeout=60)
    return process.returncode, said + rest


@pytest.mark.slow
def test_killed_thirty_times_it_is_the_undisturbed_run(
    undisturbed: Path, table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = words(table, folder("llama"), out, "--resume", "--checkpoint-every", "0")
    environment = os.environ | {"KILLED_LOG": str(tmp_path / "log")}
    command = [sys.executable, "tests/killed.py", "30", "7", "1.6", "--", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    told, log = json.loads(done.stdout), (tmp_path / "log").read_text()
    assert told["code"] == 0, log
    assert told["kills"] >= 10, told  # it may end before all thirty
    assert "after update" in log
    assert "Traceback" not in log
    same(out, undisturbed)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]


def test_sigterm_writes_a_checkpoint_and_the_command_goes_on(
    undisturbed: Path, command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    slow = [*SETTINGS[:-1], "max_length=64"]
    given = words(table, folder("llama"), out, settings=tuple(slow))
    code, said = ended(given, "training, validation", signal.SIGTERM, tmp_path)
    if code == 0:
        pytest.skip("this machine trained before the signal came")
    assert code == 143, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("lasttoken: stopped by SIGTERM after update ")
    assert said.splitlines()[-1].endswith(
        f", which {out}.training holds; to go on give the same command again, `train` with --resume"
    )
    assert not out.exists()
    refused = command(*given)
    assert refused.code == 2
    assert refused.err.rstrip().endswith(
        f"{out}.training holds a training that was not finished; go on with --resume, or delete that folder"
    )
    again = command(*given, "--resume")
    assert again.code == 0, again.err
    assert f"resumes {out}.training after update" in again.err
    same(out, undisturbed)
    assert not out.with_name("run.training").exists()
    finished = command(*given, "--resume")
    assert (finished.code, "finished before" in finished.err) == (0, True)


def test_ctrl_c_keeps_the_best_so_far_and_a_checkpoint(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    given = words(table, folder("llama"), out, settings=LONG)
    code, said = ended(given, "training, validation", signal.SIGINT, tmp_path)
    assert code == 130, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("lasttoken: training stopped by Ctrl-C; the weights of update ")
    assert last.endswith(f"; the same command with --resume goes on, and keeps this run as {out}.interrupted")
    assert (out / "adapter").is_dir()
    other = command(*words(table, folder("llama"), out, "--resume", "--seed", "9", settings=LONG))
    assert other.code == 2
    assert "differs in seed" in other.err


def test_a_checkpoint_of_another_training_is_refused(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, said = ended(
        words(table, folder("llama"), out, settings=LONG), "training, validation", signal.SIGTERM, tmp_path
    )
    assert code == 143, said
    more = ("train.lr=0.5", *LONG)
    other = command(*words(table, folder("llama"), out, "--resume", settings=more))
    assert other.code == 2
    assert other.err.rstrip().endswith(
        f"{out}.training holds a training that differs in method.train.lr (auto there, 0.5 here); "
        "give its command again, or delete that folder"
    )
    shorter = table.with_name("shorter.csv")
    shorter.write_text("".join(table.read_text().splitlines(keepends=True)[:-2]))
    shutil.move(shorter, tmp_path / table.name)
    other = command(*words(tmp_path / table.name, folder("llama"), out, "--resume", settings=LONG))
    assert other.code == 2
    assert "differs in data.source" in other.err


@pytest.mark.slow
def test_compare_goes_on_inside_a_run(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    given = ["compare", table, "--methods", "linear,embedding", "--model", folder("llama"), "--device", "cpu", "--out"]
    settings = [
        word
        for one in ("train.epochs=60", "train.patience=999", "max_length=64")
        for word in ("--set", f"embedding.{one}")
    ]
    whole = [str(word) for word in (*given, tmp_path / "out", *settings)]
    code, said = ended(whole, "embedding: training, validation", signal.SIGTERM, tmp_path)
    assert code == 143, said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["embedding.training", "linear"]
    again = command(*whole)
    assert again.code == 0, again.err
    assert "embedding: resumes" in again.err
    assert not (tmp_path / "out" / "embedding.training").exists()


@pytest.mark.slow
def test_two_processes_stop_at_the_same_update_and_go_on(
    process: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = ("train.epochs=60", "train.patience=999", "max_length=64")
    given = words(table, folder("llama"), out, "--gpus", 2, settings=settings)
    code, said = ended(given, "training, validation", signal.SIGTERM, tmp_path)
    assert code == 143, said
    assert "Traceback" not in said
    again = process(*given, "--resume")
    assert again.returncode == 0, again.stderr
    assert b"resumes" in again.stderr
    assert out.is_dir()
