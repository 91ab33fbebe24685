"""Several methods in a row: one that fails leaves nothing behind for the next."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from tiny import dataset

from lasttoken.config.methods import Linear
from lasttoken.data.dataset import Splits
from lasttoken.errors import ConfigError
from lasttoken.studies import cells, many


class Model:
    """Stands for a model of gigabytes."""


def test_a_method_that_failed_does_not_keep_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception keeps the frames of its traceback, and these the model; its cause does, too."""
    models: list[weakref.ref[Model]] = []
    run = cells.run_method

    def failing(*args: Any, **options: Any) -> Any:
        if options["name"] != "first":
            gc.collect()
            assert models[0]() is None, "the model of the method before is still in memory"
            return run(*args, **options)
        model = Model()
        models.append(weakref.ref(model))
        try:
            raise MemoryError
        except MemoryError as error:
            raise ConfigError(["the device ran out of memory"]) from error

    monkeypatch.setattr(cells, "run_method", failing)
    rows = dataset(60)
    splits = Splits(rows, dataset(20, seed=1), dataset(20, seed=2), "made here")
    done = many.study(splits, {"first": Linear(), "second": Linear()}, tmp_path)
    assert len(models) == 1
    assert done.failed == ["first left out: the device ran out of memory"]
    told = str(done).splitlines()
    assert told[1:] == [*done.failed, f"report: {tmp_path / 'report.html'}"]
    assert told[0].startswith("second scores ")
