"""The runs below a folder, as a table: what each is, what it scored, and whether it was made on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.run_record import read_fact
from lasttoken.record.folder import EXPORT, INTERRUPTED, MANIFEST, TRAINING
from lasttoken.record.schema import Environment, Measure, Metrics

DEPTH = 4  # folders below the one that is named


@dataclass(frozen=True)
class RunSummary:
    """One run."""

    folder: str
    method: str
    model: str | None
    rows: int  # it was trained on
    test: int  # rows it was tested on
    metric: str
    score: Measure
    seconds: float  # of training
    created: str
    data: str  # digest of its rows; runs with the same one can be compared row by row


def runs_below(folder: Path) -> list[Path]:
    """Folders of finished runs in `folder` and below it, sorted; without checkpoints, exports and interrupted runs."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; name one that holds runs")
    patterns = ["/".join(["*"] * depth + [MANIFEST]) for depth in range(DEPTH + 1)]
    found = {path.parent for pattern in patterns for path in folder.glob(pattern)}
    return sorted(run for run in found if not left_out(run, folder))


def left_out(run: Path, folder: Path) -> bool:
    """Whether a folder with a manifest is no finished run."""
    inside = run.relative_to(folder).parts
    unfinished = any(part.endswith((INTERRUPTED, TRAINING)) for part in inside)
    return unfinished or (run / EXPORT).exists() or not (run / "metrics.json").is_file()


def summaries(folder: Path, metric: str) -> tuple[list[RunSummary], list[str]]:
    """(the runs below `folder`, best first; a sentence on each that cannot be read)."""
    found, unread = list[RunSummary](), list[str]()
    for run in runs_below(folder):
        try:
            found.append(facts(run, metric))
        except ArtifactError as error:
            unread.append(str(error))
    sign = -1 if METRICS[metric].higher_is_better else 1
    return sorted(found, key=lambda one: (math.isnan(one.score.estimate), sign * one.score.estimate)), unread


def facts(run: Path, metric: str) -> RunSummary:
    """What the files of a run say, without its model. Raises ArtifactError."""
    measures, made = read_fact(run / "metrics.json", Metrics), read_fact(run / "env.json", Environment)
    test = measures.splits.get("test")
    if test is None or metric not in test.metrics:
        known = ", ".join(test.metrics) if test else "none"
        raise ArtifactError(f"{run}: has no {metric} (it has {known}); choose another with --metric")
    return RunSummary(
        str(run),
        measures.method,
        measures.model,
        made.data.rows.get("train", 0),
        test.n,
        metric,
        test.metrics[metric],
        measures.cost.train_seconds,
        made.created,
        made.data_digest,
    )


def comparable(found: Sequence[RunSummary]) -> list[str]:
    """The folders that have the best run's rows, the best first."""
    return [one.folder for one in found if one.data == found[0].data and one.test == found[0].test] if found else []
