"""`--folds`: cross-validation in place of a test part, from the command line and from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lasttoken import Columns, Data, Decision, Linear, Run, make_folds, read_rows, study
from lasttoken.data.dataset import Splits
from lasttoken.data.load import load_data
from lasttoken.errors import ConfigError, DataError
from lasttoken.evaluation.predictions import read_predictions
from lasttoken.journal import Journal
from lasttoken.record.schema import Metrics
from lasttoken.studies.one import run_method

TOLD = (
    "Scores are from 3-fold cross-validation: each of 100 rows was tested once, by a model with the same settings that "
    "was not trained on it. The model in this folder is trained on 90 of the rows, and tuned on the other 10; it was not "
    "tested on new ones."
)
LINEAR = Linear(words=(1, 1), characters=(0, 0), regularisation=(10.0,))
QUICK = ("--set", "linear.characters=[0,0]", "--set", "linear.regularisation=[10.0]")


@pytest.fixture(scope="module")
def trained(command: Callable[..., Any], table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(the run of `train --folds 3`, what was said)."""
    out = tmp_path_factory.mktemp("folds") / "run"
    said = command("train", table, "--method", "linear", "--folds", "3", "--out", out, *QUICK)
    assert said.code == 0, said.err
    return out, said


def test_train_judges_every_row_and_keeps_a_model_of_all(
    trained: tuple[Path, Any], command: Callable[..., Any]
) -> None:
    out, said = trained
    assert said.out.startswith("run on 100 rows, 3-fold cross-validation, 4 labels (95 % intervals)")
    assert said.out.splitlines()[-1] == TOLD
    assert "linear: fold 1 of 3: " in said.err
    assert [path.name for path in out.parent.iterdir()] == ["run"]  # what the folds left is gone
    measures = Metrics.model_validate(json.loads((out / "metrics.json").read_text()))
    assert measures.cross_validated is not None
    assert (measures.cross_validated.folds, measures.cross_validated.told) == (3, TOLD)
    assert measures.splits["test"].n == 100
    judged = read_predictions(out / "predictions/test.parquet")
    assert judged.fold is not None
    assert np.bincount(judged.fold).tolist() in ([34, 33, 33], [33, 34, 33], [33, 33, 34])
    done = command("predict", out, "--text-is", "a list of strings", "--json")
    assert done.code == 0, done.err


def test_the_page_says_where_scores_come_from(trained: tuple[Path, Any]) -> None:
    page = (trained[0] / "report.html").read_text(encoding="utf-8")
    assert "Measured by 3-fold cross-validation on 100 rows" in page
    assert (
        "Each row was judged once, by a model that did not see it; the saved model is trained on all rows but" in page
    )
    assert '<th scope="col" class="n">fold</th>' in page
    assert "judged 100" in page
    assert "test split" not in page


