"""The command line: one verb a file. Data goes to stdout, words to stderr; exit 0, 1 for a bug, 2 for the user's mistake."""

from __future__ import annotations

import logging
import os
import sys

import typer

from lasttoken.cli.check import check
from lasttoken.cli.compare import compare
from lasttoken.cli.demo import demo
from lasttoken.cli.explain import explain
from lasttoken.cli.plan import plan
from lasttoken.cli.predict import predict
from lasttoken.cli.report import report
from lasttoken.cli.train import train
from lasttoken.errors import UserError

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="lasttoken",
    help="Fine-tune causal language models to classify text, and see which way is best for your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (check, compare, train, predict, explain, report, plan, demo):
    app.command()(verb)


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if show:
        from importlib.metadata import version as installed

        typer.echo(installed("lasttoken"))
        raise typer.Exit


def main() -> None:
    """What the `lasttoken` command runs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for library in ("bitsandbytes", "huggingface_hub"):  # their remarks would land between our lines
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app()
    except UserError as error:
        typer.echo(f"lasttoken: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        typer.echo("lasttoken: stopped by Ctrl-C; what was finished is kept, nothing half-written is left", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
