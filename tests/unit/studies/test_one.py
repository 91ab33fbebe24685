"""From a config to a run folder and a report, with the one method that needs no model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset

from lasttoken import catalog
from lasttoken.config.methods import Linear
from lasttoken.config.parse import read_run
from lasttoken.config.run import Run
from lasttoken.config.settings import Data
from lasttoken.data.dataset import Splits
from lasttoken.data.load import columns_of, load_data
from lasttoken.data.read import Columns
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.policy import read_policy
from lasttoken.evaluation.predictions import Predictions, read_predictions
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.predictor import Predictor
from lasttoken.record.folder import plain, verify
from lasttoken.report.compose import write_report
from lasttoken.studies.one import (
    Outcome,
    cost_of_truncation,
    finished,
    git_commit,
    leads,
    predict_parts,
    predicted,
    run_method,
    silent,
    unjudged,
)

SPLITS = Splits(dataset(45), dataset(15, seed=1), dataset(30, seed=2), "given: train, valid and test")
CONFIG = Run(device="cpu", data=Data(source="topics"), method=Linear())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A finished run."""
    return run_method(CONFIG, SPLITS, tmp_path_factory.mktemp("runs") / "linear", name="linear", journal=Journal())


def judged_rows(outcome: Outcome) -> Predictions:
    """The predictions of the test rows, as the run keeps them."""
    return read_predictions(outcome.folder / "predictions" / "test.parquet")


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    """rows(name, count, start=0) -> the path of a CSV file of two labels, by turns; every fifth text is empty if asked."""

    def make(name: str, count: int, start: int = 0, *, empty: bool = False) -> str:
        lines = [f"{'' if empty and i % 5 == 4 else f'text {i}'},{'ab'[i % 2]}" for i in range(start, start + count)]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]) + "\n")
        return str(tmp_path / name)

    return make


# Data


def test_columns_for_training_and_for_prediction() -> None:
    data = Data(
        text=("title", "body"), template="{title}: {body}", label=("topic",), id="key", group="author", split="part"
    )
    assert columns_of(data) == Columns(("title", "body"), "{title}: {body}", ("topic",), None, "key", "author", "part")
    assert columns_of(data, labels=False) == Columns(("title", "body"), "{title}: {body}")


def test_one_file_is_divided(rows: Callable[..., str]) -> None:
    splits = load_data(Data(source=rows("all.csv", 40), valid_share=0.25, test_share=0.25), seed=0, journal=Journal())
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (20, 10, 10)
    assert splits.origin == "made here: 50/25/25 stratified by label, seed 0"


