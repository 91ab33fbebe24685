"""`compare --engine ray` and `predict --engine ray`: tasks and actors of a real cluster on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'lasttoken[ray]'")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_on_a_cluster_is_the_one_made_here(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        table,
        "--methods",
        "linear,probe",
        "--model",
        "tiny",
        "--seeds",
        2,
        "--json",
        "--device",
        "cpu",
    ]
    words += ["--set", "probe.max_length=48"]
    here = command(*words, "--out", tmp_path / "here")
    assert here.code == 0, here.err
    there = command(*words, "--out", tmp_path / "there", "--engine", "ray")
    assert there.code == 0, there.err
    one, other = json.loads(here.out), json.loads(there.out)
    assert one["comparison"]["summary"] == other["comparison"]["summary"]
    assert [run["name"] for run in one["runs"]] == [run["name"] for run in other["runs"]]
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        path.name for path in (tmp_path / "here").iterdir()
    }
    assert "4 of 4" in there.err
    again = command(*words, "--out", tmp_path / "there", "--engine", "ray")
    assert again.code == 0, again.err
    assert again.err.count("kept from before") == 4


def test_a_run_that_fails_on_a_cluster_is_left_out(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    words = ["compare", table, "--methods", "linear,probe", "--device", "cpu", "--set", "probe.model=/no/such/model"]
    said = command(*words, "--out", tmp_path / "out", "--engine", "ray")
    assert said.code == 2
    assert "probe left out: " in said.err
    assert (tmp_path / "out/linear/manifest.json").is_file()


def test_actors_label_as_processes_do(
    command: Callable[..., Any], runs: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_bytes(table.read_bytes())
    for method in ("linear", "embedding"):
        words = ["predict", runs[method], tmp_path / "in", "--part", 30, "--device", "cpu", "--workers", 2]
        for name, options in (("here", ()), ("there", ("--engine", "ray"))):
            said = command(*words, "-o", tmp_path / method / name, *options)
            assert said.code == 0, said.err
        assert content(tmp_path / method / "here") == content(tmp_path / method / "there")


def test_a_cluster_that_does_not_answer_is_told_at_once(
    process: Callable[..., Any], runs: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    words = ("predict", runs["linear"], table, "-o", f"{tmp_path}/out/", "--engine", "ray")
    for address, told in (("127.0.0.1:1", "Connection refused"), ("ray://127.0.0.1:1", "Connection refused")):
        done = process(*words, env=os.environ | {"RAY_ADDRESS": address})
        assert done.returncode == 2
        assert f"--engine ray: no cluster at {address} ([Errno 111] {told}); start one with" in done.stderr.decode()


def test_what_does_not_go_together_is_refused(refused: Callable[..., str], table: Path) -> None:
    assert refused("compare", table, "--engine", "spark") == "--engine: 'spark' is not among local, ray"
    assert refused("compare", table, "--gpus-per-run", 0.5) == (
        "--gpus-per-run: runs share out the GPUs of a cluster; add --engine ray"
    )
    assert refused("compare", table, "--engine", "ray", "--time", "10m") == (
        "--engine ray: a run is one process and has no time limit; leave out --time"
    )
