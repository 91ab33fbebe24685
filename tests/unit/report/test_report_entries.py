"""Runs that differ in seed or number of rows alone are one entry."""

import json
from pathlib import Path

import numpy as np
import pytest

from lasttoken.config.methods import Linear
from lasttoken.config.run import Run
from lasttoken.config.settings import Data
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.subset import with_fewer
from lasttoken.errors import DataError
from lasttoken.evaluation.run_record import read_record
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.record.schema import ProblemMeasure
from lasttoken.report.compose import write_report
from lasttoken.report.entries import entries, with_unique_names
from lasttoken.studies.one import run_method

SPACE = LabelSpace(("fruit", "tool"))
WORDS = (("apple", "pear", "plum", "fig"), ("saw", "drill", "plane", "rasp"))


def rows(n: int, seed: int) -> Dataset:
    """Texts of three words, one of them now and then of the other class."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 2
    texts = [
        " ".join(rng.choice(WORDS[t if rng.random() < 0.75 else 1 - t]) for _ in range(3)) for t in targets.tolist()
    ]
    return Dataset([f"{seed}-{i}" for i in range(n)], texts, targets, SPACE)


SPLITS = Splits(rows(120, 0), rows(60, 1), rows(200, 2), "given")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linear at 20, 40, 80 and all rows from two seeds, and one of other words."""
    folder = tmp_path_factory.mktemp("study")
    for seed in (0, 1):
        for size in (20, 40, 80, None):
            method = Linear(min_count=1, regularisation=(3.0,))
            run = Run(
                seed=seed, data=Data(source="rows", split_seed=0 if seed else None, train_rows=size), method=method
            )
            part = SPLITS if size is None else with_fewer(SPLITS, size, seed=seed)
            run_method(run, part, folder / f"linear-{size}-{seed}", name="linear", journal=Journal())
    other = Run(data=Data(source="rows"), method=Linear(min_count=1, characters=(0, 0)))
    run_method(other, SPLITS, folder / "words", name="words", journal=Journal())
    return folder


def test_seeds_and_sizes_of_one_method_are_one_entry(study: Path) -> None:
    found = entries([read_record(path) for path in sorted(study.iterdir())])
    assert [(e.runs[0].name, len(e.runs), sorted(e.smaller)) for e in found] == [
        ("linear", 2, [20, 40, 80]), ("words", 1, []),
    ]  # fmt: skip
    assert [run.environment.seed for run in found[0].runs] == [0, 1]
    assert found[0].rows == 120


def test_what_is_shown_is_the_mean_over_seeds(study: Path) -> None:
    entry = entries([read_record(path) for path in sorted(study.iterdir())])[0]
    view = entry.view()
    scores = [run.test.metrics["accuracy"].estimate for run in entry.runs]
    assert view.test.metrics["accuracy"].estimate == pytest.approx(np.mean(scores))
    assert view.folder == entry.runs[0].folder
    rates = [run.measures.cost.predict_rows_per_second for run in entry.runs]
    assert view.measures.cost.predict_rows_per_second == pytest.approx(np.mean(rates))


def test_a_page_of_a_study(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    written = write_report(sorted(study.iterdir()), page, metric="accuracy", goal=0.99)
    json.dumps(written.comparison, allow_nan=False)
    assert [run["name"] for run in written.shown] == ["linear", "words"]
    assert [folder.name for folder in written.folders] == ["linear-None-0", "words"]
    learnt = written.comparison["learning"]
    assert [p["rows"] for p in learnt["points"]["linear"]] == [20, 40, 80, 120]
    assert len(learnt["sentences"]) == 1
    html = page.read_text()
    assert "Would more labels help?" in html
    assert "mean of 2 seeds" in html
    assert learnt["sentences"][0] in html


def test_the_same_fit_twice_is_no_second_seed(study: Path) -> None:
    run = read_record(study / "words")
    found = with_unique_names(entries([run, run]))
    assert [len(entry.runs) for entry in found] == [1, 1]
    assert all("/" in entry.runs[0].name for entry in found)


def test_seeds_judged_on_other_rows_are_refused(study: Path, tmp_path: Path) -> None:
    other = Splits(SPLITS.train, SPLITS.valid, rows(200, 9), "given")
    run = Run(seed=5, data=Data(source="rows"), method=Linear(min_count=1, regularisation=(3.0,)))
    run_method(run, other, tmp_path / "other", name="linear", journal=Journal())
    with pytest.raises(DataError, match="judged on different rows"):
        write_report([study / "linear-None-0", tmp_path / "other"], tmp_path / "page.html", metric="accuracy")


def test_the_settings_that_gave_other_rows_are_named(study: Path, tmp_path: Path) -> None:
    other = Splits(SPLITS.train, SPLITS.valid, rows(200, 9), "given")
    run = Run(data=Data(source="rows", group="author"), method=Linear(min_count=1))
    run_method(run, other, tmp_path / "other", name="linear", journal=Journal())
    with pytest.raises(DataError, match=r"they differ in group \(not given .*/words, author .*/other\); report each"):
        write_report([study / "words", tmp_path / "other"], tmp_path / "page.html", metric="accuracy")


def test_smaller_sizes_judged_on_other_rows_are_refused_too(study: Path, tmp_path: Path) -> None:
    other = Splits(SPLITS.train.take(np.arange(60)), SPLITS.valid, rows(150, 9), "given")
    run = Run(seed=3, data=Data(source="rows", train_rows=60), method=Linear(min_count=1, regularisation=(3.0,)))
    run_method(run, other, tmp_path / "other", name="linear", journal=Journal())
    with pytest.raises(DataError, match="linear-None-0 were judged on different rows"):
        write_report([study / "linear-None-0", tmp_path / "other"], tmp_path / "page.html", metric="accuracy")


def test_measures_that_only_some_seeds_have_are_not_averaged(study: Path) -> None:
    entry = entries([read_record(path) for path in sorted(study.iterdir())])[0]
    first, second = entry.runs
    kept = ProblemMeasure(name="a", words="a", estimate=0.5, low=0.4, high=0.6, level=0.95)
    odd = kept.model_copy(update={"words": "b"})
    for run, further in ((first, [odd, kept]), (second, [kept.model_copy(update={"estimate": 0.7})])):
        run.measures.splits["test"] = run.test.model_copy(update={"further": further})
    found = entry.view().test.further
    assert [(one.words, one.estimate) for one in found] == [("a", pytest.approx(0.6))]
