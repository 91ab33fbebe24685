"""What the page shows of one run: its row of the table of methods, its figures and its mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken.evaluation.decisions import NEVER
from lasttoken.evaluation.metrics import METRICS, Metric, reliability
from lasttoken.evaluation.predictions import HALF
from lasttoken.report import charts, figures, tables, units
from lasttoken.report.collect import Measure, RunView

MATRIX_CLASSES = 20  # above it the most confused pairs stand in for the confusion matrix


@dataclass(frozen=True)
class Section:
    """One run, ready for the page."""

    run: RunView
    number: int  # decides colour and shape
    glyph: str
    about: str
    cells: list[tables.Cell]  # of the table of methods
    interval: str  # strip of the headline metric
    calibration: str  # the calibration error, after and before
    thresholds: list[str]  # of each label, where a row may have several
    promised: list[str]  # what abstaining and sets came to, a sentence each
    reliability: str  # panel
    curves: list[str]  # panels, none for a method without a training loop
    matrix: np.ndarray | None  # (C, C) confusion, where a matrix is readable
    heat: str  # where it is not: the classes set beside those that they are taken for
    confused: list[tables.Confused]  # and the pairs most often confused
    mistakes: list[tables.Mistake]
    memory: str


def sections(
    runs: Sequence[RunView], metric: Metric, *, columns: Sequence[tables.Column], scale: figures.Scale
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
            promised=promised(run),
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


def about(run: RunView) -> str:
    """The method and the model of a run, as far as its name does not say them."""
    parts = [run.measures.method if run.measures.method != run.name else "", run.measures.model or ""]
    return " · ".join(part for part in parts if part)


def readable(run: RunView) -> bool:
    """Whether a confusion matrix can be read: one label a row, and not too many classes."""
    return not run.labels.multi and len(run.labels) <= MATRIX_CLASSES


def heat(run: RunView) -> str:
    """The confusions of many classes as a square, each place with its names and counts to be pointed at."""
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
    words = f"{len(names)} classes by true class (down) and decided class (across), ordered by what is confused"
    return charts.heat_panel(cells, len(names), words=words)


def memory(run: RunView) -> str:
    """Peak memory, and of what it is the peak."""
    cost = run.measures.cost
    of = (
        "resident set of the process"
        if cost.peak_memory_kind == "resident"
        else f"{cost.peak_memory_kind} on the device"
    )
    reserved = "" if math.isnan(cost.peak_reserved_bytes) else f", {units.data_size(cost.peak_reserved_bytes)} reserved"
    return f"{units.data_size(cost.peak_memory_bytes)} ({of}{reserved})"


def interval_scale(runs: Sequence[RunView], metric: Metric) -> figures.Scale:
    """The axis that holds every run's interval of `metric`; all that the metric can be where one run stands alone."""
    found = [tables.measure(run, metric.name) for run in runs]
    values = [value for one in found for value in (one.estimate, one.low, one.high)]
    ends = [end for end in metric.bounds if math.isfinite(end)] if len(runs) == 1 else []
    return figures.scale_over([*values, *ends], within=metric.bounds)


def interval_strip(run: RunView, metric: Metric, scale: figures.Scale, *, number: int) -> str:
    """The headline metric of one run on its interval."""
    found = tables.measure(run, metric.name)
    words = f"{run.name}: {metric.words} {units.score(found.estimate)} {units.span(found.low, found.high)}"
    return figures.interval_strip((found.estimate, found.low, found.high), scale, run=number, words=words)


def calibration(run: RunView) -> str:
    """The calibration error, and what it was before calibration."""
    after = units.score(METRICS["ece"](run.predictions.targets, run.predictions.probs))
    method = run.policy.calibration.method
    if method == "none":
        return f"{after}, not calibrated"
    return f"{after}; {units.score(METRICS['ece'](run.predictions.targets, run.raw))} before ({method})"


def thresholds(run: RunView) -> list[str]:
    """The probability from which each label is given, or never; a dash where the most probable ones are, whatever they are."""
    rule, classes = run.policy.rule, len(run.labels)
    if rule.top:
        return [units.DASH] * classes
    limits = [HALF] * classes if rule.thresholds is None else rule.thresholds.tolist()
    return [units.score(limit) if limit < NEVER else "never" for limit in limits]


def promised(run: RunView) -> list[str]:
    """What was promised, and what it came to on test rows."""
    found, said = run.measures.promises, []
    if found.each is not None:
        each = found.each
        said.append(
            f"has {share(each.had)} {each.of} over all labels, {units.percent(each.wanted)} wanted of each; "
            f"{each.short} of {each.labels} labels are shown to have less"
        )
    if found.cost is not None:
        each, plain, saved = (
            f"{units.score(one.estimate)} {units.span(one.low, one.high)}"
            for one in (found.cost.each, found.cost.by_most_probable, found.cost.saved)
        )
        said.append(f"costs {each} a row that is answered; the most probable label would cost {plain}: {saved} saved")
    if found.answered is not None and found.wrong is not None:
        said.append(f"answers {share(found.answered)} of the rows, {share(found.wrong)} of the answers are wrong")
    if found.sets is not None:
        sets = found.sets
        said.append(
            f"sets of {sets.size:.2f} labels hold {share(sets.had)} of the truth, {units.percent(sets.promised)} promised"
        )
    return said


def share(found: Measure) -> str:
    """91.2 % [90.1 %, 92.2 %]."""
    if math.isnan(found.estimate):
        return units.DASH
    return f"{units.percent(found.estimate)} [{units.percent(found.low)}, {units.percent(found.high)}]"


def reliability_panel(run: RunView, *, number: int) -> str:
    """The reliability diagram of the test rows, over the bins of the calibration error."""
    targets = run.predictions.targets
    bins, first = reliability(targets, run.predictions.probs), reliability(targets, run.raw)
    plain = run.policy.rule.costs is None  # decisions by cost may be of another label
    of = "a label" if run.labels.multi else "the decision" if plain else "the most probable label"
    counts: list[int] = bins.count.tolist()
    seen = zip(first.confidence.tolist(), first.accuracy.tolist(), first.count.tolist(), strict=True)
    before = [(c, a) for c, a, n in seen if n >= figures.SAYING] if run.policy.calibration.method != "none" else []
    confidence, accuracy = bins.confidence.tolist(), bins.accuracy.tolist()
    return figures.reliability_panel(confidence, accuracy, counts, run=number, of=of, before=before)


def curves(run: RunView, metric: Metric, *, number: int) -> list[str]:
    """Loss and validation metric against the update; of the validation metrics `metric` where it was logged."""
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
