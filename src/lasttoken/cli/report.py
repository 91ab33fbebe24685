"""`lasttoken report`: one page about finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ArtifactError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them, judged on the same rows")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write")] = Path("report.html"),
    metric: Annotated[str, typer.Option("--metric", help="What the comparison is decided on")] = "macro_f1",
    goal: o.Goal = None,
    as_json: o.Json = False,
) -> None:
    """Put one or several runs on one self-contained page."""
    from lasttoken.cli.screen import say
    from lasttoken.cli.show import verdicts
    from lasttoken.report.compose import write_report
    from lasttoken.run import runs_in

    if not out.absolute().parent.is_dir():
        raise ArtifactError(f"{out}: no folder {out.parent}; make it first, or check the path")
    folders = [run for folder in runs for run in runs_in(folder)]
    comparison = write_report(folders, out, metric=metric, goal=goal).comparison
    if as_json:
        typer.echo(json.dumps(comparison, allow_nan=False, default=str))
    else:
        typer.echo("\n".join(verdicts(comparison)))
    say(f"report: {out}")
