"""The speed benchmark runs: every task at toy size through its own command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench/speed"
TASKS = {
    "embedding-training.toy.short": ("best", "paper"),
    "embedding-inference.toy.short": ("paper",),
    "instruction-training.toy.short": ("best",),
    "instruction-scoring.toy.short": ("one", "batched"),
    "label-count.toy.questions": ("four",),
    "probe.toy.short": ("best",),
    "scale.toy.short": ("predict_seconds_a_token", "predict_memory", "train_seconds_a_token", "train_memory"),
    "startup": ("help_seconds", "import_seconds"),
}
NEEDED = {"instruction-training.toy.short": "trl", "probe.toy.short": "sentence_transformers"}


def run(script: str, *words: str) -> None:
    """A script of the benchmark in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_every_task_at_toy_size(tmp_path: Path) -> None:
    run("run.py", "--toy", "--rounds", "1", "--out", str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    here = {name: bars for name, bars in TASKS.items() if name not in NEEDED or find_spec(NEEDED[name])}
    assert sorted(summary) == sorted(f"{name}.{bar}" for name, bars in here.items() for bar in bars)
    assert all(math.isfinite(one["ratio"]) and one["ratio"] > 0 and one["runs"] >= 1 for one in summary.values())
    for name in here:
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["versions"]["torch"]
        assert result["machine"]["threads"] == 1
        for contender in result.get("contenders", []):
            assert len(contender["rates"]) == 1
            assert contender["rates"][0] > 0
        # The same weights and rows: what the two sides say differs by bfloat16's rounding alone.
        assert all(error < 0.02 for error in result.get("agreement", {}).values()), result["agreement"]
