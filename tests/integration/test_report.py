"""`lasttoken report` on finished runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_two_runs_on_one_page(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    said = command("report", runs["linear"], runs["probe"], "-o", tmp_path / "page.html")
    assert said.code == 0, said.err
    summary, verdict = said.out.splitlines()
    assert " scores highest (" in summary
    assert " beats " in verdict or verdict.startswith("no difference shown between ")
    assert said.err == f"report: {tmp_path / 'page.html'}\n"
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert summary in page
    assert "docstrings.csv: 2 runs compared</title>" in page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_metric(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    words = ("-o", tmp_path / "page.html", "--metric", "accuracy", "--json")
    said = command("report", *runs.values(), *words)
    assert said.code == 0, said.err
    comparison = json.loads(said.out)
    assert comparison["metric"] == "accuracy"
    assert {(pair["a"], pair["b"]) for pair in comparison["pairs"]} == {
        ("linear", "probe"),
        ("linear", "embedding"),
        ("probe", "embedding"),
    }


def test_single_run(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    said = command("report", runs["probe"], "-o", tmp_path / "page.html")
    assert said.code == 0, said.err
    assert re.fullmatch(r"probe scores \.\d{3} macro-F1; there is no other run to compare it with\.\n", said.out)
    assert "<title>probe" in (tmp_path / "page.html").read_text()


def test_json_of_a_single_run(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    said = command("report", runs["probe"], "-o", tmp_path / "page.html", "--json")
    assert said.code == 0, said.err
    comparison = json.loads(said.out)
    assert list(comparison["scores"]) == ["probe"]
    assert comparison["pairs"] == []


def test_page_is_written_anew(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("linear", "probe"):
        assert command("report", runs[name], "-o", tmp_path / "page.html", "--overwrite").code == 0
        assert f"<title>{name}: " in (tmp_path / "page.html").read_text()


def test_lost_page_of_a_run_is_no_damage(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    """report.html is made of the rest of a run; writing over it is no reason to refuse the run."""
    page = runs["linear"] / "report.html"
    assert command("report", runs["linear"], "-o", page, "--overwrite").code == 0
    assert command("report", runs["linear"], "-o", tmp_path / "page.html").code == 0
