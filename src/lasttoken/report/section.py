"""The report on one run: its row in the table of methods, its figures and its mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken import wording
from lasttoken.evaluation.decisions import NEVER
from lasttoken.evaluation.metrics import METRICS, Metric, reliability
from lasttoken.evaluation.predictions import HALF
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.record.schema import Measure
from lasttoken.report import charts, figures, tables

MATRIX_CLASSES = 20  # above it a heat map and the most confused pairs replace the confusion matrix


@dataclass(frozen=True)
class Section:
    """One run, ready for the page."""

    run: RunRecord
    number: int  # decides colour and shape
    glyph: str
    about: str
    cells: list[tables.Cell]  # of the table of methods
    interval: str  # strip of the headline metric
    calibration: str  # the calibration error, after and before
    thresholds: list[str]  # of each label, where a row may have several
    guarantees: list[str]  # what was guaranteed and achieved, one sentence each
    reliability: str  # panel
    curves: list[str]  # panels, none for a method without a training loop
    matrix: np.ndarray | None  # (C, C) confusion matrix; None with many classes or labels
    heat: str  # instead, with many classes: the heat map, similar classes side by side
    confused: list[tables.Confused]  # and the most confused pairs
    mistakes: list[tables.Mistake]
    memory: str


def sections(
    runs: Sequence[RunRecord], metric: Metric, *, columns: Sequence[tables.Column], scale: figures.Scale
) -> list[Section]:
    """One section for each run, in the order given."""
    cells = tables.method_cells(runs, columns)
    return [
        Section(
            run=run,
            number=i,
            glyph=figures.glyph(i),
            about=about(run),
            cells=cells[i],
            interval=interval_strip(run, metric, scale, number=i),
            calibration=calibration(run),
            thresholds=thresholds(run),
            guarantees=guarantees(run),
            reliability=reliability_panel(run, number=i),
            curves=curves(run, metric, number=i),
            matrix=tables.confusion_matrix(run) if readable(run) else None,
            heat="" if run.labels.multi or readable(run) else heat(run),
            confused=[] if run.labels.multi or readable(run) else tables.most_confused(run),
            mistakes=tables.mistakes(run),
            memory=memory(run),
        )
        for i, run in enumerate(runs)
    ]


def about(run: RunRecord) -> str:
    """The method and the model of a run, unless its name is the method."""
    parts = [run.measures.method if run.measures.method != run.name else "", run.measures.model or ""]
    return " · ".join(part for part in parts if part)


def readable(run: RunRecord) -> bool:
    """Whether a confusion matrix can be read: one label a row, and not too many classes."""
    return not run.labels.multi and len(run.labels) <= MATRIX_CLASSES


def heat(run: RunRecord) -> str:
    """The confusion matrix of many classes as a heat map with tooltips."""
    order, matrix = tables.clustered(run)
    names, support = [run.labels.names[j] for j in order], np.maximum(1, matrix.sum(axis=1))
    cells = [
        (
            i,
            j,
            float((matrix[i, j] / support[i]) ** 0.5),
            f"{names[i]}: {matrix[i, j]} of {support[i]} " + ("right" if i == j else f"taken for {names[j]}"),
        )
        for i, j in zip(*(found.tolist() for found in np.nonzero(matrix)), strict=True)
    ]
    words = f"{len(names)} classes by true class (down) and decided class (across), confused classes side by side"
    return charts.heat_panel(cells, len(names), words=words)


def memory(run: RunRecord) -> str:
    """Peak memory, and what was measured."""
    cost = run.measures.cost
    of = (
        "resident set of the process"
        if cost.peak_memory_kind == "resident"
        else f"{cost.peak_memory_kind} on the device"
    )
    reserved = (
        "" if math.isnan(cost.peak_reserved_bytes) else f", {wording.data_size(cost.peak_reserved_bytes)} reserved"
    )
    return f"{wording.data_size(cost.peak_memory_bytes)} ({of}{reserved})"


def interval_scale(runs: Sequence[RunRecord], metric: Metric) -> figures.Scale:
    """The axis that holds every run's interval of `metric`; for a single run it covers the metric's bounds."""
    found = [tables.measure(run, metric.name) for run in runs]
    values = [value for one in found for value in (one.estimate, one.low, one.high)]
    ends = [end for end in metric.bounds if math.isfinite(end)] if len(runs) == 1 else []
    return figures.scale_over([*values, *ends], within=metric.bounds)


def interval_strip(run: RunRecord, metric: Metric, scale: figures.Scale, *, number: int) -> str:
    """The headline metric of one run on its interval."""
    found = tables.measure(run, metric.name)
    words = f"{run.name}: {metric.words} {wording.score(found.estimate)} {wording.shown_span(found.low, found.high)}"
    return figures.interval_strip((found.estimate, found.low, found.high), scale, run=number, words=words)


def calibration(run: RunRecord) -> str:
    """Calibration error, after and before calibration."""
    after = wording.score(METRICS["ece"](run.predictions.targets, run.predictions.probs))
    method = run.policy.calibration.method
    if method == "none":
        return f"{after}, not calibrated"
    return f"{after}; {wording.score(METRICS['ece'](run.predictions.targets, run.raw))} before ({method})"


def thresholds(run: RunRecord) -> list[str]:
    """The threshold of each label, or `never`; dashes where the top k labels are given."""
    rule, classes = run.policy.rule, len(run.labels)
    if rule.top:
        return [wording.DASH] * classes
    limits = [HALF] * classes if rule.thresholds is None else rule.thresholds.tolist()
    return [wording.score(limit) if limit < NEVER else "never" for limit in limits]


def guarantees(run: RunRecord) -> list[str]:
    """What was guaranteed, and what was achieved on test rows."""
    found, said = run.measures.guarantees, []
    if found.each is not None:
        each = found.each
        said.append(
            f"has {share(each.had)} {each.of} over all labels, {wording.percent(each.wanted)} wanted of each; "
            f"{each.short} of {each.labels} labels are shown to have less"
        )
    if found.cost is not None:
        each, plain, saved = (
            f"{wording.score(one.estimate)} {wording.shown_span(one.low, one.high)}"
            for one in (found.cost.each, found.cost.by_most_probable, found.cost.saved)
        )
        said.append(f"costs {each} a row that is answered; the most probable label would cost {plain}: {saved} saved")
    if found.answered is not None and found.wrong is not None:
        said.append(f"answers {share(found.answered)} of the rows, {share(found.wrong)} of the answers are wrong")
    if found.sets is not None:
        sets = found.sets
        said.append(
            f"sets of {sets.size:.2f} labels hold {share(sets.had)} of the truth, {wording.percent(sets.promised)} guaranteed"
        )
    return said


def share(found: Measure) -> str:
    """91.2 % [90.1 %, 92.2 %]."""
    if math.isnan(found.estimate):
        return wording.DASH
    return f"{wording.percent(found.estimate)} [{wording.percent(found.low)}, {wording.percent(found.high)}]"


def reliability_panel(run: RunRecord, *, number: int) -> str:
    """The reliability diagram of the test rows, over the bins of the calibration error."""
    targets = run.predictions.targets
    bins, first = reliability(targets, run.predictions.probs), reliability(targets, run.raw)
    plain = run.policy.rule.costs is None  # with costs the decision may be another label
    of = "a label" if run.labels.multi else "the decision" if plain else "the most probable label"
    counts: list[int] = bins.count.tolist()
    seen = zip(first.confidence.tolist(), first.accuracy.tolist(), first.count.tolist(), strict=True)
    before = [(c, a) for c, a, n in seen if n >= figures.FEWEST] if run.policy.calibration.method != "none" else []
    confidence, accuracy = bins.confidence.tolist(), bins.accuracy.tolist()
    return figures.reliability_panel(confidence, accuracy, counts, run=number, of=of, before=before)


def curves(run: RunRecord, metric: Metric, *, number: int) -> list[str]:
    """Loss and validation metric against the update; the validation metric is `metric` if it was logged, else the first one."""
    if not run.steps:
        return []
    loss = [(float(step.update), step.loss) for step in run.steps]
    drawn = [figures.curve_panel(loss, title="training loss", run=number)]
    scored = [(float(step.update), step.valid) for step in run.steps if step.valid]
    logged = list(dict.fromkeys(name for _, valid in scored for name in valid))
    if logged:
        name = metric.name if metric.name in logged else logged[0]
        points = [(update, valid.get(name, math.nan)) for update, valid in scored]
        words = METRICS[name].words if name in METRICS else name
        drawn.append(figures.curve_panel(points, title=f"validation {words}", run=number, markers=True))
    return drawn
