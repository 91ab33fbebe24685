"""The command line: one verb a file. Data goes to stdout, words to stderr; exit 0, 1 for a bug, 2 for the user's mistake."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress

import typer

from lasttoken.cli.check import check
from lasttoken.cli.compare import compare
from lasttoken.cli.demo import demo
from lasttoken.cli.drift import drift
from lasttoken.cli.explain import explain
from lasttoken.cli.export import export
from lasttoken.cli.plan import plan
from lasttoken.cli.predict import predict
from lasttoken.cli.push import push
from lasttoken.cli.report import report
from lasttoken.cli.runs import runs
from lasttoken.cli.screen import say
from lasttoken.cli.serve import serve
from lasttoken.cli.stopping import NOTHING
from lasttoken.cli.train import train
from lasttoken.cli.verify import verify
from lasttoken.errors import Stopped, UserError

INTERRUPTED = 130  # what typer makes of Ctrl-C
BROKEN_PIPE = 141  # how a shell tells that a tool was ended by SIGPIPE

app = typer.Typer(
    name="lasttoken",
    help="Fine-tune causal language models to classify text, and see which way is best for your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (check, compare, train, predict, export, push, serve, explain, report, runs, drift, verify, plan, demo):
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
    prepare_streams()
    try:
        code = exit_code()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `| head -1`
        discard_output()
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        if not discard_output():
            raise
        say(f"lasttoken: standard output could not be written ({error.strerror}); send it elsewhere and run again")
        sys.exit(2)
    sys.exit(code)


def exit_code() -> int:
    """Run the verb; 0, 2 after the user's mistake, which is told, 130 or 143 after Ctrl-C or SIGTERM.

    Raises BrokenPipeError where nobody reads any more.
    """
    try:
        app()
    except UserError as error:
        say(f"{who()}: {error}")
        return 2
    except Stopped as ended:
        say(f"lasttoken: {ended.told}")
        return 128 + ended.number
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it exit 1
            raise end.__context__ from None
        if end.code == INTERRUPTED:
            say(f"lasttoken: stopped by Ctrl-C; {NOTHING}")
            return INTERRUPTED
        return int(end.code or 0)
    return 0


def who() -> str:
    """Who speaks: lasttoken, or one of its processes that is not the first."""
    rank = os.environ.get("RANK", "0")
    return "lasttoken" if rank == "0" else f"lasttoken, process {rank}"


def prepare_streams() -> None:
    """Make the three streams fit to use: what their encoding lacks is escaped, a closed one reads or writes nothing.

    Exit with 2 where standard output is closed: the next file that is opened would get its number, and what is printed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - open as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        say("lasttoken: standard output is closed; send it to a file, or to /dev/null")
        sys.exit(2)


def discard_output() -> bool:
    """Whether standard output cannot be written; what it still holds is then dropped, or Python complains at its end."""
    try:
        sys.stdout.write("\n")  # an error leaves nothing behind by which a flush alone would fail again
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


if __name__ == "__main__":
    main()
