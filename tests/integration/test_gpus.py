"""`--gpus N` starts the processes itself; split over two or four of them, frozen weights train as in one.

On a CPU, over gloo: the same code as on GPUs but for the message library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lasttoken.evaluation.predictions import read_predictions

pytestmark = pytest.mark.slow

# seven rows an update in micro-batches of some 40 tokens: processes have unequal shares, and unequally many micro-batches
SETTINGS = ("train.lr=5e-3", "train.epochs=3", "train.patience=1", "train.evaluations=2", "train.batch=7")
SETTINGS += ("train.budget=40", "lora.dropout=0", "max_length=48", "lora.r=4")


def train(command: Callable[..., Any], table: Path, model: Path, out: Path, *more: object, method: str) -> Any:
    assigned = [word for setting in SETTINGS for word in ("--set", f"method.{setting}")]
    words = ["train", table, "--method", method, "--model", model, "--device", "cpu", "--out", out, "--seed", "3"]
    return command(*words, *assigned, *more)


@pytest.mark.parametrize(
    ("method", "processes", "quantize"),
    [("embedding", 2, "nf4"), ("embedding", 4, "none"), ("instruction", 2, "none"), ("instruction", 4, "nf4")],
)
def test_split_weights_train_the_same_model(
    method: str,
    processes: int,
    quantize: str,
    command: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model, options = folder("llama"), ("--quantize", quantize)
    one = train(command, table, model, tmp_path / "one", *options, method=method)
    assert one.code == 0, one.err
    several = ("--gpus", processes, "--set", "method.train.shard=true")
    more = train(command, table, model, tmp_path / "more", *options, *several, method=method)
    assert more.code == 0, more.err
    assert more.out.count("report:") + more.err.count("report:") == 1  # the first process alone speaks
    probs = [read_predictions(tmp_path / name / "predictions.parquet").probs for name in ("one", "more")]
    np.testing.assert_allclose(probs[1], probs[0], rtol=0, atol=1e-4)  # sums of gradients in another order
    steps = [json.loads((tmp_path / name / "metrics.json").read_text())["end"] for name in ("one", "more")]
    assert steps[0] == steps[1]  # stopped at the same update, the same weights kept
    again = command("predict", tmp_path / "more", table)
    assert again.code == 0, again.err  # one process reads the run whole


def test_mistakes_come_back_as_one_sentence_and_2(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("train", table, "--method", "encoder", "--model", folder("bert"), "--out", tmp_path / "run")
    done = command(*words, "--gpus", 2, "--device", "cpu", "--set", "method.train.shard=true")
    assert done.code == 2
    told = "train.shard: splits frozen weights, and encoder trains every weight; leave it out"
    assert f"lasttoken: {told}" in done.err
    assert "Traceback" not in done.err
    done = command(*words, "--gpus", 2)
    assert (done.code, done.err.strip().splitlines()[-1]) == (
        2,
        "lasttoken: --gpus: 2 asked for, this machine has 0; --device cpu runs processes on the CPU",
    )


def test_one_process_says_that_nothing_is_split(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    done = train(
        command, table, folder("llama"), tmp_path / "run", "--set", "method.train.shard=true", method="embedding"
    )
    assert done.code == 0, done.err
    assert "train.shard has no effect: this is the only process; --gpus 2 starts two" in done.err
