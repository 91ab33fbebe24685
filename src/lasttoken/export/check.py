"""The check of an export: the exported form answers the run's validation rows in its own runtime, beside the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken.errors import ExportRefused
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.predictions import read_raw, read_texts
from lasttoken.labels import LabelSpace
from lasttoken.record.schema import Checked
from lasttoken.wording import figure

REQUIRED = {"int8": 0.98, "int8-dynamic": 0.98}  # share of equal decisions; of a float precision:
FLOAT = 0.995
TIMED = 128  # rows whose time is taken, at most
ROUNDS = 3  # of which the median counts

Calibrated = Callable[[Sequence[str]], np.ndarray]  # texts -> calibrated probabilities (N, C)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to check on, and what the run answered."""

    texts: list[str]
    raw: np.ndarray  # (N, C), probabilities of the run before calibration


def validation_rows(run: Path, most: int) -> Rows:
    """At most `most` validation rows of a run, with what it answered. Raises ExportRefused where it kept none."""
    path = run / "predictions" / "valid.parquet"
    texts = read_texts(path) if path.is_file() else None
    if not texts:
        raise ExportRefused(
            f"{run}: keeps no validation rows to check an export on; fit again with this version of lasttoken"
        )
    return Rows(texts[:most], read_raw(path)[:most])


def test_texts(run: Path, most: int) -> list[str]:
    """At most `most` texts of the run's test rows, which set the ranges of int8 activations; their labels are not read."""
    return (read_texts(run / "predictions" / "test.parquet") or [])[:most]


def checked(
    name: str,
    theirs: Calibrated,
    ours: Calibrated,
    rows: Rows,
    policy: Policy,
    labels: LabelSpace,
    *,
    required: float,
) -> Checked:
    """How a form compares with the run. Raises ExportRefused where fewer than `required` of its decisions agree.

    One row may always differ: it is a tie but for rounding as often as not. Speeds are medians of several rounds of the
    same rows, alternated.
    """
    wanted, multi = policy.calibrated(rows.raw), labels.multi
    found = theirs(rows.texts)
    equal = policy.rule(found, multi) == policy.rule(wanted, multi)
    same = equal.all(axis=1) if multi else equal
    agreement, largest = float(same.mean()), float(np.abs(found - wanted).max())
    if agreement < required and (~same).sum() > 1:
        raise ExportRefused(
            f"{name}: {agreement:.1%} of {len(rows.texts)} validation rows get the decision that the run gives them "
            f"(largest difference of a probability {figure(largest)}), and {required:g} are required; accept less with "
            "--agreement, or choose another --precision"
        )
    some = rows.texts[:TIMED]
    times: list[tuple[float, float]] = [(clock(theirs, some), clock(ours, some)) for _ in range(ROUNDS)]
    spent = np.median(np.array(times), axis=0)
    return Checked(
        rows=len(rows.texts),
        agreement=agreement,
        required=required,
        largest=largest,
        rows_per_second=len(some) / spent[0],
        ours=len(some) / spent[1],
    )


def clock(answers: Calibrated, texts: Sequence[str]) -> float:
    """Seconds that the texts take."""
    began = time.perf_counter()
    answers(texts)
    return time.perf_counter() - began