def test_seed_decides_the_split(rows: Callable[..., str]) -> None:
    data = Data(source=rows("all.csv", 40))
    tests = [load_data(data, seed=seed, journal=Journal()).test.ids for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


def test_files_of_parts_keep_their_rows_apart_by_name(rows: Callable[..., str]) -> None:
    data = Data(source=rows("train.csv", 20), valid=rows("valid.csv", 4, 20), test=rows("test.csv", 6, 30))
    splits = load_data(data, seed=0, journal=Journal())
    assert list(splits.train.ids) == [str(i) for i in range(20)]
    assert list(splits.valid.ids) == [f"valid:{i}" for i in range(4)]
    assert list(splits.test.ids) == [f"test:{i}" for i in range(6)]
    assert list(splits.test.texts) == [f"text {i}" for i in range(30, 36)]


def test_rows_without_text_are_refused_or_left_out_and_told(rows: Callable[..., str]) -> None:
    path = rows("all.csv", 40, empty=True)
    with pytest.raises(DataError, match="8 rows have an empty text"):
        load_data(Data(source=path), seed=0, journal=Journal())
    journal = Journal()
    splits = load_data(Data(source=path, drop_empty=True), seed=0, journal=journal)
    assert len(splits.train) + len(splits.valid) + len(splits.test) == 32
    assert journal.notes == [f"{path}: 8 rows without text left out", splits.summary]
    assert splits.summary.startswith("22 train, 3 valid, 7 test rows; made here: 70/10/20 stratified")


# Rows that were cut


@pytest.mark.parametrize("multi", [False, True])
def test_rows_that_were_cut_are_scored_beside_the_others(multi: bool) -> None:
    labels = LabelSpace(("a", "b"), multi)
    lost = np.array([7, 0] * 30)  # every other row was cut ...
    y = np.arange(60) // 2 % 2
    probs = np.eye(2)[np.where((lost > 0) & (np.arange(60) < 30), 1 - y, y)]  # ... and half of those are wrong
    test = Predictions([str(i) for i in range(60)], np.eye(2, dtype=bool)[y] if multi else y, probs, labels)
    found = cost_of_truncation(test, lost, seed=0)
    assert found is not None
    assert (found["rows"], found["metric"]) == (30, "micro_f1" if multi else "accuracy")
    assert (found["cut"]["estimate"], found["whole"]["estimate"]) == (0.5, 1.0)
    assert "on the 30 truncated rows, 1.000" in found["told"]
    few = np.array([7] * 5 + [0] * 55)
    assert cost_of_truncation(test, few, seed=0) is None
    assert cost_of_truncation(test, np.array([]), seed=0) is None  # of a method without a limit


# One run


def test_run_tells_what_it_was_made_of(outcome: Outcome) -> None:
    facts = json.loads((outcome.folder / "env.json").read_text())
    assert facts["data"]["rows"] == {"train": 45, "valid": 15, "test": 30}
    assert facts["data"]["origin"] == "given: train, valid and test"
    assert set(facts["versions"]) == {
        "python",
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "scikit-learn",
        "numpy",
    }
    assert len(facts["data_digest"]) == 64
    assert read_run(outcome.folder / "config.toml") == CONFIG


def test_metrics_are_those_of_the_predictions(outcome: Outcome) -> None:
    measured = json.loads((outcome.folder / "metrics.json").read_text())
    assert measured["splits"]["test"] == plain(outcome.measures.splits["test"].model_dump())
    right = float((judged_rows(outcome).probs.argmax(axis=1) == judged_rows(outcome).targets).mean())
    assert measured["splits"]["test"]["metrics"]["accuracy"]["estimate"] == right
    assert (measured["splits"]["valid"]["n"], measured["splits"]["test"]["n"]) == (15, 30)
    size = sum(path.stat().st_size for path in outcome.folder.rglob("*") if path.name in OF_THE_MODEL)
    assert measured["cost"]["model_bytes"] == size


OF_THE_MODEL = ("method.json", "vocabulary.json", "head.safetensors")


def test_loaded_run_predicts_the_same(outcome: Outcome) -> None:
    raw = Predictor.load(outcome.folder).said(SPLITS.test.texts).probs
    assert np.array_equal(read_policy(outcome.folder).calibration(raw), judged_rows(outcome).probs)


def test_folder_that_exists_is_not_written_to(outcome: Outcome) -> None:
    before = {path: path.stat().st_mtime_ns for path in outcome.folder.rglob("*")}
    with pytest.raises(ArtifactError, match="linear exists; name another folder with --out, or delete it first"):
        run_method(CONFIG, SPLITS, outcome.folder, name="linear", journal=Journal())
    assert {path: path.stat().st_mtime_ns for path in outcome.folder.rglob("*")} == before


def test_a_folder_that_was_taken_meanwhile_costs_no_training(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, journal = catalog.fit, Journal()

    def taken_meanwhile(*arguments: Any, **more: Any) -> Any:
        shutil.copytree(outcome.folder, tmp_path / "run")
        return fit(*arguments, **more)

    monkeypatch.setattr(catalog, "fit", taken_meanwhile)
    second = run_method(CONFIG, SPLITS, tmp_path / "run", name="linear", journal=journal)
    assert second.folder == tmp_path / "run-2"
    verify(second.folder)
    assert journal.notes[-1] == f"{tmp_path}/run was written by another process meanwhile; this run is {tmp_path}/run-2"


def test_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"method": Linear(min_count=1000)})
    with pytest.raises(DataError, match="linear: no word occurs in 1000 rows"):
        run_method(config, SPLITS, tmp_path / "out", name="out", journal=Journal())
    assert list(tmp_path.iterdir()) == []


def test_rows_keep_their_order(outcome: Outcome) -> None:
    assert outcome.fitted is not None
    found = predict_parts(outcome.fitted, SPLITS, Journal())
    raw = predicted(SPLITS.test, found.test)
    assert raw.ids == SPLITS.test.ids
    assert np.array_equal(read_policy(outcome.folder).shipped(raw).probs, judged_rows(outcome).probs)
    assert found.rows_per_second > 0
    assert found.test.invalid is None


# A run that is there already


def test_the_same_run_is_found(outcome: Outcome) -> None:
    found = finished(CONFIG, SPLITS, outcome.folder)
    assert found is not None
    assert found.fitted is None
    assert np.array_equal(judged_rows(found).probs, judged_rows(outcome).probs)
    assert found.measures == outcome.measures


