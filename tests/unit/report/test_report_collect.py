import json
import math
from pathlib import Path

import pytest

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.run_record import read_record


def test_a_run_is_read_as_written(write_run) -> None:
    run = read_record(write_run("embedding", updates=20, invalid_answers=0.012, notes=["12 rows were truncated"]))
    assert run.name == "embedding"
    assert run.measures.cost.trainable_parameters == 12_195_848
    assert run.measures.invalid_answers == 0.012
    assert run.measures.notes == ["12 rows were truncated"]
    assert run.environment.data.rows == {"train": 1400, "valid": 200, "test": 400}
    assert len(run.steps) == 20
    assert run.steps[0].valid is None
    assert run.steps[1].valid == {"macro_f1": pytest.approx(0.8 - 0.6 * math.exp(-0.4), abs=1e-4)}  # rounded in the log
    assert len(run.predictions) == 400
    assert run.texts is not None
    assert run.texts[3].startswith("A bracket")
    assert 'method = "embedding"' in run.config


def test_null_stands_for_nan(write_run) -> None:
    run = read_record(write_run("linear", cost={"total_parameters": None, "train_rows_per_second": None}))
    assert math.isnan(run.measures.cost.total_parameters)
    assert math.isnan(run.measures.cost.train_rows_per_second)


def test_log_and_texts_may_be_absent(write_run) -> None:
    folder = write_run("linear", texts=None)
    (folder / "steps.jsonl").unlink()
    run = read_record(folder)
    assert run.steps == []
    assert run.texts is None


@pytest.mark.parametrize("file", ["metrics.json", "env.json", "labels.json", "config.toml", "predictions/test.parquet"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_bad_file_is_named(write_run, file: str, damage: str) -> None:
    path = write_run("embedding") / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"{ \xff not what it was")
    with pytest.raises(ArtifactError) as caught:
        read_record(path.parents[1] if "/" in file else path.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("run the fit again")


def test_a_damaged_step_is_named_with_its_line(write_run) -> None:
    folder = write_run("embedding", updates=20)
    lines = (folder / "steps.jsonl").read_text().splitlines()
    (folder / "steps.jsonl").write_text("\n".join([lines[0], lines[1][:20]]))
    with pytest.raises(ArtifactError, match=r"steps\.jsonl:2: content: Invalid JSON"):
        read_record(folder)


def test_a_missing_field_is_named(write_run) -> None:
    path = write_run("embedding") / "metrics.json"
    content = json.loads(path.read_text())
    del content["cost"]["train_seconds"]
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"metrics\.json: cost\.train_seconds: Field required; run the fit again"):
        read_record(path.parent)


def test_a_run_without_test_metrics_is_refused(write_run) -> None:
    with pytest.raises(ArtifactError, match=r"metrics\.json: no metrics of the test split"):
        read_record(write_run("embedding", splits={}))


def test_a_newer_format_is_named(write_run) -> None:
    with pytest.raises(ArtifactError, match=r"metrics\.json: format 3 is newer than 2, .* upgrade lasttoken"):
        read_record(write_run("embedding", format=3))


def test_labels_of_another_run_are_refused(write_run) -> None:
    folder = write_run("embedding")
    (folder / "labels.json").write_text('{"names": ["no", "yes"], "multi": false}')
    with pytest.raises(ArtifactError, match=r"test\.parquet: its labels are not those of .*labels\.json"):
        read_record(folder)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing-here: no such run folder"):
        read_record(tmp_path / "nothing-here")
