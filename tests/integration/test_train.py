"""`lasttoken train` on real rows: every method, every shape of truth, and what a run folder holds."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from lasttoken import Predictions, load
from lasttoken.evaluation.gaining import Gain
from lasttoken.evaluation.predictions import read_predictions
from lasttoken.record.folder import verify

FAST = ("--device", "cpu", "--set", "method.max_length=48")
ONE_EPOCH = ("--set", "method.train.epochs=1")
EVERY_RUN = {
    "config.toml", "env.json", "explained.jsonl", "labels.json", "manifest.json", "method.json", "metrics.json",
    "predictions/test.parquet", "policy.json", "predictions/valid.parquet", "report.html", "splits.parquet", "steps.jsonl",
}  # fmt: skip
ADAPTER = {"adapter/lora.json", "adapter/lora.safetensors"}
ENCODER = {
    f"encoder/{name}" for name in ("encoder.json", "encoder.safetensors", "tokenizer.json", "tokenizer_config.json")
}
OWN = {
    "linear": {"head.safetensors", "vocabulary.json"},
    "probe": {"head.safetensors"},
    "embedding": {"head.safetensors", *ADAPTER},
    "instruction": ADAPTER,
    "encoder": {"head.safetensors", *ENCODER},
}


@pytest.fixture(scope="module")
def all_runs(
    command: Callable[..., Any],
    runs: dict[str, Path],
    table: Path,
    folder: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A run of each method; those of two are made here."""
    out = tmp_path_factory.mktemp("more")
    options = {
        "instruction": ("--model", folder("llama"), "--device", "cpu", "--set", "method.max_length=160"),
        "encoder": ("--model", folder("bert"), *FAST),
    }
    for method, more in options.items():
        said = command("train", table, "--method", method, "--out", out / method, *more, *ONE_EPOCH)
        assert said.code == 0, said.err
    return {**runs, **{method: out / method for method in options}}


@pytest.mark.parametrize("method", list(OWN))
def test_run_folder_holds_its_files_and_they_can_be_read(all_runs: dict[str, Path], method: str) -> None:
    run = all_runs[method]
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == EVERY_RUN | OWN[method]
    verify(run)
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["method"]["method"] == method
    used = None if method == "linear" else os.environ["LASTTOKEN_PRECISION"]
    assert config["method"].get("precision", "auto") == "auto"  # resolved below, where it is used again
    assert json.loads((run / "method.json").read_text())["config"].get("precision") == used
    assert json.loads((run / "env.json").read_text())["precision"] == used
    for name in names:
        path = run / name
        if path.suffix == ".json":
            assert json.loads(path.read_text())
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as tensors:
                assert list(tensors.keys())
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    updates = {"embedding": 9, "instruction": 9, "encoder": 5}  # of 70 rows, 8 an update, 16 for the encoder
    assert len(steps) == updates.get(method, 0)
    splits = pq.read_table(run / "splits.parquet").to_pydict()
    assert [splits["split"].count(part) for part in ("train", "valid", "test")] == [70, 10, 20]
    assert sorted(map(int, splits["id"])) == list(range(100))


@pytest.mark.parametrize("method", list(OWN))
def test_saved_run_predicts_what_it_was_judged_by(all_runs: dict[str, Path], method: str) -> None:
    kept = all_runs[method] / "predictions/test.parquet"
    judged: Predictions = read_predictions(kept)
    texts = pq.read_table(kept)["text"].to_pylist()
    classifier = load(all_runs[method], device="cpu")
    assert classifier.classes_.tolist() == ["numpy", "pandas", "python", "torch"]
    # bit for bit: the same weights, the same batches, the same machine
    assert np.array_equal(classifier.predict_proba(texts), judged.probs)


