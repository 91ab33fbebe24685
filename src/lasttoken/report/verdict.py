"""The result in words, what it stands on, and every pair of runs as the comparison judged it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken.evaluation.metrics import Metric
from lasttoken.report import figures, tables, units
from lasttoken.report.collect import RunView


@dataclass(frozen=True)
class ShownPair:
    """One pair of the comparison, as shown."""

    a: str
    b: str
    difference: str
    ends: str
    strip: str
    p_values: list[str]  # randomisation, the same after Holm, McNemar after Holm
    only: str  # rows that one of the two alone has right
    detectable: str
    verdict: str


def verdict(runs: Sequence[RunView], comparison: Mapping[str, Any] | None, metric: Metric) -> str:
    """The result: the comparison's own sentence, or what a table without tests allows to say. The best run is first."""
    best = tables.measure(runs[0], metric.name)
    scored = f"{units.score(best.estimate)} {metric.words} {units.span(best.low, best.high)}".rstrip()
    if len(runs) == 1:
        return f"{runs[0].name} scores {scored}."
    if comparison:
        return comparison["summary"]
    return f"{runs[0].name} scores best, {scored}. Whether it is better than the others or lucky was not tested."


def title(runs: Sequence[RunView]) -> str:
    """What the page is about: 'linear: reviews.csv', or 'reviews.csv: 4 runs compared'."""
    sources = " and ".join(dict.fromkeys(run.environment.data.source for run in runs))
    return f"{runs[0].name}: {sources}" if len(runs) == 1 else f"{sources}: {len(runs)} runs compared"


def scope(runs: Sequence[RunView], level: str, metric: Metric) -> str:
    """What the figures stand on, and the score of who does not read."""
    rows = either([units.whole(n) for n in sorted({run.test.n for run in runs})])
    classes = either([str(n) for n in sorted({run.test.classes for run in runs})])
    kind = "any number of labels" if runs[0].labels.multi else "one label"
    return (
        f"Measured on the {rows} rows of the test split: {classes} classes, {kind} a row. Intervals are at {level}."
        + floor(runs[0], metric)
    )


def floor(run: RunView, metric: Metric) -> str:
    """How far one gets without reading, as a sentence; nothing for a metric of probabilities."""
    if not metric.of_decisions:
        return ""
    column, name = tables.most_frequent_label(run)
    always = np.zeros(run.predictions.probs.shape)
    always[:, column] = 1
    score = metric(run.predictions.targets, always)
    return f" Always answering “{name}”, the most frequent label, would score {units.score(score)} {metric.words}."


def either(shown: Sequence[str]) -> str:
    """One value, or the first and the last of several."""
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def difference_scale(pairs: Sequence[Mapping[str, Any]]) -> figures.Scale:
    """The axis that holds every pair's difference, its interval, and zero."""
    return figures.scale_over([0.0, *(value for pair in pairs for value in difference(pair))], ticks=4)


def shown_pairs(pairs: Sequence[Mapping[str, Any]], scale: figures.Scale) -> list[ShownPair]:
    """The pairs of `Comparison.to_dict()`, in its order."""
    return [shown_pair(pair, scale) for pair in pairs]


def shown_pair(pair: Mapping[str, Any], scale: figures.Scale) -> ShownPair:
    """One pair of `Comparison.to_dict()`, its difference drawn on `scale`."""
    estimate, low, high = found = difference(pair)
    words = f"{pair['a']} less {pair['b']}: {units.signed(estimate)} {units.span(low, high)}"
    return ShownPair(
        a=pair["a"],
        b=pair["b"],
        difference=units.signed(estimate),
        ends=units.span(low, high),
        strip=figures.difference_strip(found, scale, shown=pair["winner"] is not None, words=words),
        p_values=[units.p_value(units.number(pair[name])) for name in ("p", "p_holm", "p_mcnemar_holm")],
        only=f"{units.whole(pair['only_a'])} : {units.whole(pair['only_b'])}",
        detectable=units.score(units.number(pair["mde"])),
        verdict=pair["verdict"],
    )


def difference(pair: Mapping[str, Any]) -> tuple[float, float, float]:
    """Estimate, low and high of a pair's difference; NaN where undefined."""
    found = pair["difference"]
    return units.number(found["estimate"]), units.number(found["low"]), units.number(found["high"])