def test_compare_with_repeats(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    words = ("--methods", "linear,probe", "--model", "tiny", "--folds", "3", "--seeds", "2", "--device", "cpu")
    words = (*words, "--set", "probe.max_length=48", *QUICK, "--out", tmp_path / "out")
    said = command("compare", table, *words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)["comparison"]
    assert found["folds"] == 3
    assert found["n"] == 100
    assert found["pairs"][0]["test"] == "corrected t over folds"
    assert found["pairs"][0]["seeds"] == [2, 2]
    assert ", mean of 2 repeats of 3-fold cross-validation)" in found["summary"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "linear", "linear-seed1", "probe", "probe-seed1", "report.html",
    }  # fmt: skip
    kept = [read_predictions(tmp_path / "out" / name / "predictions/test.parquet").fold for name in found["by_seed"]]
    again = read_predictions(tmp_path / "out" / "linear-seed1" / "predictions/test.parquet").fold
    folds = [fold.tolist() for fold in (*kept, again) if fold is not None]
    assert folds[0] == folds[1] != folds[2]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "corrected resampled t-test over folds, which share training rows (Nadeau and Bengio 2003)" in page
    assert "mean of 2 repeats: " in page
    twice = command("compare", table, *words)
    assert twice.code == 0, twice.err
    assert "probe-seed1: kept from before" in twice.err
    assert (
        "100 rows, 3-fold cross-validation; intervals: Student's t over the folds, cut at 0 and 1; train/s" in twice.out
    )


def test_groups_several_labels_and_a_hierarchy(
    command: Callable[..., Any], rows: list[dict[str, str]], write: Callable[..., Path], tmp_path: Path
) -> None:
    several = [
        {**row, "label": f"library/{row['label']}" + (";long" if len(row["text"]) > 400 else "")} for row in rows
    ]
    file = write(tmp_path / "several.csv", several)
    words = ("--separator", ";", "--hierarchy", "/", "--group", "module", "--folds", "3", "--out", tmp_path / "run")
    said = command("train", file, "--method", "linear", *words, *QUICK)
    assert said.code == 0, said.err
    judged = read_predictions(tmp_path / "run/predictions/test.parquet")
    assert judged.labels.multi
    assert "library" in judged.labels.names
    group = {str(i): row["module"] for i, row in enumerate(several)}
    assert judged.fold is not None
    homes = {(group[row], int(fold)) for row, fold in zip(judged.ids, judged.fold, strict=True)}
    assert len(homes) == len({module for module, _ in homes})


def test_what_folds_do_not_go_with(refused: Callable[..., str], table: Path, tmp_path: Path) -> None:
    folds = ("--folds", "5")
    assert refused("train", table, "--method", "linear", *folds, "--test", table) == (
        "data: folds = 5 judges every row by models of the others, which leaves nothing for test to say; leave out test, or "
        "folds"
    )
    assert refused("compare", table, "--methods", "linear", *folds, "--split", "module").endswith(
        "leave out split, or folds"
    )
    assert refused("compare", table, "--methods", "linear", *folds, "--sizes", "20,all") == (
        "sizes: folds train on all rows but their own; leave out the sizes or the folds"
    )
    assert refused("train", table, "--method", "linear", *folds, "--time", "1m") == (
        "--time: may reduce the training rows, but folds train on all of them; leave out one of the two"
    )
    assert "cannot be divided into 500 folds" in refused("train", table, "--method", "linear", "--folds", "500")


def test_few_rows_are_advised_to_be_cross_validated(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    advice = (
        f"20 test rows show large differences only: --folds 5 --out {tmp_path / 'plain'}-folds (in Python Data(folds=5)) "
        "tests on all 100 rows, each with a model that was not trained on it"
    )
    plain = command("compare", table, "--methods", "linear", "--out", tmp_path / "plain", *QUICK)
    assert advice in plain.err.splitlines()
    curves = command("compare", table, "--methods", "linear", "--sizes", "20,all", "--out", tmp_path / "curves", *QUICK)
    crossed = command("compare", table, "--methods", "linear", "--folds", "2", "--out", tmp_path / "crossed", *QUICK)
    assert "large differences only" not in curves.err + crossed.err


def splits_of(table: Path) -> Splits:
    return load_data(Data(source=str(table), folds=3), seed=0, journal=Journal())


def test_an_interrupted_run_goes_on_with_the_next_fold(table: Path, tmp_path: Path) -> None:
    run = Run(data=Data(source=str(table), folds=3), method=LINEAR)

    def stop(sentence: str) -> None:
        if sentence.startswith("fold 2 of 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_method(run, splits_of(table), tmp_path / "run", name="run", journal=Journal(tell=stop))
    assert [path.name for path in tmp_path.iterdir()] == ["run.folds"]
    assert [path.name[:2] for path in sorted((tmp_path / "run.folds").iterdir())] == ["1-", "2-"]
    said: list[str] = []
    done = run_method(run, splits_of(table), tmp_path / "run", name="run", journal=Journal(tell=said.append))
    told = [sentence for sentence in said if " macro-F1 on " in sentence]
    assert [sentence.endswith(", kept") for sentence in told] == [True, True, False]
    assert not (tmp_path / "run.folds").exists()
    whole = run_method(run, splits_of(table), tmp_path / "whole", name="run", journal=Journal())
    assert done.measures.splits == whole.measures.splits
    # what another command left is not taken
    other = run.model_copy(update={"method": Linear(words=(1, 2), characters=(0, 0), regularisation=(10.0,))})
    with pytest.raises(KeyboardInterrupt):
        run_method(run, splits_of(table), tmp_path / "other", name="run", journal=Journal(tell=stop))
    said.clear()
    run_method(other, splits_of(table), tmp_path / "other", name="run", journal=Journal(tell=said.append))
    assert not any(sentence.endswith(", kept") for sentence in said)


def test_promises_are_judged_on_all_folds(table: Path, tmp_path: Path) -> None:
    decision = Decision(coverage=0.8, most_wrong=0.6)
    run = Run(data=Data(source=str(table), folds=3, valid_share=0.3), method=LINEAR, decision=decision)
    splits = load_data(run.data, seed=0, journal=Journal())
    found = run_method(run, splits, tmp_path / "run", name="run", journal=Journal()).measures.guarantees
    assert found.sets is not None
    assert found.answered is not None
    assert round(found.sets.had.estimate * 100, 6).is_integer()  # shares of all 100 rows
    assert round(found.answered.estimate * 100, 6).is_integer()


def test_from_python(table: Path, tmp_path: Path) -> None:
    done = study(Data(source=str(table), folds=3), {"linear": LINEAR}, tmp_path / "file", seeds=2)
    assert done.comparison["folds"] == 3
    assert len(done.comparison["by_seed"]["linear"]) == 2
    rows = read_rows(pd.read_csv(table), columns=Columns(("text",), None, ("label",)))
    more = study(make_folds(rows, 3, seed=0), {"linear": LINEAR}, tmp_path / "rows")
    assert (
        more.runs[0]["splits"]["test"]["metrics"]
        == study(Data(source=str(table), folds=3), {"linear": LINEAR}, tmp_path / "again").runs[0]["splits"]["test"][
            "metrics"
        ]
    )
    with pytest.raises(ConfigError, match="folds train on all rows but their own"):
        study(Data(source=str(table), folds=3), {"linear": LINEAR}, tmp_path / "sizes", sizes=(20, None))
    with pytest.raises(DataError, match="a cross-validation trains on all rows"):
        study(make_folds(rows, 3, seed=0), {"linear": LINEAR}, tmp_path / "sizes", sizes=(20,))