@pytest.mark.parametrize("method", list(OWN))
def test_report_of_a_run_stands_alone(all_runs: dict[str, Path], method: str) -> None:
    page = (all_runs[method] / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert method in page
    assert page.count("<script") == 1  # which sorts tables, and which the page's policy names by its digest
    assert "src=" not in page.replace('src="data:', "")


def test_setting_one_value_keeps_the_defaults_of_the_method_for_the_rest(all_runs: dict[str, Path]) -> None:
    """`--set method.train.epochs=1` was all that was said."""
    config = {
        name: tomllib.loads((all_runs[name] / "config.toml").read_text())["method"]
        for name in ("encoder", "instruction")
    }
    assert config["encoder"]["train"] | {"epochs": 5.0} == {
        "epochs": 5.0,
        "lr": 5e-5,
        "schedule": "linear",
        "warmup": 0.1,
        "batch": 16,
        "budget": 8192,
        "checkpointing": "auto",
        "shard": False,
        "compile": False,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "clip": 1.0,
        "metric": "micro_f1",
        "evaluations": 1,
        "patience": "auto",
    }
    assert config["instruction"]["train"]["schedule"] == "cosine"
    assert config["instruction"]["train"]["optimizer"] == "paged_adamw32bit"


def test_the_same_command_gives_the_same_run(
    command: Callable[..., Any], runs: dict[str, Path], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    options = ("--method", "embedding", "--model", folder("llama"), *FAST, *ONE_EPOCH)
    said = command("train", table, *options, "--out", tmp_path / "again")
    assert said.code == 0, said.err
    for name in ("head.safetensors", "adapter/lora.safetensors", "predictions/test.parquet", "splits.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (runs["embedding"] / name).read_bytes(), name


def test_words_go_to_stderr_and_the_result_to_stdout(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    said = command("train", table, "--method", "linear", "--out", tmp_path / "out")
    assert said.code == 0
    first, *lines = said.out.splitlines()
    assert first == "out on 20 test rows, 4 labels (95 % intervals)"
    assert [line.split()[0] for line in lines[:3]] == ["accuracy", "macro-F1", "micro-F1"]
    assert "linear: 70 train, 10 valid, 20 test rows; made here: 70/10/20 stratified by label, seed 0" in said.err
    assert f"next: lasttoken predict {tmp_path / 'out'} NEW.csv -o labelled.csv" in said.err.splitlines()[-1]


def test_a_training_that_was_still_gaining_is_told(
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lasttoken.evaluation.gaining.gain_at_end", lambda *_, **__: Gain(0.6, 0.8, 1.0))
    options = ("--method", "embedding", "--model", folder("llama"), *FAST, *ONE_EPOCH)
    said = command("train", table, *options, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert (
        "\nrun was still gaining at its end (validation micro-F1 .600 to .800 in the last epoch): more epochs may raise it\n"
        "report: "
    ) in said.err


def test_json(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    said = command("train", table, "--method", "linear", "--out", tmp_path / "out", "--json")
    assert said.code == 0
    assert json.loads(said.out)["splits"] == json.loads((tmp_path / "out/metrics.json").read_text())["splits"]
    assert 0.25 < json.loads(said.out)["splits"]["test"]["metrics"]["macro_f1"]["estimate"] <= 1  # chance is .25


def tags(row: dict[str, str]) -> list[str]:
    """Several labels of a docstring: its library, and whether a class or something else is described."""
    return sorted([row["label"], "class" if row["name"].rpartition(".")[2][:1].isupper() else "other"])


LABELS = ["class", "numpy", "other", "pandas", "python", "torch"]


@pytest.mark.parametrize("shape", ["separator", "columns"])
@pytest.mark.parametrize("method", ["linear", "embedding"])
def test_several_labels_a_row(
    command: Callable[..., Any],
    write: Callable[..., Path],
    rows: Sequence[dict[str, str]],
    folder: Callable[..., Path],
    tmp_path: Path,
    shape: str,
    method: str,
) -> None:
    if shape == "separator":
        content = [{"text": row["text"], "tags": "|".join(tags(row))} for row in rows]
        label = ("--label", "tags", "--separator", "|")
    else:
        content = [{"text": row["text"], **{name: int(name in tags(row)) for name in LABELS}} for row in rows]
        label = ("--label", ",".join(LABELS))
    path = write(tmp_path / "rows.csv", content)
    more = () if method == "linear" else ("--model", folder("llama"), *FAST, *ONE_EPOCH)
    said = command("train", path, *label, "--method", method, *more, "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    judged = read_predictions(tmp_path / "out/predictions/test.parquet")
    assert judged.labels.names == tuple(LABELS)
    assert judged.labels.multi
    wanted = [tags(rows[int(i)]) for i in judged.ids]
    assert [list(names) for names in judged.labels.decode_sets(judged.targets)] == wanted
    labelled = command("predict", tmp_path / "out", path, "--device", "cpu", "-o", tmp_path / "new.jsonl")
    assert labelled.code == 0, labelled.err
    found = [json.loads(line)["predicted_label"] for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert len(found) == 100
    assert {name for names in found for name in names} <= set(LABELS)


def test_files_of_their_own_are_the_parts(
    command: Callable[..., Any], write: Callable[..., Path], rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    write(tmp_path / "train.csv", rows[:60])
    write(tmp_path / "valid.csv", rows[60:75])
    write(tmp_path / "test.csv", rows[75:])
    given = ("--valid", tmp_path / "valid.csv", "--test", tmp_path / "test.csv", "--id", "name")
    said = command("train", tmp_path / "train.csv", *given, "--method", "linear", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "60 train, 15 valid, 25 test rows; given: train, valid and test" in said.err
    assert list(read_predictions(tmp_path / "out/predictions/test.parquet").ids) == [row["name"] for row in rows[75:]]


def test_split_column_and_made_validation(
    command: Callable[..., Any], write: Callable[..., Path], rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    content = [row | {"part": "test" if i % 4 == 0 else "train"} for i, row in enumerate(rows)]
    path = write(tmp_path / "rows.csv", content)
    said = command("train", path, "--split", "part", "--method", "linear", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert list(map(int, read_predictions(tmp_path / "out/predictions/test.parquet").ids)) == list(range(0, 100, 4))
    assert "given: train and test; valid made here: 10% of train stratified by label, seed 0" in said.err


def test_groups_stay_together(
    command: Callable[..., Any], table: Path, rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    said = command("train", table, "--group", "module", "--method", "linear", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "by group, balanced by label" in said.err
    homes: dict[str, set[str]] = {}
    for row in pq.read_table(tmp_path / "out/splits.parquet").to_pylist():
        homes.setdefault(rows[int(row["id"])]["module"], set()).add(row["split"])
    assert all(len(parts) == 1 for parts in homes.values())
    assert {part for parts in homes.values() for part in parts} == {"train", "valid", "test"}


def test_several_text_columns_and_a_template(
    command: Callable[..., Any], table: Path, rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    options = ("--text", "name,text", "--template", "{name}: {text}", "--method", "linear")
    said = command("train", table, *options, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    kept = pq.read_table(tmp_path / "out/predictions/test.parquet").to_pylist()
    assert all(row["text"] == f"{rows[int(row['id'])]['name']}: {rows[int(row['id'])]['text']}" for row in kept)


def test_rows_without_text_can_be_left_out(
    command: Callable[..., Any], write: Callable[..., Path], rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.csv", [row | {"text": " "} if i in (3, 7) else row for i, row in enumerate(rows)])
    said = command("train", path, "--drop-empty", "--method", "linear", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert f"linear: {path}: 2 rows without text left out" in said.err
    ids = pq.read_table(tmp_path / "out/splits.parquet")["id"].to_pylist()
    assert sorted(map(int, ids)) == [i for i in range(100) if i not in (3, 7)]


def test_zero_shot_trains_nothing(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    options = ("--method", "instruction", "--zero-shot", "--model", folder("llama"), "--device", "cpu")
    said = command("train", table, *options, "--set", "method.max_length=160", "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["cost"]["trainable_parameters"] == 0
    assert "nothing was trained (zero-shot)" in said.err


def test_labels_below_one_another_are_learnt_judged_and_predicted_together(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    leaves = {
        "fruit/pome": "apple pear",
        "fruit/stone": "plum peach",
        "tool/hand": "saw rasp",
        "tool/power": "drill sander",
    }
    lines = ["text,label"]
    for i in range(240):
        leaf = list(leaves)[i % 4]
        words = leaves[leaf].split()
        lines.append(f"{words[i % 2]} {words[i // 2 % 2]} number {i % 7},{leaf}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    asked = (tmp_path / "rows.csv", "--method", "linear", "--separator", ";", "--hierarchy", "/")
    said = command("train", *asked, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert "hierarchical F1" in said.out
    done = command("predict", tmp_path / "run", tmp_path / "rows.csv", "-o", tmp_path / "out.csv")
    assert done.code == 0, done.err
    found = {line.rsplit(",", 1)[1] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]}
    assert {"fruit;fruit/pome", "tool;tool/power"} <= found
    flat = command("train", *asked[:3], "--hierarchy", "/", "--out", tmp_path / "flat", "--json")  # one label a row
    assert flat.code == 0, flat.err
    further = {one["name"]: one for one in json.loads(flat.out)["splits"]["test"]["further"]}
    assert further["hierarchical_f1"]["estimate"] > 0.9
    assert command("train", *asked[:3], "--hierarchy", ">", "--out", tmp_path / "none").code == 2


def test_a_time_is_kept_to_and_told(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A model of two blocks, measured here: one epoch fits, and a second command is refused for its time."""
    words = ("train", table, "--method", "embedding", "--model", folder("llama"), "--device", "cpu")
    short = ("--set", "method.train.epochs=1", "--set", "method.max_length=48")
    said = command(*words, *short, "--time", "5m", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert "embedding: --time 5m: all of it fits, 1 epoch of 70 rows take about " in said.err
    notes = json.loads((tmp_path / "out/metrics.json").read_text())["notes"]
    assert any(note.startswith("--time 5m: ") for note in notes)
    assert "time" not in tomllib.loads((tmp_path / "out/config.toml").read_text())["method"]["train"]
    late = command(*words, *short, "--time", "1s", "--out", tmp_path / "late")
    assert late.code == 2
    assert (
        "--time 1s: loading the model, predicting 30 validation and test rows and the least training take" in late.err
    )
    wrong = command(*words, "--time", "ten minutes", "--out", tmp_path / "late")
    assert (wrong.code, wrong.err.splitlines()[-1]) == (
        2,
        "lasttoken: --time: 'ten minutes' is no duration; write it as 90s, 10m or 1h30m",
    )
    assert not (tmp_path / "late").exists()
