"""The report: one HTML file that stands alone. Nothing is loaded from elsewhere; its one script sorts tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lasttoken.errors import ArtifactError, UserError
from lasttoken.evaluation.metrics import HEADLINE, METRICS
from lasttoken.report import figures, tables, units
from lasttoken.report.collect import RunView
from lasttoken.report.section import interval_scale, sections
from lasttoken.report.together import together
from lasttoken.report.verdict import difference_scale, scope, shown_pairs, verdict
from lasttoken.run import write_text

MANY_CLASSES = 30  # above it only the best and the worst of the per-class table stand open
GENERATOR = b'<meta name="generator" content="lasttoken">'
ENDS = 15  # classes of each end that do
SCRIPT = Path(__file__).parent / "sort.js"


def render(runs: Sequence[RunView], comparison: Mapping[str, Any] | None, *, title: str) -> str:
    """The page about `runs`, the best first. `comparison` is a `Comparison.to_dict()`, or None where none was made.

    Raises UserError where there is no run, where names repeat, or where single-label and multi-label runs are mixed.
    """
    check(runs)
    metric = METRICS[comparison["metric"] if comparison else HEADLINE]
    runs = tables.best_first(runs, metric)
    columns = tables.columns(metric, multi=runs[0].labels.multi)
    scale = interval_scale(runs, metric)
    pairs: list[Mapping[str, Any]] = comparison["pairs"] if comparison else []
    differences = difference_scale(pairs)
    rows = tables.class_rows(runs)
    level = f"{100 * tables.measure(runs[0], metric.name).level:g} %"
    script, further = SCRIPT.read_text(encoding="utf-8"), tables.further(runs)
    return template().render(
        title=title,
        units=units,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # the only one that may run
        metric=metric,
        level=level,
        multi=runs[0].labels.multi,
        sections=sections(runs, metric, columns=columns, scale=scale),
        glyphs={run.name: figures.glyph(i) for i, run in enumerate(runs)},
        verdict=verdict(runs, comparison, metric),
        scope=scope(runs, level, metric),
        created=max(run.environment.created for run in runs)[:10],
        devices=list(dict.fromkeys(run.environment.device for run in runs)),
        columns=columns,
        axis=figures.axis_strip(scale),
        notes=[(run.name, note) for run in runs for note in tables.notes(run)],
        comparison=comparison,
        pairs=shown_pairs(pairs, differences),
        pair_axis=figures.axis_strip(differences),
        rows=rows,
        shown_rows=[*rows[:ENDS], None, *rows[-ENDS:]] if len(rows) > MANY_CLASSES else rows,
        ends=ENDS,
        strips={row.label: figures.dot_strip(row.f1, figures.UNIT, words=tables.in_words(row, runs)) for row in rows},
        unit_axis=figures.axis_strip(figures.UNIT),
        problems=tables.problems(runs),
        together=together(runs, comparison, metric),
        seeds=seeds(runs, comparison),
        further_bands=any(words.startswith("macro") for words, _ in further),
        doubted=doubted(runs),
        runs_explain=any(run.explained for run in runs),
        further=further,
        disputed=tables.disputed(runs),
        hardest=tables.hardest(runs),
        measures=tables.measures(runs),
    )


def doubted(runs: Sequence[RunView]) -> str:
    """The first thing that looks wrong in the data, and how many more there are."""
    doubts = list(dict.fromkeys(doubt for run in runs for doubt in run.environment.data.doubts))
    more = f", and {len(doubts) - 1} more" if len(doubts) > 1 else ""
    return doubts[0].partition(";")[0] + more if doubts else ""


def seeds(runs: Sequence[RunView], comparison: Mapping[str, Any] | None) -> dict[str, str]:
    """The score of each seed of the runs that have several, in words, by the run's name."""
    found, spreads = (comparison.get(key, {}) if comparison else {} for key in ("by_seed", "spread"))
    said = {}
    for run in runs:
        scores = [units.number(value) for value in found.get(run.name, [])]
        if len(scores) > 1:
            spread = {of: units.score(units.number(value)) for of, value in spreads[run.name].items()}
            said[run.name] = (
                f"mean of {len(scores)} seeds: {', '.join(map(units.score, scores))} (standard deviation between seeds "
                f"{spread['seeds']}, between test sets {spread['rows']})"
            )
    return said


def check(runs: Sequence[RunView]) -> None:
    """Raises UserError where these runs cannot share a page."""
    if not runs:
        raise UserError("a report needs a run; name one or more run folders")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"runs of one report need different names; given twice: {twice}")
    if len({run.labels.multi for run in runs}) > 1:
        raise UserError("single-label and multi-label runs cannot share a report; report on each kind alone")


def template() -> Any:
    """The page's template. Whatever it is given is escaped, but for the figures, which escape their own texts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lasttoken", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def check_page(path: Path) -> None:
    """Raises ArtifactError where a page cannot go to `path`: before it is made. A report may be replaced, nothing else."""
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; name an HTML file with --out")
    if path.exists() and GENERATOR not in path.read_bytes()[:1000]:
        raise ArtifactError(f"{path} exists and is no report; name another file with --out, or delete it first")


def write_page(html: str, path: Path) -> None:
    """Write the page whole or not at all: PATH.part first, renamed when it is on disk. Raises ArtifactError."""
    check_page(path)
    try:
        write_text(path, html)
    except OSError as error:
        path.with_name(path.name + ".part").unlink(missing_ok=True)
        raise ArtifactError(f"{path} could not be written ({error.strerror}); name another file with --out") from error
