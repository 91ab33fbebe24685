"""What saved and loaded things promise: an estimator's folder, names as labels, cut-short runs, and code that is not ours."""

from pathlib import Path

import numpy as np
import pytest

from lasttoken import LinearClassifier, catalog, load
from lasttoken.config import Embedding, Run
from lasttoken.data.dataset import Rows
from lasttoken.data.split import make_splits
from lasttoken.errors import ArtifactError
from lasttoken.experiment import finished, run_method
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import at_commit, write_settings
from lasttoken.run import read_json, seal, write_json

TEXTS = [f"{word} number {i}" for i in range(10) for word in ("alpha", "beta")]
LABELS = ["a", "b"] * 10


def test_an_estimators_folder_predicts_the_same(tmp_path: Path) -> None:
    fitted = LinearClassifier(min_count=1).fit(TEXTS, LABELS)
    fitted.save(tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    with pytest.raises(ArtifactError, match="exists; name another folder"):
        fitted.save(tmp_path / "run")


def test_lists_of_names_are_several_labels_a_text() -> None:
    fitted = LinearClassifier(min_count=1).fit(TEXTS, [["x"], ["x", "y"]] * 10)
    assert fitted.classes_.tolist() == ["x", "y"]
    assert fitted.classifier_.labels == LabelSpace(("x", "y"), multi=True)
    assert fitted.predict(["alpha number 1", "beta number 1"]).tolist() == [[1, 0], [1, 1]]


def test_a_run_that_was_cut_short_does_not_count_as_finished(tmp_path: Path) -> None:
    config = Run(method={"method": "linear", "min_count": 1})
    rows = Rows([str(i) for i in range(20)], TEXTS, [(label,) for label in LABELS], multi=False)
    splits = make_splits(rows, seed=0)
    run_method(config, splits, tmp_path / "run", name="linear", journal=Journal())
    again = finished(config, splits, tmp_path / "run", "linear")
    assert again is not None
    assert again.metrics["ended"] == "finished"
    write_json(tmp_path / "run/metrics.json", {**read_json(tmp_path / "run/metrics.json"), "ended": "interrupted"})
    seal(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"cut short \(interrupted\); delete it to run it again"):
        finished(config, splits, tmp_path / "run", "linear")


def test_a_run_folder_alone_cannot_have_code_run(tmp_path: Path) -> None:
    config = Embedding(model="somebody/model", trust_remote_code=True)
    write_settings(tmp_path, config, LabelSpace(("a", "b")), base={"name": "somebody/model"})
    with pytest.raises(ArtifactError, match="brings its own code, which loading would run"):
        catalog.load(tmp_path)


def test_a_hub_model_is_loaded_at_the_commit_of_its_training() -> None:
    config = Embedding(model="somebody/model")
    assert at_commit(config, {"base": {"commit": "abc"}}).revision == "abc"
    assert at_commit(config, {"base": {"commit": None}}).revision is None
