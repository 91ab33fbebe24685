"""`lasttoken push`: a run, or an export of one, on the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o


def push(
    run: Annotated[Path, typer.Argument(callback=o.path, help="Run folder, or an export of one")],
    to: Annotated[str, typer.Option("--to", help="Repository on the Hub: owner/name")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; a new repository is private")] = False,
    as_json: o.Json = False,
) -> None:
    """Upload to the Hugging Face Hub. A run is exported to transformers' layout first; its rows stay here."""
    from lasttoken.record.folder import check_run

    check_run(run)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.export.push import push as send

    with Screen() as screen:
        address = send(run, to, public=public, journal=screen.journal("push"))
    typer.echo(json.dumps({"address": address}) if as_json else address)
    say(f"the card says how to load it: {address}")
