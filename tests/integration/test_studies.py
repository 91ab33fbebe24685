"""`study`: what `lasttoken compare` does, from Python, in the same folder and with the same verdicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lasttoken import Columns, ConfigError, Data, Embedding, Linear, make_splits, read_rows, study
from lasttoken.errors import ArtifactError


def test_study_is_compare(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    said = command("compare", table, "--methods", "linear", "--seeds", "2", "--out", tmp_path / "typed", "--json")
    assert said.code == 0, said.err
    data = Data(source=str(table), text=("text",), label=("label",))
    done = study(data, {"linear": Linear()}, tmp_path / "called", seeds=2, device="auto")
    typed = json.loads(said.out)["runs"][0]
    assert done.runs[0]["splits"] == typed["splits"]
    assert done.folders == [tmp_path / "called" / "linear"]
    assert done.report == tmp_path / "called" / "report.html"
    assert done.report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert done.failed == []
    # what one wrote the other keeps
    kept = command("compare", table, "--methods", "linear", "--seeds", "2", "--out", tmp_path / "called")
    assert kept.code == 0
    assert "linear-seed1: kept from before" in kept.err


def test_rows_of_a_table_in_memory(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = make_splits(read_rows(pd.read_csv(table), columns=Columns(("text",), None, ("label",))), seed=3)
    with caplog.at_level(logging.INFO, "lasttoken"):
        done = study(
            splits, {"rare": Linear(min_count=1), "plain": Linear()}, tmp_path / "out", seed=3, sizes=(40, None)
        )
    assert {run["name"] for run in done.runs} == {"rare", "plain"}
    assert {"rare", "plain"} == set(done.comparison["scores"])
    assert (tmp_path / "out" / "rare-40").is_dir()
    assert any(message == "study: plain-40: settings: all defaults" for message in caplog.messages)


def test_what_cannot_be_is_told_before_anything_is_written(table: Path, tmp_path: Path) -> None:
    data = Data(source=str(table))
    with pytest.raises(ConfigError, match="methods: give settings by name"):
        study(data, {}, tmp_path / "out")
    wrong: Any
    for wrong in (["linear"], {"linear": "linear"}):
        with pytest.raises(ConfigError, match="methods: "):
            study(data, wrong, tmp_path / "out")
    wrong = "all"
    with pytest.raises(ConfigError, match="sizes: 'all' is not a number of training rows; None stands for all of them"):
        study(data, {"linear": Linear()}, tmp_path / "out", sizes=(50, wrong))
    wrong = "rows.csv"
    with pytest.raises(ConfigError, match=r"data: got 'rows\.csv'; describe it"):
        study(wrong, {"linear": Linear()}, tmp_path / "out")
    with pytest.raises(ConfigError, match="'a b' names a folder"):
        study(data, {"a b": Linear()}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArtifactError, match=r"taken: .*taken is not a folder; name another with --out"):
        study(data, {"linear": Linear()}, tmp_path / "taken")
    (tmp_path / "other" / "linear").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"other/linear exists and is not a run"):
        study(data, {"linear": Linear()}, tmp_path / "other")


def test_a_method_that_cannot_run_is_told_and_left_out(table: Path, tmp_path: Path) -> None:
    methods = {"linear": Linear(), "missing": Embedding(model=str(tmp_path / "nothing"))}
    done = study(Data(source=str(table)), methods, tmp_path / "out")
    assert [run["name"] for run in done.runs] == ["linear"]
    assert len(done.failed) == 1
    assert done.failed[0].startswith("missing left out: ")
