"""The GPU's script: its steps run on a CPU at toy size, and one that fails takes no other with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
NEED_CUDA = {"tests", "compiled8b"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu

    return gpu


@pytest.mark.slow
def test_every_step_on_a_cpu(gpu: ModuleType, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--size", "toy", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *words], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "gpu.json").read_text())
    steps: dict[str, dict[str, Any]] = {entry["step"]: entry for entry in result["steps"]}
    assert list(steps) == [name for name, step in gpu.STEPS.items() if step.shown]
    assert {name: entry["error"] for name, entry in steps.items() if "error" in entry} == {}
    assert {name for name, entry in steps.items() if "skipped" in entry} == NEED_CUDA | {"quality"}
    compared = [value for value in steps["correct"]["figures"].values() if "right" in value]
    assert len(compared) == 5
    assert all(value["right"] for value in compared)
    assert steps["train8b"]["figures"]["NF4, r 8, all linear layers"]["tokens/s"] > 0
    assert "aim" in done.stdout


def planned(gpu: ModuleType, folder: Path, name: str, code: str, limit: float = 20.0, **more: Any) -> Any:
    """A step that runs a line of Python."""
    return gpu.Planned(name, [sys.executable, "-c", code], limit, folder / f"{name}.json", **more)


def entries(gpu: ModuleType, folder: Path, steps: Sequence[Any], limit: float = 100.0) -> list[dict[str, Any]]:
    """The entries of the steps, which are those in the file."""
    found: list[dict[str, Any]] = gpu.run_all(steps, limit, folder / "gpu.json", {"case": "gpu"})
    assert json.loads((folder / "gpu.json").read_text()) == {"case": "gpu", "steps": found}
    return found


def test_a_step_that_fails_takes_no_other_with_it(gpu: ModuleType, tmp_path: Path) -> None:
    kept = "{'figures': {'rate': 2.0}, 'aims': {}}"
    file = tmp_path / "slow.json"
    slow = f"import json, time; json.dump({kept}, open({str(file)!r}, 'w')); time.sleep(60)"
    steps = [
        planned(gpu, tmp_path, "broken", "raise ValueError('no such kernel')"),
        planned(gpu, tmp_path, "slow", slow, limit=2.0),
        planned(gpu, tmp_path, "killed", "import os; os.kill(os.getpid(), 11)"),
        planned(gpu, tmp_path, "lacking", "raise SystemExit(1)", skipped="needs CUDA"),
        planned(gpu, tmp_path, "good", "print('  rate: 1')"),
    ]
    broken, slow_one, killed, lacking, good = entries(gpu, tmp_path, steps)
    assert broken["error"].startswith("exit code 1: ")
    assert broken["error"].endswith("ValueError: no such kernel")
    assert slow_one["error"] == "ended after its limit of 2 s"
    assert slow_one["figures"] == {"rate": 2.0}  # what it had by then
    assert killed["error"] == "ended by SIGSEGV"
    assert lacking == {"step": "lacking", "skipped": "needs CUDA", "seconds": 0.0}
    assert set(good) == {"step", "seconds"}


def test_what_a_step_started_ends_with_it(gpu: ModuleType, tmp_path: Path) -> None:
    number = tmp_path / "number"
    child = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    )
    code = f"{child}open({str(number)!r}, 'w').write(str(p.pid)); time.sleep(60)"
    entries(gpu, tmp_path, [planned(gpu, tmp_path, "parent", code, limit=3.0)])
    status = Path(f"/proc/{number.read_text()}/status")
    for _ in range(50):
        if not status.exists() or "zombie" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the child is still running")


def test_a_step_without_time_is_left_out_and_the_last_may_take_what_is_left(gpu: ModuleType, tmp_path: Path) -> None:
    steps = [
        planned(gpu, tmp_path, "long", "raise SystemExit(1)", limit=50.0),
        planned(gpu, tmp_path, "last", "import time; time.sleep(1.5)", limit=1.0, last=True),
    ]
    long, last = entries(gpu, tmp_path, steps, limit=20.0)
    assert long["skipped"] == "no time: 50 s may be needed, 20 s are left"
    assert "error" not in last


def test_an_unknown_step_is_refused_by_name(gpu: ModuleType, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--size", "toy", "--out", str(tmp_path), "--only", "machine,train9b"]
    done = subprocess.run([sys.executable, str(BENCH / "gpu.py"), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--only: train9b is no step; known are machine, correct" in done.stderr
