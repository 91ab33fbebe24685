"""Results compared row by row: how much more often one side decides a test row exactly right, with its interval."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.seeds import over_seeds


def right(run: dict[str, Any]) -> np.ndarray:
    """Which test rows a result decided exactly right, (N,) bool."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(run["right"])), dtype=np.uint8))
    return bits[: run["problem"]["test"]].astype(bool)


def difference(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> Interval:
    """The mean over test rows of how much larger a share of `own` decided them exactly right than of `other`."""
    gaps = np.mean([right(run) for run in own], axis=0) - np.mean([right(run) for run in other], axis=0)
    shares = [np.array([right(run).mean() for run in runs]) for runs in (own, other) if len(runs) > 1]
    return over_seeds(float(gaps.mean()), float(gaps.var(ddof=1)) / len(gaps), len(gaps), shares)[0]


def alike(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both sides, of the seeds that both have."""
    seeds = {run["seed"] for run in own} & {run["seed"] for run in other}
    mine, theirs = ([run for run in side if run["seed"] in seeds] for side in (own, other))
    return mine, theirs
