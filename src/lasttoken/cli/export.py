"""`lasttoken export`: a finished run as a folder that other software runs, checked against the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.config.forms import FORMS, ROWS, Wanted
from lasttoken.errors import ConfigError
from lasttoken.wording import did_you_mean, rate

if TYPE_CHECKING:
    from lasttoken.record.schema import Export

TARGETS = tuple(FORMS)
PRECISIONS = tuple(dict.fromkeys(precision for of in FORMS.values() for precision in of))


def export(
    run: Annotated[Path, typer.Argument(callback=o.path, help="Run folder")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="|".join(TARGETS), help="Layout or runtime; several with commas, for one folder with all"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=o.path, help="Folder to write; must not exist")],
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(PRECISIONS),
            help="Precision to make; several with commas. Default: hf as the base model's weights, the others all they have",
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of validation rows that must get the run's decision; default: .995, of int8 .98"
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Validation rows to check on, at most")] = ROWS,
    model: o.Base = None,
    as_json: o.Json = False,
) -> None:
    """Write a run in the layout of transformers or PEFT, or as an ONNX or OpenVINO graph.

    Each form answers the run's validation rows in its own runtime; one that decides otherwise is refused.
    `lasttoken predict` and `serve` take the folder in the place of a run, with its calibration and thresholds.
    """
    to = [one for given in to for one in given.split(",")]
    precision = [one for given in precision or [] for one in given.split(",")]
    for option, given, known in (("--to", to, TARGETS), ("--precision", precision, PRECISIONS)):
        for one in given:
            if one not in known:
                raise ConfigError([f"{option}: {one!r} is not among {', '.join(known)}{did_you_mean(one, known)}"])
    wanted = Wanted(tuple(dict.fromkeys(to)), tuple(precision), agreement, rows)
    from lasttoken.config.exportable import check_targets
    from lasttoken.record.artifact import read_settings
    from lasttoken.record.folder import check_free, check_run, is_export

    check_run(run)
    if is_export(run):
        raise ConfigError([f"{run} is an export already; name the run that it was made from"])
    check_targets(read_settings(run)[0].method, wanted.targets)
    check_free(out)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.export.export import export as write

    with Screen() as screen:
        facts = write(run, out, wanted, model=model, journal=screen.journal("export"))
    if as_json:
        typer.echo(json.dumps(facts.model_dump()))
    else:
        typer.echo("\n".join(table(facts)))
    say(f"next: {o.command('predict', out, 'NEW.csv', '-o', 'labelled.csv')}, or {o.command('serve', out)}")


def table(facts: Export) -> list[str]:
    """A line a form: its agreement with the run, and its speed beside the run's."""
    from lasttoken.runtime.exported import quickest

    names = {
        form.name: form.name if form.precision in form.name else f"{form.name} ({form.precision})"
        for form in facts.forms
    }
    width, chosen = max(map(len, names.values())), quickest(facts.forms)
    return [
        f"{names[form.name]:{width}}  {form.check.agreement:.1%} of {form.check.rows:,} validation rows decided as by the run, "
        f"probabilities within {form.check.largest:.2g}; {rate(form.check.rows_per_second)} rows/s, "
        f"the run {rate(form.check.ours)}{' (used by predict and serve)' * (form is chosen and len(facts.forms) > 1)}"
        for form in facts.forms
    ]
