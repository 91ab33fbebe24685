"""Who is faster: contenders that do the same work, alternated, and the medians of what they reached.

After a warm-up every contender runs once a round, in an order that is drawn anew, so that whatever slows the machine down
slows all of them down. A comparison is the median over rounds of the ratio of two rates of the same round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken.seed import generator


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a contender over its rows."""

    seconds: float  # set-up and what every program does once left out
    output: np.ndarray | None = None  # (n, ...) in the order of its rows, where there is something to compare


@dataclass(frozen=True, eq=False)
class Contender:
    """One way to do the work."""

    name: str
    rows: np.ndarray  # (n,) of the slice
    run: Callable[[], Pass]
    ours: bool = False
    tags: tuple[str, ...] = ()  # what bars are set against: "paper", "one", "batched", ...
    batch: int | None = None  # rows an update, where that makes trainings alike
    family: str | None = None  # of those with one family, only the one that is fastest after the warm-up stays


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """`with timed() as seconds: ...`, then seconds() is how long that took."""
    began, ended = time.perf_counter(), []
    yield lambda: (ended[0] if ended else time.perf_counter()) - began
    ended.append(time.perf_counter())


def compare(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    peak: Callable[[], float],
    note: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """The rates (rows/s) of every contender in every round, the peak (FLOP/s) of every round, and whether answers agree."""
    outputs = {contender.name: once(contender).output for contender in contenders}  # the warm-up
    left, out = screened(contenders)
    order = generator(0, "order of the contenders")
    rates: dict[str, list[float]] = {contender.name: [] for contender in left}
    peaks = []
    for number in range(rounds):
        peaks.append(peak())
        for i in order.permutation(len(left)):
            one = left[i]
            rates[one.name].append(len(one.rows) / once(one).seconds)
        note(f"round {number + 1} of {rounds}: " + ", ".join(f"{n} {r[-1]:.1f}" for n, r in rates.items()))
    return {
        "contenders": [described(contender, rates[contender.name]) for contender in left],
        "left_out": out,
        "peak_flops": peaks,
        "agreement": agreement(left, outputs),
    }


def once(contender: Contender) -> Pass:
    """A pass, begun with the garbage of those before it collected."""
    gc.collect()
    return contender.run()


def screened(contenders: Sequence[Contender]) -> tuple[list[Contender], list[dict[str, Any]]]:
    """(who takes part, who does not and why): of each family the fastest in one pass after the warm-up."""
    families = [contender.family for contender in contenders]
    seconds = {c.name: once(c).seconds for c in contenders if c.family is not None and families.count(c.family) > 1}
    left, out = [], []
    for contender in contenders:
        rivals = [c.name for c in contenders if c.family == contender.family and c.name in seconds]
        best = min(rivals, key=seconds.__getitem__) if contender.name in seconds else contender.name
        if best == contender.name:
            left.append(contender)
        else:
            out.append({"name": contender.name, "seconds": seconds[contender.name], "best": best, "its": seconds[best]})
    return left, out


def described(contender: Contender, rates: list[float]) -> dict[str, Any]:
    """What the result file says of a contender."""
    return {
        "name": contender.name,
        "ours": contender.ours,
        "tags": list(contender.tags),
        "batch": contender.batch,
        "rows": len(contender.rows),
        "rates": rates,
    }


def agreement(contenders: Sequence[Contender], outputs: dict[str, np.ndarray | None]) -> dict[str, float]:
    """For each peer with an output, |its - ours| / |ours| in the L2 norm over the rows that both have."""
    ours = next((c for c in contenders if c.ours and outputs[c.name] is not None), None)
    if ours is None:
        return {}
    place = {row: i for i, row in enumerate(ours.rows.tolist())}
    found = {}
    for contender in contenders:
        output = outputs[contender.name]
        if contender is ours or output is None or output.shape[1:] != outputs[ours.name].shape[1:]:  # type: ignore[union-attr]
            continue
        shared = [(i, place[row]) for i, row in enumerate(contender.rows.tolist()) if row in place]
        theirs, own = output[[i for i, _ in shared]], outputs[ours.name][[j for _, j in shared]]  # type: ignore[index]
        found[contender.name] = float(np.linalg.norm(theirs - own) / np.linalg.norm(own))
    return found
