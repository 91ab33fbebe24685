"""What saved and loaded things promise: an estimator's folder, names as labels, cut-short runs, and code that is not ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lasttoken import LinearClassifier, catalog, load
from lasttoken.config.methods import Embedding
from lasttoken.config.run import Run
from lasttoken.data.dataset import Rows
from lasttoken.data.split import make_splits
from lasttoken.errors import ArtifactError, DataError
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.model.base_model import on_base
from lasttoken.record.artifact import write_settings
from lasttoken.record.folder import read_json, seal, write_json
from lasttoken.studies.one import finished, run_method

TEXTS = [f"{word} number {i}" for i in range(10) for word in ("alpha", "beta")]
LABELS = ["a", "b"] * 10


def test_an_estimators_folder_predicts_the_same(tmp_path: Path) -> None:
    fitted = LinearClassifier(min_count=1).fit(TEXTS, LABELS)
    fitted.save(tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    with pytest.raises(ArtifactError, match="exists; name another folder"):
        fitted.save(tmp_path / "run")


def test_what_is_loaded_is_a_fitted_estimator(tmp_path: Path) -> None:
    fitted = LinearClassifier(min_count=1, seed=3).fit(TEXTS, LABELS)
    fitted.save(tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert isinstance(loaded, LinearClassifier)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.classes_.tolist() == ["a", "b"]
    assert loaded.predict(TEXTS).tolist() == fitted.predict(TEXTS).tolist()
    assert loaded.score(TEXTS, LABELS) == 1
    numbers = LinearClassifier(min_count=1).fit(TEXTS, [0, 1] * 10)
    numbers.save(tmp_path / "numbers")
    assert load(tmp_path / "numbers").classes_.tolist() == ["0", "1"]  # a folder knows labels by name


def test_a_loaded_estimator_of_several_labels_gives_an_indicator(tmp_path: Path) -> None:
    fitted = LinearClassifier(min_count=1).fit(TEXTS, [["x"], ["x", "y"]] * 10)
    fitted.save(tmp_path / "run")
    assert load(tmp_path / "run").predict(TEXTS[:2]).tolist() == [[1, 0], [1, 1]]


def test_predicting_with_a_linear_run_waits_for_no_language_model(tmp_path: Path) -> None:
    LinearClassifier(min_count=1).fit(TEXTS, LABELS).save(tmp_path / "run")
    code = f"from lasttoken import load; import sys; load({str(tmp_path / 'run')!r}); assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_lists_of_names_are_several_labels_a_text() -> None:
    fitted = LinearClassifier(min_count=1).fit(TEXTS, [["x"], ["x", "y"]] * 10)
    assert fitted.classes_.tolist() == ["x", "y"]
    assert fitted.predictor_.labels == LabelSpace(("x", "y"), multi=True)
    assert fitted.predict(["alpha number 1", "beta number 1"]).tolist() == [[1, 0], [1, 1]]
    assert fitted.score(["alpha number 1", "beta number 1"], [["x"], ["x", "y"]]) == 1.0
    assert fitted.score(["alpha number 1", "beta number 1"], np.array([[1, 0], [1, 0]])) == 0.5
    with pytest.raises(
        DataError,
        match=r"the labels of text 0 are None, but other texts have lists of names; give a list of names, \[\] for",
    ):
        LinearClassifier(min_count=1).fit(TEXTS, [None, ["x", "y"]] * 10)
    table = pd.DataFrame([[1, 0], [1, 1]] * 10, columns=["x", "y"])
    assert LinearClassifier(min_count=1).fit(TEXTS, table).predict(TEXTS[:2]).tolist() == [[1, 0], [1, 1]]


def test_a_run_that_was_cut_short_does_not_count_as_finished(tmp_path: Path) -> None:
    config = Run(method={"method": "linear", "min_count": 1})
    rows = Rows([str(i) for i in range(20)], TEXTS, [(label,) for label in LABELS], multi=False)
    splits = make_splits(rows, seed=0)
    run_method(config, splits, tmp_path / "run", name="linear", journal=Journal())
    again = finished(config, splits, tmp_path / "run")
    assert again is not None
    assert again.measures.end.how == "finished"
    write_json(
        tmp_path / "run/metrics.json", {**read_json(tmp_path / "run/metrics.json"), "end": {"how": "interrupted"}}
    )
    seal(tmp_path / "run")
    assert finished(config, splits, tmp_path / "run") is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.interrupted"]  # still there, and out of the way
    run_method(config, splits, tmp_path / "run", name="linear", journal=Journal())
    write_json(tmp_path / "run/metrics.json", {**read_json(tmp_path / "run/metrics.json"), "end": {"how": "diverged"}})
    seal(tmp_path / "run")
    diverged = finished(config, splits, tmp_path / "run")  # again it would diverge again
    assert diverged is not None
    assert diverged.measures.end.how == "diverged"


def test_a_run_folder_alone_cannot_have_code_run(tmp_path: Path) -> None:
    config = Embedding(model="somebody/model", trust_remote_code=True)
    write_settings(tmp_path, config, LabelSpace(("a", "b")), base={"name": "somebody/model"})
    with pytest.raises(ArtifactError, match="brings its own code, which loading would run"):
        catalog.load(tmp_path)


def test_a_hub_model_is_loaded_at_the_commit_of_its_training() -> None:
    config = Embedding(model="somebody/model")
    here = Path("run")
    assert on_base(config, here, {"base": {"commit": "abc"}}).revision == "abc"
    assert on_base(config, here, {"base": {"commit": None}}).revision is None
    copied = on_base(config, here, {"base": {"commit": "abc"}}, model="/models/copy")
    assert (copied.model, copied.revision) == ("/models/copy", None)
