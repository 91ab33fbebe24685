"""A fit within a time: what is chosen is written as plain settings, which give the same run without a limit."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config.methods import Embedding, Instruction, Linear, Probe
from lasttoken.config.parse import read_run
from lasttoken.config.run import Run
from lasttoken.config.settings import Data, Lora, Training
from lasttoken.data.dataset import Splits
from lasttoken.data.subset import with_fewer
from lasttoken.errors import ConfigError
from lasttoken.journal import Journal
from lasttoken.plan.within import Speed
from lasttoken.studies.cells import Watcher
from lasttoken.studies.many import grid, run_cells
from lasttoken.studies.one import Until, run_method
from lasttoken.studies.timed import Limit, as_kept, limited, measure, spread, within

SPLITS = Splits(*(dataset(rows, seed=seed) for seed, rows in enumerate((60, 21, 30))), "given")
SPEED = Speed(start=10, update=1.0, row=0.1, end=5)  # of two blocks


def run_of(method: Any, **data: Any) -> Run:
    return Run(method=method, device="cpu", explained=0, data=Data(**data))


def embedding(folder: Callable[..., Path], epochs: float = 20) -> Embedding:
    train = Training(epochs=epochs, batch=6, lr=0.01)
    return Embedding(model=str(folder("llama")), lora=Lora(r=2), train=train)


def limit_of(seconds: float) -> Limit:
    return Limit(seconds, "5m", began=100.0, clock=lambda: 100.0)


def chosen(run: Run, seconds: float, *, fits: int = 1, like: Path | None = None) -> tuple[Any, Journal]:
    journal = Journal(tell=lambda sentence: None)
    made = within(
        run, SPLITS, limit_of(seconds), fits=fits, journal=journal, like=like, measured=lambda *given: (SPEED, 2)
    )
    return made, journal


def test_epochs_are_given_up_first_and_told(folder: Callable[..., Path]) -> None:
    """10 to load, 8.1 for features, 12.1 an epoch, 5.1 to predict, 5 at the end: 9 epochs in 144 of 160 s."""
    run = run_of(embedding(folder))
    made, journal = chosen(run, 160)
    assert made.run == run.model_copy(update={"method": embedding(folder, 9)})
    assert made.splits is SPLITS
    assert made.until.training == pytest.approx(260 - 5.1 - 5 - 2.1)  # predictions, the end, and a last validation
    assert made.until.explaining == 260  # no mistakes are to be explained
    assert journal.notes == ["--time 5m: 9 of 20 epochs, about 2 min 17 s; all of it would take about 4 min 30 s"]


def test_then_blocks_and_rows(folder: Callable[..., Path]) -> None:
    made, journal = chosen(run_of(embedding(folder)), 38)
    method: Any = made.run.method
    assert (method.train.epochs, method.trunk, made.run.data.train_rows) == (2, 1, 36)
    assert made.splits.train.ids == with_fewer(SPLITS, 36, seed=0).train.ids
    assert made.splits.test is SPLITS.test
    assert "2 of 20 epochs, 36 of 60 rows and LoRA on the upper 1 of 2 blocks" in journal.notes[0]


def test_of_fewer_rows_some_are_taken_as_without_a_limit(folder: Callable[..., Path]) -> None:
    """--train-rows 48 --time: rows are drawn from all of them, as --train-rows 36 draws them."""
    made, _ = chosen(run_of(embedding(folder), train_rows=48), 36)
    assert made.run.data.train_rows == 30
    assert made.splits.train.ids == with_fewer(SPLITS, 30, seed=0).train.ids


def test_several_fits_share_what_is_left(folder: Callable[..., Path]) -> None:
    made, journal = chosen(run_of(embedding(folder)), 320, fits=2)
    assert made.run.method == embedding(folder, 9)
    assert journal.notes[0].startswith("2 min 40 s of --time 5m: 9 of 20 epochs")
    late = Limit(300, "5m", began=0.0, clock=lambda: 180.0)
    assert late.left() == 120


def test_what_has_no_model_is_left_as_it_is() -> None:
    method = Linear(min_count=1)
    made, journal = chosen(run_of(method), 1)
    assert (made.run.method, made.splits, made.until, journal.notes) == (method, SPLITS, Until(), [])


def test_zero_shot_is_told_or_refused_since_test_rows_stay() -> None:
    """10 to load, 5.1 to predict, 5 at the end."""
    run = run_of(Instruction(model="tiny", train_model=False))
    made, journal = chosen(run, 23)
    assert (made.run, made.splits) == (run, SPLITS)
    assert journal.notes == ["--time 5m: all of it fits, loading the model and predicting 51 rows take about 20.1 s"]
    with pytest.raises(ConfigError, match=r"predicting 51 validation and test rows take about 22\.3 s; give more time"):
        chosen(run, 20)
    speed, _ = measure(run, SPLITS, Journal(tell=lambda sentence: None))
    assert speed.start > 0
    assert speed.update == 0


def test_a_probe_reads_fewer_rows() -> None:
    made, journal = chosen(run_of(Probe(model="tiny")), 30.2)
    assert made.run.data.train_rows == 49  # 27.1 s, 22.2 of them without those rows
    assert journal.notes == ["--time 5m: 49 of 60 rows, about 27.1 s; all of it would take about 28.2 s"]


def test_explaining_mistakes_has_a_tenth_of_the_time(folder: Callable[..., Path]) -> None:
    """A mistake takes 10 s, as long as 100 rows."""
    run = run_of(embedding(folder)).model_copy(update={"explained": 5})
    made, journal = chosen(run, 250)
    assert made.run.explained == 2
    assert made.until.explaining == 330
    assert journal.notes[0].endswith("; in the report 2 of 5 mistakes will be explained")
    assert chosen(run, 90)[0].run.explained == 0


def test_later_seeds_do_what_the_first_one_did(folder: Callable[..., Path], tmp_path: Path) -> None:
    run = run_of(embedding(folder, 2))
    first = run_method(
        run, SPLITS, tmp_path / "embedding", name="embedding", journal=Journal(tell=lambda sentence: None)
    )
    other = run_of(embedding(folder, 20)).model_copy(update={"seed": 1})
    made, journal = chosen(other, 200, fits=2, like=tmp_path / "embedding")
    assert made.run == run.model_copy(update={"seed": 1})
    predicting = (2 * len(SPLITS.valid) + len(SPLITS.test)) / first.measures.cost.predict_rows_per_second
    assert made.until == Until(pytest.approx(200 - 5 - predicting), 200.0)
    assert journal.notes == ["1 min 40 s of --time 5m: same settings as embedding"]


def test_without_a_limit_all_stays(folder: Callable[..., Path]) -> None:
    run = run_of(embedding(folder))
    made = within(run, SPLITS, None, journal=Journal())
    assert (made.run, made.splits, made.until) == (run, SPLITS, Until())


def test_a_model_is_measured_on_rows_of_all_lengths(folder: Callable[..., Path]) -> None:
    speed, depth = measure(run_of(embedding(folder)), SPLITS, Journal())
    assert depth == 2
    assert 0 < speed.row < speed.update < 5
    assert speed.start > 0
    lengths = [len(text) for text in SPLITS.train.texts]
    few = sorted(len(text) for text in spread(SPLITS.train, 6).texts)
    assert np.mean(few) == pytest.approx(np.mean(lengths), rel=0.05)
    assert len(spread(SPLITS.train, 999)) == 60


def test_what_was_chosen_repeats_without_a_limit(folder: Callable[..., Path], tmp_path: Path) -> None:
    made, _ = chosen(run_of(embedding(folder)), 38)
    quiet = Journal(tell=lambda sentence: None)
    run_method(made.run, made.splits, tmp_path / "a", name="a", journal=quiet)
    again = read_run(tmp_path / "a/config.toml")
    assert again == made.run
    run_method(again, with_fewer(SPLITS, 36, seed=0), tmp_path / "b", name="a", journal=quiet)
    files = [(tmp_path / one / "predictions/test.parquet").read_bytes() for one in "ab"]
    assert files[0] == files[1]


def test_a_training_that_is_slower_than_measured_ends_in_time(folder: Callable[..., Path], tmp_path: Path) -> None:
    config = embedding(folder).model_copy(update={"head_init": "random"})
    run = run_of(config).model_copy(update={"explained": 1})
    journal = Journal(tell=lambda sentence: None)
    done = run_method(run, SPLITS, tmp_path / "a", name="a", journal=journal, until=Until(0.0, 0.0))
    assert (done.measures.end.how, done.measures.end.update) == ("early", 1)
    assert done.measures.end.told.startswith("training ended at update 1 of 200, when its time was up; best validation")
    assert journal.notes[-1] == "mistakes are not explained: the time is up"


def test_a_run_that_is_there_is_kept_with_what_it_was_given(folder: Callable[..., Path], tmp_path: Path) -> None:
    """The second measurement would choose otherwise; the run is the same all the same."""
    run = run_of(embedding(folder, 2))
    wanted = run_of(embedding(folder, 20))
    run_method(run, SPLITS, tmp_path / "embedding", name="embedding", journal=Journal(tell=lambda sentence: None))
    assert as_kept(wanted, tmp_path / "embedding", limit_of(60)) == run
    assert as_kept(wanted, tmp_path / "embedding", None) == wanted
    assert as_kept(wanted, tmp_path / "other", limit_of(60)) == wanted
    told: list[str] = []
    cells = grid({"embedding": wanted}, [None], 1)
    run_cells(
        cells,
        SPLITS,
        tmp_path,
        metric="macro_f1",
        watcher=Watcher(lambda name: Journal(tell=told.append), told.append),
        limit=limit_of(60),
    )
    assert told == [f"kept from before, {tmp_path / 'embedding'}"]
    values = tomllib.loads((tmp_path / "embedding/config.toml").read_text())
    assert values["method"]["train"]["epochs"] == 2.0


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limited(None, 0.0) is None
    found = limited("1h30m", 7.0)
    assert found is not None
    assert (found.seconds, found.began) == (5400, 7.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--time: works with one process only; leave it out of an accelerate launch"):
        limited("10m", 0.0)
