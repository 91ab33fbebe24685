"""`lasttoken report`: one page about finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o


def report(
    runs: Annotated[
        list[Path], typer.Argument(callback=o.path, help="Run folders, or folders of runs, with the same test rows")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=o.path, help="HTML file to write")] = Path("report.html"),
    metric: Annotated[str, typer.Option("--metric", help="Metric that ranks the runs")] = "macro_f1",
    goal: o.Goal = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file")] = False,
    as_json: o.Json = False,
) -> None:
    """Write a self-contained HTML report of one or more runs."""
    from lasttoken.cli.screen import say
    from lasttoken.cli.show import verdicts
    from lasttoken.data.write import check_target
    from lasttoken.record.folder import runs_in
    from lasttoken.report.compose import write_report

    check_target(out, overwrite)
    folders = [run for folder in runs for run in runs_in(folder)]
    comparison = write_report(folders, out, metric=metric, goal=goal, overwrite=overwrite).comparison
    if as_json:
        typer.echo(json.dumps(comparison, allow_nan=False, default=str))
    else:
        typer.echo("\n".join(verdicts(comparison)))
    say(f"report: {out}")
