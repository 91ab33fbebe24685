"""`--gpus N` starts the processes itself; split over two or four of them, frozen weights train as in one.

On a CPU, over gloo: the same code as on GPUs but for the message library.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lasttoken.evaluation.predictions import read_predictions

pytestmark = pytest.mark.slow

# seven rows an update in micro-batches of some 300 tokens: processes have unequal shares, and unequally many micro-batches
SETTINGS = ("train.lr=5e-3", "train.epochs=3", "train.patience=1", "train.evaluations=2", "train.batch=7")
SETTINGS += ("train.budget=300", "lora.dropout=0", "max_length=160", "lora.r=4")


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
    process: Callable[..., Any],
    table: Path,
    folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model, options = folder("llama"), ("--quantize", quantize)
    one = train(command, table, model, tmp_path / "one", *options, method=method)
    assert one.code == 0, one.err
    several = ("--gpus", processes, "--set", "method.train.shard=true")
    more = train(process, table, model, tmp_path / "more", *options, *several, method=method)
    assert more.returncode == 0, more.stderr
    assert more.stderr.count(b"report:") == 1  # the first process alone speaks
    probs = [read_predictions(tmp_path / name / "predictions" / "test.parquet").probs for name in ("one", "more")]
    np.testing.assert_allclose(
        probs[1], probs[0], rtol=0, atol=1e-3
    )  # gradients summed in another order, 30 updates long
    steps = [json.loads((tmp_path / name / "metrics.json").read_text())["end"] for name in ("one", "more")]
    assert steps[0] == steps[1]  # stopped at the same update, the same weights kept
    again = command("predict", tmp_path / "more", table)
    assert again.code == 0, again.err  # one process reads the run whole


def test_mistakes_come_back_as_one_sentence_and_2(
    process: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("train", table, "--method", "encoder", "--model", folder("bert"), "--out", tmp_path / "run")
    done = process(*words, "--gpus", 2, "--device", "cpu", "--set", "method.train.shard=true")
    assert done.returncode == 2
    told = b"train.shard: splits frozen weights, and encoder trains every weight; leave it out"
    assert b"lasttoken: " + told in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_padded_model_is_not_split(
    process: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Its processes would run different numbers of passes, and wait for each other for ever."""
    several = ("--gpus", 2, "--set", "method.train.shard=true")
    done = train(process, table, folder("bloom"), tmp_path / "run", *several, method="embedding")
    assert done.returncode == 2
    assert b"weights are split for packed models alone, leave it out" in done.stderr


def test_ctrl_c_ends_every_process_and_keeps_the_best_weights(
    table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["train", table, "--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--gpus", 2]
    words += ["--out", tmp_path / "run", "--set", "method.train.epochs=500", "--set", "method.train.patience=500"]
    running = subprocess.Popen(
        [sys.executable, "-m", "lasttoken.cli.main", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has SIGINT ignored, and a process inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if "training, validation" in line:
            break
    running.send_signal(signal.SIGINT)
    rest = running.stderr.read()
    running.stderr.close()
    assert running.wait(timeout=60) == 130, rest
    assert "Traceback" not in rest
    assert "stopped by Ctrl-C" in rest
    assert (tmp_path / "run" / "adapter").is_dir()


def test_more_gpus_than_there_are(
    command: Callable[..., Any], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = command("train", table, "--method", "embedding", "--out", tmp_path / "run", "--gpus", 2)
    told = "lasttoken: --gpus: 2 asked for, this machine has 0; --device cpu runs processes on the CPU"
    assert (done.code, done.err.splitlines()[-1]) == (2, told)


def test_one_process_says_that_nothing_is_split(
    command: Callable[..., Any], table: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    done = train(
        command, table, folder("llama"), tmp_path / "run", "--set", "method.train.shard=true", method="embedding"
    )
    assert done.code == 0, done.err
    assert "train.shard has no effect: this is the only process; --gpus 2 starts two" in done.err
