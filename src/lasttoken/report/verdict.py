"""The verdict in words, the test split that it is based on, and the pairwise comparison of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken import wording
from lasttoken.evaluation.metrics import Metric
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.report import figures, tables


@dataclass(frozen=True)
class ShownPair:
    """One pair of the comparison, as shown."""

    a: str
    b: str
    difference: str
    ends: str
    strip: str
    p_values: list[str]  # randomisation test, the same after Holm, McNemar's test after Holm
    only: str  # rows that only the first, or only the second, has right
    detectable: str
    verdict: str


def verdict(runs: Sequence[RunRecord], comparison: Mapping[str, Any] | None, metric: Metric) -> str:
    """The result in one sentence: the comparison's summary, or without one the best score. The best run is first."""
    best = tables.measure(runs[0], metric.name)
    scored = f"{wording.score(best.estimate)} {metric.words} {wording.shown_span(best.low, best.high)}".rstrip()
    if len(runs) == 1:
        return f"{runs[0].name} scores {scored}."
    if comparison:
        return comparison["summary"]
    return f"{runs[0].name} scores best, {scored}. Whether the differences are significant was not tested."


def title(runs: Sequence[RunRecord]) -> str:
    """Title of the report: 'linear: reviews.csv', or 'reviews.csv: 4 runs compared'."""
    sources = " and ".join(dict.fromkeys(run.environment.data.source for run in runs))
    return f"{runs[0].name}: {sources}" if len(runs) == 1 else f"{sources}: {len(runs)} runs compared"


def scope(runs: Sequence[RunRecord], level: str, metric: Metric) -> str:
    """Rows and classes of the test split, and the score of always predicting the majority class."""
    rows = either([wording.whole(n) for n in sorted({run.test.n for run in runs})])
    classes = either([str(n) for n in sorted({run.test.classes for run in runs})])
    kind = "any number of labels" if runs[0].labels.multi else "one label"
    crossed = runs[0].measures.cross_validated
    where = f"Measured on the {rows} rows of the test split"
    if crossed is not None:
        where = f"Measured by {crossed.folds}-fold cross-validation on {rows} rows"
    told = (
        ""
        if crossed is None
        else " Each row was judged once, by a model that did not see it; the saved model is trained on all "
        "rows but those that tune it, and has never been judged on new ones."
    )
    return f"{where}: {classes} classes, {kind} a row.{told} Intervals are at {level}." + majority_baseline(
        runs[0], metric
    )


def majority_baseline(run: RunRecord, metric: Metric) -> str:
    """The score of always predicting the majority class, as a sentence; '' for a metric of probabilities."""
    if not metric.of_decisions:
        return ""
    column, name = tables.most_frequent_label(run)
    always = np.zeros(run.predictions.probs.shape)
    always[:, column] = 1
    score = metric(run.predictions.targets, always)
    return f" Always answering “{name}”, the most frequent label, would score {wording.score(score)} {metric.words}."


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
    words = f"{pair['a']} less {pair['b']}: {wording.signed(estimate)} {wording.shown_span(low, high)}"
    return ShownPair(
        a=pair["a"],
        b=pair["b"],
        difference=wording.signed(estimate),
        ends=wording.shown_span(low, high),
        strip=figures.difference_strip(found, scale, shown=pair["winner"] is not None, words=words),
        p_values=[wording.shown_p(wording.number(pair[name])) for name in ("p", "p_holm", "p_mcnemar_holm")],
        only=f"{wording.whole(pair['only_a'])} : {wording.whole(pair['only_b'])}",
        detectable=wording.score(wording.number(pair["mde"])),
        verdict=pair["verdict"],
    )


def difference(pair: Mapping[str, Any]) -> tuple[float, float, float]:
    """Estimate, low and high of a pair's difference; NaN where undefined."""
    found = pair["difference"]
    return wording.number(found["estimate"]), wording.number(found["low"]), wording.number(found["high"])
