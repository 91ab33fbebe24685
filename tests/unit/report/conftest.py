"""Run folders as a fit leaves them, made from seeded random numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lasttoken.evaluation.policy import Policy, write_policy
from lasttoken.evaluation.predictions import Predictions, write_predictions
from lasttoken.evaluation.summary import summarize
from lasttoken.labels import LabelSpace

CLAIMS = (
    "A valve assembly comprising a spring-loaded seat, wherein the seat is displaced by a pilot stream",
    "Method for separating lactic acid from a fermentation broth by means of an anion exchanger",
    "Device for winding yarn onto bobbins, with a traversing guide driven by a linear motor",
    "A bracket that holds a window frame during casting and dissolves in the curing concrete",
)
EIGHT = ("chemistry", "construction", "electricity", "human needs", "mechanics", "operations", "physics", "textiles")
CONFIG = '# what the run was told\nmethod = "{method}"\nseed = 0\n\n[training]\nepochs = 3\nlearning_rate = 2e-4\n'

WriteRun = Callable[..., Path]


def single(labels: LabelSpace, skill: float, *, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N,), the same for every skill, and probabilities (N, C), the better the larger `skill`."""
    classes = len(labels)
    weight = 1 / np.arange(1, classes + 1) ** 0.5
    targets = np.random.default_rng(7).choice(classes, n, p=weight / weight.sum())
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) + 0.8 * np.roll(np.eye(classes), 1, axis=1)[targets]
    logits[np.arange(n), targets] += skill * np.linspace(1.25, 0.75, classes)[targets]
    probs = np.exp(1.4 * logits)
    return targets, probs / probs.sum(axis=1, keepdims=True)


def several(labels: LabelSpace, skill: float, *, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, C) bool, the same for every skill, and probabilities (N, C)."""
    targets = np.random.default_rng(7).random((n, len(labels))) < 0.25
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    return targets, 1 / (1 + np.exp(-(skill * (targets - 0.5) + noise)))


def steps(updates: int, *, seed: int) -> list[dict[str, object]]:
    """A training log that falls as losses do, scored every tenth of it."""
    rng = np.random.default_rng(seed)
    logged: list[dict[str, object]] = []
    for update in range(1, updates + 1):
        loss = 0.35 + 1.7 * math.exp(-3 * update / updates) + 0.12 * rng.normal()
        score = (
            {"macro_f1": round(0.8 - 0.6 * math.exp(-4 * update / updates), 4)}
            if update % (updates // 10) == 0
            else None
        )
        logged.append(
            {
                "update": update,
                "loss": loss,
                "lr": 2e-4,
                "grad_norm": 1.2,
                "rows": 8 * update,
                "seconds": 0.3,
                "valid": score,
            }
        )
    return logged  # fmt: skip


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run folder below the test's own folder; see `write`."""

    def in_tmp_path(name: str, /, **told: object) -> Path:
        return write(tmp_path / name, name, **told)  # type: ignore[arg-type]

    return in_tmp_path


def write(
    folder: Path,
    name: str,
    /,
    *,
    labels: LabelSpace | None = None,
    skill: float = 2.2,
    n: int = 400,
    updates: int = 0,
    texts: Sequence[str] | None = CLAIMS,
    cost: dict[str, object] | None = None,
    policy: Policy | None = None,
    **measured: object,  # fields of metrics.json to replace
) -> Path:
    """A whole run folder, decided on by `policy`; `texts` are repeated to fill the rows, None stores none."""
    labels = labels or LabelSpace(EIGHT)
    seed = sum(name.encode())
    targets, probs = (several if labels.multi else single)(labels, skill, n=n, seed=seed)
    predictions = Predictions([f"row-{i}" for i in range(n)], targets, probs, labels)
    if policy is not None:
        predictions = policy.shipped(predictions)
    (folder / "predictions").mkdir(parents=True)
    full = None if texts is None else [texts[i % len(texts)] for i in range(n)]
    write_predictions(predictions, folder / "predictions" / "test.parquet", texts=full, raw=probs)
    write_policy(policy or Policy(), folder)
    spent = {
        "trainable_parameters": 12_195_848, "total_parameters": 606_142_464, "train_seconds": 250.4,
        "train_rows_per_second": 83.13, "predict_rows_per_second": 512.0, "peak_memory_bytes": 1_420_000_000,
        "peak_memory_kind": "allocated", "peak_reserved_bytes": 1_800_000_000, "model_bytes": 48_800_000,
    }  # fmt: skip
    found = summarize(predictions, seed=0, draws=200)
    metrics = {
        "format": 1, "method": "embedding", "model": "tiny", "name": name, "splits": {"valid": found, "test": found},
        "cost": spent | (cost or {}), "notes": [], "invalid_answers": None,
    }  # fmt: skip
    environment = {
        "format": 1, "lasttoken": "0.1.0", "created": "2026-03-14T09:26:53+00:00",
        "versions": {"python": "3.11.2", "torch": "2.9.1", "transformers": "5.1.0", "numpy": "2.4.6"},
        "device": "cpu (2 cores)", "seed": 0, "git_commit": "0a1b2c3d", "data_digest": "9f86d081884c7d65" * 4,
        "data": {
            "source": "patents.csv", "origin": "made here: 70/10/20 stratified by label, seed 0",
            "rows": {"train": 7 * n // 2, "valid": n // 2, "test": n},
        },
    }  # fmt: skip
    contents = {
        "metrics.json": json.dumps(metrics | measured),
        "env.json": json.dumps(environment),
        "labels.json": json.dumps({"names": labels.names, "multi": labels.multi}),
        "config.toml": CONFIG.format(method=measured.get("method", "embedding")),
        "steps.jsonl": "".join(json.dumps(step) + "\n" for step in steps(updates, seed=seed)) if updates else "",
    }
    for file, text in contents.items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder
