"""`lasttoken verify`: whether a run, or an export of one, is whole and answers as it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.wording import counted


def verify(
    folder: Annotated[Path, typer.Argument(callback=o.path, help="Run folder, or an export of one")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", callback=o.path, help="Of an export: the run it was made from, to answer its validation rows"
        ),
    ] = None,
    model: o.Base = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Check every file's digest, answer stored validation rows again, and compare library versions.

    Exit 2 where a file is damaged or rows are decided otherwise than when the run was made.
    """
    from lasttoken.record.folder import check_run

    check_run(folder)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.watch.verified import verified

    with Screen() as screen:
        screen.progress("verify", f"reading {folder}", 0, 0)
        found = verified(folder, device=device, model=model, run=run)
    if as_json:
        judged = {"sound": found.sound, "exact": found.exact} if found.rows else {"sound": None, "exact": None}
        typer.echo(json.dumps(vars(found) | judged))
    else:
        typer.echo(f"files: {counted(found.files, 'file', 'files')} as they were written")
        if found.added:
            shown = ", ".join(found.added[:5]) + (", ..." if len(found.added) > 5 else "")
            typer.echo(f"added: {shown}: not in the manifest, so nothing is known of it; remove it unless it is yours")
        if found.forms:
            typer.echo(f"forms: {', '.join(found.forms)}: each answers")
        if found.rows:
            how = "bit for bit as before" if found.exact else f"probabilities within {found.largest:.2g}"
            same = ", ".join(
                f"{count:,} ({name})" if found.forms else f"{count:,}" for name, count in found.same.items()
            )
            typer.echo(f"answers: {same} of {found.rows:,} stored rows decided as before, {how}")
        for name, (then, now) in found.versions.items():
            typer.echo(f"version: {name} {now} here, {then} when it was made")
    if not found.sound:
        say("lasttoken: it does not answer as it did; another library version, device or base model is in the way")
        raise typer.Exit(2)
    if not found.rows:
        hint = "; --run RUN answers its rows" if found.forms else ""
        say(f"no rows are stored with it, so only files were compared{hint}")
