"""Figures over all runs: learning curves, quality against cost, error against coverage, F1 against threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken import wording
from lasttoken.evaluation.decisions import confidence, risk_coverage
from lasttoken.evaluation.metrics import METRICS, Metric, exact
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.report import charts, figures, tables
from lasttoken.report.charts import Point

FEWEST = 50  # test rows below which error against coverage is not drawn
GRID = np.linspace(0.02, 0.98, 49)  # thresholds


@dataclass(frozen=True)
class Growth:
    """Learning curves and their extrapolation in words."""

    panel: str
    sentences: list[str]


@dataclass(frozen=True)
class CrossRunFigures:
    """Figures over all runs; None or empty where there is nothing to draw."""

    growth: Growth | None
    pareto: list[str]
    risk: str
    thresholds: list[str]


def cross_run_figures(
    runs: Sequence[RunRecord], comparison: Mapping[str, Any] | None, metric: Metric
) -> CrossRunFigures:
    """The figures over `runs`; colours and shapes follow their order."""
    learnt = comparison.get("learning") if comparison else None
    return CrossRunFigures(
        growth=None if learnt is None else growth(runs, learnt, metric),
        pareto=pareto(runs, metric) if len(runs) > 1 else [],
        risk=risk(runs),
        thresholds=threshold_curves(runs) if runs[0].labels.multi else [],
    )


def growth(runs: Sequence[RunRecord], learnt: Mapping[str, Any], metric: Metric) -> Growth:
    """The learning curves from `learning` of a comparison."""
    numbers = {run.name: i for i, run in enumerate(runs)}
    series = {
        numbers[name]: [
            Point(p["rows"], wording.number(p["estimate"]), wording.number(p["low"]), wording.number(p["high"]))
            for p in points
        ]
        for name, points in learnt["points"].items()
    }
    said = "; ".join(
        f"{runs[i].name}: " + ", ".join(f"{wording.score(p.y)} with {p.x:,.0f} rows" for p in points)
        for i, points in sorted(series.items())
    )
    panel = charts.growth_panel(dict(sorted(series.items())), title=metric.words, words=f"{metric.words}. {said}")
    return Growth(panel, learnt["sentences"])


def pareto(runs: Sequence[RunRecord], metric: Metric) -> list[str]:
    """Quality against speed, memory and trainable parameters; one panel for each cost known for two runs or more."""
    on_device = all(run.measures.cost.peak_memory_kind != "resident" for run in runs)
    costs = [
        ("predicted rows/s", "predict_rows_per_second", False, wording.rate),
        ("peak memory", "peak_memory_bytes", True, wording.data_size)
        if on_device  # the resident set of the process includes earlier fits
        else ("model size", "model_bytes", True, wording.data_size),
        ("trainable parameters", "trainable_parameters", True, wording.size),
    ]
    drawn = []
    for words, name, less, shown in costs:
        points = {}
        for i, run in enumerate(runs):
            found = tables.measure(run, metric.name)
            points[i] = Point(getattr(run.measures.cost, name), found.estimate, found.low, found.high)
        known = {i: p for i, p in points.items() if math.isfinite(p.x) and p.x > 0 and math.isfinite(p.y)}
        if len(known) < 2:
            continue
        best = charts.front(known, less_is_better=less, higher=metric.higher_is_better)
        said = "; ".join(
            f"{runs[i].name} {wording.score(p.y)} at {shown(p.x)}{'' if i in best else ', beaten in both'}"
            for i, p in known.items()
        )
        drawn.append(
            charts.pareto_panel(
                known,
                title=metric.words,
                below=f"{words} {'←' if less else '→'} better",
                less_is_better=less,
                higher=metric.higher_is_better,
                shown=shown,
                words=f"{metric.words} against {words}. {said}",
            )
        )
    return drawn


def risk(runs: Sequence[RunRecord]) -> str:
    """Error rate against coverage, surest rows first; '' below FEWEST test rows."""
    if len(runs[0].predictions) < FEWEST:
        return ""
    series, said = {}, []
    for i, run in enumerate(runs):
        seen = run.predictions
        right = exact(seen.targets, seen.chosen)
        coverage, wrong = risk_coverage(right, confidence(seen.probs, seen.chosen))
        smooth = max(10, len(right) // 50)  # the error rate of the first few rows is noise
        series[i] = [Point(c, r) for c, r in zip(coverage[smooth:].tolist(), wrong[smooth:].tolist(), strict=True)]
        half = float(wrong[max(0, len(wrong) // 2 - 1)])
        said.append(
            f"{run.name}: {wording.percent(float(wrong[-1]))} wrong of all, {wording.percent(half)} of the surer half"
        )
    worst = max((point.y for those in series.values() for point in those), default=1.0)
    return charts.lines_panel(
        series,
        title="share of answers that is wrong",
        below="share of rows answered, the surest first",
        x=figures.UNIT,
        y=figures.scale_over([0.0, worst], within=(0.0, 1.0)),
        words="Error against coverage. " + "; ".join(said),
    )


def threshold_curves(runs: Sequence[RunRecord]) -> list[str]:
    """Micro-F1 and macro-F1 against one threshold for all labels; dashed: the run's own decisions."""
    drawn = []
    for name in ("micro_f1", "macro_f1"):
        metric, series, levels = METRICS[name], {}, {}
        for i, run in enumerate(runs):
            seen = run.predictions
            scores = [metric(seen.targets, seen.probs, seen.probs >= limit) for limit in GRID.tolist()]
            series[i] = [Point(x, y) for x, y in zip(GRID.tolist(), scores, strict=True)]
            levels[i] = metric(seen.targets, seen.probs, seen.chosen)
        said = "; ".join(
            f"{run.name}: {wording.score(levels[i])} with its own thresholds, at best {wording.score(max(p.y for p in series[i]))} "
            "with one threshold for all"
            for i, run in enumerate(runs)
        )
        values = [*levels.values(), *(point.y for those in series.values() for point in those)]
        drawn.append(
            charts.lines_panel(
                series,
                title=metric.words,
                below="one threshold for all labels",
                x=figures.UNIT,
                y=figures.scale_over(values, within=(0.0, 1.0)),
                words=f"{metric.words} against a common threshold. {said}",
                levels=levels,
            )
        )
    return drawn
