"""The check of an export: the exported form answers the run's validation rows in its own runtime, beside the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken.errors import ExportRefused
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.predictions import check_finite, read_raw, read_texts
from lasttoken.labels import LabelSpace
from lasttoken.record.schema import Checked
from lasttoken.wording import figure

TIMED = 128  # rows whose time is taken, at most
ROUNDS = 3  # of which the median counts

Calibrated = Callable[[Sequence[str]], np.ndarray]  # texts -> calibrated probabilities (N, C)


@dataclass(frozen=True, eq=False)
class Reference:
    """What the run answers to its validation rows."""

    texts: list[str]
    raw: np.ndarray  # (N, C), probabilities before calibration, stored when the run was made
    policy: Policy
    labels: LabelSpace
    answers: Calibrated  # the run, answering now: for its speed

    @property
    def probs(self) -> np.ndarray:
        """Calibrated, (N, C)."""
        return self.policy.calibrated(self.raw)

    def same(self, probs: np.ndarray) -> np.ndarray:
        """Whether each row gets the run's decision with these calibrated probabilities, (N,) bool."""
        equal = self.policy.rule(probs, self.labels.multi) == self.policy.rule(self.probs, self.labels.multi)
        return equal.all(axis=1) if self.labels.multi else equal


def validation_rows(run: Path, most: int) -> tuple[list[str], np.ndarray]:
    """(texts, stored probabilities before calibration (N, C)) of at most `most` validation rows of a run.

    Raises ExportRefused where it kept none.
    """
    path = run / "predictions" / "valid.parquet"
    texts = read_texts(path) if path.is_file() else None
    if not texts:
        raise ExportRefused(f"{run}: keeps no validation rows to check an export on; fit again with this version")
    return texts[:most], read_raw(path)[:most]


def test_texts(run: Path, most: int) -> list[str]:
    """At most `most` texts of the run's test rows, which set the ranges of int8 activations; their labels are not read."""
    return (read_texts(run / "predictions" / "test.parquet") or [])[:most]


def checked(
    name: str, theirs: Calibrated, used: Calibrated, ref: Reference, *, required: float, tie: bool = True
) -> Checked:
    """How a form compares with the run. Raises ExportRefused where fewer than `required` of its decisions agree.

    theirs: the form in its own runtime. used: the form as `predict` runs it, whose speed is taken. tie: whether one row may
    differ whatever their number: it is a tie but for rounding as often as not. Speeds are medians of several rounds of the
    same rows, alternated.
    """
    found, rows = theirs(ref.texts), len(ref.texts)
    check_finite(found, [str(row) for row in range(rows)])
    same = ref.same(found)
    agreement, largest = float(same.mean()), float(np.abs(found - ref.probs).max())
    if agreement < required and (~same).sum() > tie:
        raise ExportRefused(
            f"{name}: {agreement:.1%} of {rows} validation rows get the decision that the run gives them "
            f"(largest difference of a probability {figure(largest)}), and {required:.1%} are required; accept less with "
            "--agreement, or choose another --precision"
        )
    some = ref.texts[:TIMED]
    spent = np.median([(clock(used, some), clock(ref.answers, some)) for _ in range(ROUNDS)], axis=0)
    return Checked(
        rows=rows,
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
