"""`lasttoken demo`: the whole job on what is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lasttoken.cli.compare import method_configs
from lasttoken.cli.demo import METHODS, SETTINGS

pytestmark = pytest.mark.slow


def test_demo_compares_methods_on_docstrings(command: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = command("demo", "--rows", 120, "--methods", "linear,probe", "--out", out)
    assert said.code == 0, said.err
    assert {path.name for path in out.iterdir()} == {"linear", "probe", "report.html", "docstrings.csv"}
    assert "label = library, names masked, split by module" in said.err
    assert " scores highest (" in said.out
    facts = json.loads((out / "linear/env.json").read_text())
    assert facts["data"]["source"] == "docstrings of installed libraries"
    assert sum(facts["data"]["rows"].values()) == 120
    texts = pq.read_table(out / "linear/predictions/test.parquet")["text"].to_pylist()
    assert not any("numpy" in text.lower() or "pandas" in text.lower() for text in texts)


def test_demo_can_be_used_at_once(command: Callable[..., Any], tmp_path: Path) -> None:
    said = command("demo", "--rows", 100, "--methods", "linear", "--out", tmp_path / "demo", "--json")
    assert said.code == 0, said.err
    assert [run["name"] for run in json.loads(said.out)["runs"]] == ["linear"]
    checked = command("check", tmp_path / "demo/docstrings.csv", "--text", "docstring", "--label", "library")
    assert "docstrings.csv: 100 rows" in checked.out
    (tmp_path / "new.csv").write_text("text\nReturn the eigenvalues of a matrix.\n")
    labelled = command("predict", tmp_path / "demo/linear", tmp_path / "new.csv")
    assert labelled.code == 0, labelled.err
    assert labelled.out.startswith("text,predicted_label,predicted_probability\n")


def test_the_settings_of_every_method_are_ones_it_has() -> None:
    configs = method_configs(
        METHODS,
        {"source": "docstrings"},
        model="tiny",
        encoder="anything",
        quantize=None,
        seed=0,
        device="auto",
        settings=list(SETTINGS),
    )
    assert configs["embedding"].method.model_dump()["train"]["epochs"] == 4
    assert configs["zero-shot"].method.model_dump()["train_model"] is False
    assert configs["encoder"].method.model_dump()["train"]["epochs"] == 6
