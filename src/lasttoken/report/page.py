"""The report: one self-contained HTML file. It loads nothing; its one script sorts tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lasttoken import wording
from lasttoken.errors import ArtifactError, UserError
from lasttoken.evaluation.gaining import remarks
from lasttoken.evaluation.metrics import HEADLINE, METRICS
from lasttoken.evaluation.run_record import RunRecord
from lasttoken.record.folder import write_text
from lasttoken.report import figures, tables
from lasttoken.report.cross_run_figures import cross_run_figures
from lasttoken.report.section import interval_scale, sections
from lasttoken.report.verdict import difference_scale, scope, shown_pairs, verdict

MANY_CLASSES = 30  # above it the per-class table shows only its ENDS best and worst classes
GENERATOR = b'<meta name="generator" content="lasttoken">'
ENDS = 15
SCRIPT = Path(__file__).parent / "sort.js"


def render(runs: Sequence[RunRecord], comparison: Mapping[str, Any] | None, *, title: str) -> str:
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
    script, further = SCRIPT.read_text(encoding="utf-8"), tables.problem_measures(runs)
    return template().render(
        title=title,
        wording=wording,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # the only one that may run
        metric=metric,
        crossed=runs[0].measures.cross_validated is not None,
        level=level,
        multi=runs[0].labels.multi,
        sections=sections(runs, metric, columns=columns, scale=scale),
        glyphs={run.name: figures.glyph(i) for i, run in enumerate(runs)},
        verdict=verdict(runs, comparison, metric),
        scope=scope(runs, level, metric),
        created=max(run.environment.created for run in runs)[:10],
        devices=devices(runs),
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
        cross_run=cross_run_figures(runs, comparison, metric),
        seeds=seeds(runs, comparison),
        further_bands=any(words.startswith("macro") for words, _ in further),
        doubted=doubted(runs),
        remarks=remarks(runs),
        bare=wording.listed(tables.without_interval(runs)),
        runs_explain=any(run.explained for run in runs),
        further=further,
        disputed=tables.disputed(runs),
        hardest=tables.hardest(runs),
        measures=tables.measures(runs),
    )


def devices(runs: Sequence[RunRecord]) -> list[str]:
    """The devices of the runs, each once; `cpu`, of a method without torch, only where no other is one."""
    found = list(dict.fromkeys(run.environment.device for run in runs))
    return [name for name in found if not any(other.startswith(f"{name} (") for other in found)]


def doubted(runs: Sequence[RunRecord]) -> str:
    """The first warning about the data, and how many more there are."""
    doubts = list(dict.fromkeys(doubt for run in runs for doubt in run.environment.data.doubts))
    more = f", and {len(doubts) - 1} more" if len(doubts) > 1 else ""
    return doubts[0].partition(";")[0] + more if doubts else ""


def seeds(runs: Sequence[RunRecord], comparison: Mapping[str, Any] | None) -> dict[str, str]:
    """Run name -> scores of its seeds in words, for runs with several seeds."""
    found, spreads = (comparison.get(key, {}) if comparison else {} for key in ("by_seed", "spread"))
    said = {}
    for run in runs:
        scores = [wording.number(value) for value in found.get(run.name, [])]
        if len(scores) > 1:
            spread = {of: wording.score(wording.number(value)) for of, value in spreads[run.name].items()}
            crossed = run.measures.cross_validated is not None
            of = "repeats" if crossed else "seeds"
            rows = "" if crossed else f", between test sets {spread['rows']}"
            said[run.name] = (
                f"mean of {len(scores)} {of}: {', '.join(map(wording.score, scores))} (standard deviation between {of} "
                f"{spread['seeds']}{rows})"
            )
    return said


def check(runs: Sequence[RunRecord]) -> None:
    """Raises UserError where these runs cannot share a page."""
    if not runs:
        raise UserError("a report needs a run; name one or more run folders")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"runs of one report need different names; repeated: {twice}")
    if len({run.labels.multi for run in runs}) > 1:
        raise UserError("single-label and multi-label runs cannot share a report; report on each kind alone")


def template() -> Any:
    """The page's template. It escapes everything except figures, which escape their own texts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lasttoken", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def check_page(path: Path, overwrite: bool = False) -> None:
    """Raises ArtifactError where `path` is a folder, or (without `overwrite`) a file that is no report."""
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; name an HTML file with --out")
    if path.exists() and not overwrite and GENERATOR not in path.read_bytes()[:1000]:
        raise ArtifactError(f"{path} exists and is no report; name another file with --out, or delete it first")


def write_page(html: str, path: Path, overwrite: bool = False) -> None:
    """Write the page atomically. Raises ArtifactError."""
    check_page(path, overwrite)
    try:
        write_text(path, html)
    except OSError as error:
        raise ArtifactError(f"{path} could not be written ({error.strerror}); name another file with --out") from error
