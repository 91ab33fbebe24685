"""What an engineer does with runs that are there: verify them, list them, track them, and see whether texts drift."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lasttoken.record.folder import MANIFEST, seal


@pytest.mark.parametrize("method", ["linear", "probe", "embedding"])
def test_a_run_answers_as_it_did(method: str, runs: dict[str, Path], command: Callable[..., Any]) -> None:
    said = command("verify", runs[method], "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["sound"] is found["exact"] is True
    assert found["same"] == {"run": found["rows"]}
    assert found["rows"] > 0
    assert found["versions"] == {}


def test_a_run_of_other_libraries_is_told(runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["linear"], run)
    made = json.loads((run / "env.json").read_text())
    made["versions"]["torch"] = "1.0"
    (run / "env.json").write_text(json.dumps(made))
    (run / MANIFEST).unlink()
    seal(run)
    assert "version: torch" in command("verify", run).out


def test_a_run_that_answers_otherwise_ends_with_2(
    runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    """Every file as its manifest says, but the head is another's."""
    from safetensors.numpy import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(runs["linear"], run)
    head = load_file(run / "head.safetensors")
    save_file({**head, "weight": head["weight"][::-1].copy()}, run / "head.safetensors")
    (run / MANIFEST).unlink()
    seal(run)
    said = command("verify", run)
    assert said.code == 2
    assert "it does not answer as it did" in said.err


def test_a_link_out_of_the_folder_is_not_followed(
    runs: dict[str, Path], refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("links")
    shutil.copytree(runs["linear"], place / "run")
    (place / "run" / "policy.json").rename(place / "policy.json")
    (place / "run" / "policy.json").symlink_to(place / "policy.json")
    told = refused("verify", place / "run")
    assert (
        told
        == f"{place / 'run' / 'policy.json'}: leads out of its folder; a run holds all of its files, restore it or fit again"
    )
    assert refused("predict", place / "run", "--text-is", "x") == told


def test_runs_are_listed_best_first(runs: dict[str, Path], command: Callable[..., Any]) -> None:
    folder = runs["linear"].parent
    said = command("runs", folder, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert {Path(one["folder"]).name for one in found} == {"linear", "probe", "embedding"}
    scores = [one["score"]["estimate"] for one in found]
    assert scores == sorted(scores, reverse=True)
    table = command("runs", folder)
    assert table.out.splitlines()[0].split()[:3] == ["run", "method", "model"]
    assert "next: lasttoken report" in table.err


def test_a_folder_without_runs(command: Callable[..., Any], refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no finished runs" in command("runs", tmp_path).err
    assert "--metric: 'macro_f' is not among" in refused("runs", tmp_path, "--metric", "macro_f")
    assert "no such folder" in refused("runs", tmp_path / "no")


def test_drift_of_texts_that_are_others(
    runs: dict[str, Path], table: Path, command: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--set", "data.valid_share=0.4")
    assert command("train", table, "--method", "linear", *options, "--out", run).code == 0
    new = tmp_path / "new.csv"
    with new.open("w", newline="") as file:
        pen = csv.writer(file)
        pen.writerows([["text"], *([f"my order number {i} never arrived, please refund me today"] for i in range(60))])
    said = command("drift", run, new, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["verdict"] == "worry"
    assert {one["of"] for one in found["tests"]} == {"length", "vocabulary", "confidence", "labels", "classifier"}
    assert next(one for one in found["tests"] if one["of"] == "classifier")["effect"] > 0.95
    with new.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], ["one"], ["two"]])
    assert refused("drift", run, new) == f"{new}: 2 rows are too few to tell a change; give 20 or more"


def test_a_training_is_shown_in_tensorboard(
    table: Path, command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--track", "tensorboard")
    epochs = ("--set", "method.train.epochs=1", "--set", "method.max_length=32")
    said = command("train", table, *options, *epochs, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "run"))
    events.Reload()
    losses = {one.step: one.value for one in events.Scalars("train/loss")}
    assert losses == pytest.approx({one["update"]: one["loss"] for one in steps}, rel=1e-6)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["splits"]["test"]["metrics"]
    assert events.Scalars("test/macro_f1")[0].value == pytest.approx(scores["macro_f1"]["estimate"], rel=1e-6)


def test_a_tracker_that_fails_does_not_end_the_training(
    table: Path,
    command: Callable[..., Any],
    folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lasttoken import track

    class Broken:
        def store_init_configuration(self, values: object) -> None:
            pass

        def log(self, values: object, step: int) -> None:
            raise ConnectionError("no route")

    monkeypatch.setattr(track, "check_tracker", lambda name: None)  # as if it were installed
    options = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--track", "wandb")
    epochs = ("--set", "method.train.epochs=1", "--set", "method.max_length=32")
    with monkeypatch.context() as patch:
        patch.setattr(track, "started", lambda name, place: Broken())
        said = command("train", table, *options, *epochs, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert said.err.count("wandb does not answer (no route); training goes on without it") == 1

    def refusing(name: str, place: Path) -> None:
        raise RuntimeError("not logged in")

    monkeypatch.setattr(track, "started", refusing)
    said = command("train", table, *options, *epochs, "--out", tmp_path / "other")
    assert (said.code, "--track wandb: it cannot be started (not logged in)" in said.err) == (2, True)


def test_a_tracker_that_is_not_there_is_named(
    table: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lasttoken import track

    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    told = refused("train", table, "--method", "linear", "--track", "wandb")
    assert told == "--track wandb needs the package wandb: pip install wandb"
    assert "did you mean 'tensorboard'?" in refused("compare", table, "--track", "tensorbord")
