"""What the files of a run hold: written as they are read, and runs of format 1 are read too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config.methods import Linear
from lasttoken.config.run import Run
from lasttoken.config.settings import Data
from lasttoken.data.dataset import Splits
from lasttoken.evaluation.run_record import read_fact, read_record
from lasttoken.journal import Journal
from lasttoken.predictor import Predictor
from lasttoken.record.folder import seal
from lasttoken.record.schema import FORMAT, Metrics
from lasttoken.studies.one import finished, run_method

SPLITS = Splits(dataset(45), dataset(15, seed=1), dataset(30, seed=2), "given: train, valid and test")
CONFIG = Run(device="cpu", data=Data(source="topics"), method=Linear())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_method(CONFIG, SPLITS, tmp_path / "run", name="run", journal=Journal()).folder


def change(path: Path, **values: Any) -> None:
    """Write other values into a JSON file; None takes one out."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def as_format_1(folder: Path, ended: str = "finished") -> None:
    """The folder as a version before this format wrote it."""
    metrics = json.loads((folder / "metrics.json").read_text())
    promises = {name: value for name, value in metrics["guarantees"].items() if value is not None}
    change(folder / "metrics.json", format=1, end=None, guarantees=None, ended=ended, promises=promises)
    change(folder / "env.json", format=1)
    seal(folder)
    change(folder / "manifest.json", format=1)


def test_what_was_measured_is_what_is_read(folder: Path) -> None:
    record = read_record(folder)
    assert json.loads((folder / "metrics.json").read_text())["format"] == FORMAT == 2
    assert record.measures.end.how == "finished"
    assert record.measures == read_fact(folder / "metrics.json", Metrics)
    assert math.isnan(record.measures.cost.peak_reserved_bytes)  # null in the file, where there is no accelerator
    assert record.environment.data.rows == {"train": 45, "valid": 15, "test": 30}


def test_a_run_of_format_1_is_read_reported_and_predicts(folder: Path) -> None:
    texts, before = SPLITS.test.texts, Predictor.load(folder)(SPLITS.test.texts).probs
    as_format_1(folder)
    assert np.array_equal(Predictor.load(folder)(texts).probs, before)
    record = read_record(folder)
    assert (record.measures.end.how, record.measures.end.update) == ("finished", 0)
    assert record.measures.guarantees.sets is None
    assert finished(CONFIG, SPLITS, folder) is not None


def test_a_run_of_format_1_that_was_interrupted_makes_room(folder: Path) -> None:
    as_format_1(folder, "interrupted")
    assert finished(CONFIG, SPLITS, folder) is None
    assert not folder.exists()


def test_settings_that_were_dropped_since_do_not_keep_a_run_from_loading(folder: Path) -> None:
    change(
        folder / "method.json", config=json.loads((folder / "method.json").read_text())["config"] | {"loss": "ranking"}
    )
    config = folder / "config.toml"
    config.write_text(config.read_text() + 'loss = "ranking"\n')  # the table of the method stands last
    seal(folder)
    assert len(Predictor.load(folder)(["goal"])) == 1
