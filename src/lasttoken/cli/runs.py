"""`lasttoken runs`: the runs below a folder, best first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ConfigError
from lasttoken.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lasttoken.watch.summaries import RunSummary


def runs(
    folder: Annotated[Path, typer.Argument(callback=o.path, help="Folder that holds runs, or folders of runs")],
    metric: Annotated[str, typer.Option("--metric", help="Metric that ranks the runs")] = "macro_f1",
    as_json: o.Json = False,
) -> None:
    """List finished runs with their scores, and say how to compare those that were made on the same rows."""
    from lasttoken.cli.screen import say
    from lasttoken.evaluation.metrics import METRICS
    from lasttoken.record.folder import plain
    from lasttoken.watch.summaries import comparable, summaries

    if metric not in METRICS:
        raise ConfigError([f"--metric: {metric!r} is not among {', '.join(METRICS)}{did_you_mean(metric, METRICS)}"])
    found, unread = summaries(folder, metric)
    if as_json:
        typer.echo(
            json.dumps([plain({**vars(one), "score": one.score.model_dump()}) for one in found], allow_nan=False)
        )
    elif found:
        typer.echo("\n".join(table(found)))
    for sentence in unread:
        say(sentence)
    if not found:
        say(f"{folder}: no finished runs; `lasttoken train` makes one")
        return
    beside = comparable(found)
    if len(beside) > 1:
        say(f"next: {o.command('report', *beside[:8])} tests the differences of {len(beside[:8])} on the same rows")


def table(found: Sequence[RunSummary]) -> list[str]:
    """A line a run."""
    from lasttoken.cli.show import interval
    from lasttoken.evaluation.metrics import METRICS
    from lasttoken.record.folder import plain
    from lasttoken.wording import duration

    digests = list(dict.fromkeys(one.data for one in found))
    head = ["run", "method", "model", "trained on", "rows", METRICS[found[0].metric].words, "training", "made"]
    rows = [
        [
            one.folder,
            one.method,
            Path(one.model).name if one.model else "-",
            f"data {digests.index(one.data) + 1}",
            f"{one.rows:,}",
            interval(plain(one.score.model_dump())),
            duration(one.seconds),
            one.created[:10],
        ]
        for one in found
    ]
    widths = [max(len(row[j]) for row in [head, *rows]) for j in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