def test_no_run_is_found_in_no_folder(tmp_path: Path) -> None:
    assert finished(CONFIG, SPLITS, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("what", "differs"),
    [
        ("seed", r"seed \(0 there, 1 here\)"),
        ("settings", r"method.min_count \(.* there, 1 here\)"),
        ("texts", "the rows"),
        ("truth", "the rows"),
    ],
)
def test_another_run_is_refused(outcome: Outcome, what: str, differs: str) -> None:
    config, splits = CONFIG, SPLITS
    if what == "seed":
        config = CONFIG.model_copy(update={"seed": 1})
    elif what == "settings":
        config = CONFIG.model_copy(update={"method": Linear(min_count=1)})
    elif what == "texts":
        splits = replace(SPLITS, test=replace(SPLITS.test, texts=["another", *SPLITS.test.texts[1:]]))
    else:
        splits = replace(SPLITS, train=replace(SPLITS.train, targets=SPLITS.train.targets[::-1]))
    with pytest.raises(ArtifactError, match=rf"holds a run that differs in {differs}; name another folder with --out"):
        finished(config, splits, outcome.folder)


# Reports


def test_report_of_one_run_compares_nothing(outcome: Outcome, tmp_path: Path) -> None:
    written = write_report([outcome.folder], tmp_path / "page.html", metric="macro_f1")
    assert written.comparison["pairs"] == []
    assert "<title>linear: topics</title>" in (tmp_path / "page.html").read_text()


def test_report_of_two_runs(outcome: Outcome, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"method": Linear(words=(1, 1), characters=(0, 0))})
    other = run_method(config, SPLITS, tmp_path / "words", name="words", journal=Journal())
    verify(other.folder)
    comparison = write_report([outcome.folder, other.folder], tmp_path / "page.html", metric="accuracy").comparison
    assert list(comparison["scores"]) == ["linear", "words"]
    assert [(pair["a"], pair["b"]) for pair in comparison["pairs"]] == [("linear", "words")]
    json.dumps(comparison, allow_nan=False)


def test_report_on_runs_of_other_rows_is_refused(outcome: Outcome, tmp_path: Path) -> None:
    splits = replace(SPLITS, test=dataset(30, seed=3), valid=SPLITS.valid)
    splits = replace(splits, test=replace(splits.test, ids=[f"other {i}" for i in range(30)]))
    run_method(CONFIG, splits, tmp_path / "other", name="other", journal=Journal())
    with pytest.raises(DataError, match="rows"):
        write_report([outcome.folder, tmp_path / "other"], tmp_path / "page.html", metric="macro_f1")
    assert not (tmp_path / "page.html").exists()


# The place


def test_no_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None


def test_a_process_alone_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert leads("cpu") is True


def test_rows_that_are_given_no_label_at_all_are_told() -> None:
    labels, y = LabelSpace(("a", "b"), multi=True), np.array([[True, False], [False, False]])
    test = Predictions(["1", "2"], y, np.array([[0.41, 0.2], [0.3, 0.1]]), labels)
    assert silent(test) == (
        "no row gets a label (the highest probability is .410), so micro- and macro-F1 are 0; tuned thresholds need "
        "50 validation rows, decision.at_least_one gives every row its most probable label; AUROC needs no thresholds"
    )
    assert silent(Predictions(["1", "2"], y, np.array([[0.51, 0.2], [0.3, 0.1]]), labels)) is None
    assert silent(Predictions(["1", "2"], y & False, test.probs, labels)) is None  # and none should be
    single = LabelSpace(("a", "b"), multi=False)
    assert silent(Predictions(["1"], np.array([0]), np.array([[0.5, 0.5]]), single)) is None


@pytest.mark.parametrize("multi", [False, True])
def test_labels_without_a_test_row_are_told(multi: bool) -> None:
    labels, column = LabelSpace(("a", "b, c", "d"), multi), np.array([0, 0, 2])
    targets = np.eye(3, dtype=bool)[column] if multi else column
    test = Predictions(["1", "2", "3"], targets, np.full((3, 3), 1 / 3), labels)
    assert unjudged(test) == ('no row has "b, c": F1 counts as 0 there, in macro-F1 too; --folds 5 judges every row')
    whole = Predictions(
        ["1", "2", "3"], np.eye(3, dtype=bool) if multi else np.arange(3), np.full((3, 3), 1 / 3), labels
    )
    assert unjudged(whole) is None
