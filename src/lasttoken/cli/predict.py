"""`lasttoken predict`: labels for a file, a pipe or one text, by a finished run."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from lasttoken.cli import options as o
from lasttoken.config.settings import Data
from lasttoken.errors import ConfigError, DataError
from lasttoken.wording import counted, did_you_mean

if TYPE_CHECKING:
    from lasttoken.predict.options import Input, Loading, Output

EMPTY = {"blank": "given no label", "label": "labelled anyway", "refuse": "refused"}  # --empty: in the summary


def predict(
    run: Annotated[Path, typer.Argument(callback=o.path, help="Run folder, or an export of one")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="What to label: a file, a folder, a pattern in quotes, s3://, gs://, az:// or hf://; - for standard input",
        ),
    ] = None,
    text_is: Annotated[str | None, typer.Option("--text-is", help="A single text to label, instead of a file")] = None,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="File to write, - for standard output, or FOLDER/ for parts; the same command goes on there",
        ),
    ] = "-",
    text: Annotated[str | None, typer.Option("--text", help=f"Text column; default: the run's{o.SEVERAL}")] = None,
    probs: Annotated[bool, typer.Option("--probs", help="Add a column per label with its probability")] = False,
    empty: Annotated[
        str,
        typer.Option(
            "--empty",
            help="Texts without a letter, digit or emoji: blank (no label), label (predict anyway) or refuse (error)",
        ),
    ] = "blank",
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="csv, tsv, jsonl or parquet; default: from the file name; for a pipe JSON lines or one text per line",
        ),
    ] = None,
    out_format: Annotated[
        str | None,
        typer.Option("--out-format", help="Output format; default: from the output file's name, else the input's"),
    ] = None,
    encoding: o.Encoding = "utf-8",
    quoting: o.Quoting = None,
    model: o.Base = None,
    trust_remote_code: o.TrustRemoteCode = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Probabilities and decisions without the run's calibration and thresholds")
    ] = False,
    merge: Annotated[
        str | None,
        typer.Option(
            "--merge",
            help="Merge LoRA into the weights: auto, or off to keep 4-bit weights (slower, less memory); default: the run's",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Precision: auto, float32 or bfloat16; default: the run's")
    ] = None,
    backend: o.Backend = None,
    separator: Annotated[
        str | None, typer.Option("--separator", help="Separator of several labels in CSV and TSV")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Parts: end at the first row that cannot be read, instead of listing it")
    ] = False,
    part: Annotated[
        int | None, typer.Option("--part", min=1, help="Parts: rows of each  [default: 20000]", show_default=False)
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Parts: local, or ray for a cluster (RAY_ADDRESS)  [default: local]", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Parts: processes that predict; default: one for each GPU; with linear, one for each core; else one",
        ),
    ] = None,
    device: o.Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a summary as JSON; on stderr, if the rows go to standard output")
    ] = False,
) -> None:
    """Label a file, a pipe or one text; all columns are kept and the prediction is added."""
    from lasttoken.cli.screen import say
    from lasttoken.record.folder import check_run, cut_short

    check_run(run)
    if cut_short(run):
        say(f"note: the training of {run} was interrupted; its command goes on with it")
    if (source is None) == (text_is is None):
        raise ConfigError(["name one thing to label: a file, - for standard input, or a text with --text-is"])
    if empty not in EMPTY:
        raise ConfigError([f"--empty: {empty!r} is not among {', '.join(EMPTY)}{did_you_mean(empty, EMPTY)}"])
    from lasttoken.config.parse import read_run
    from lasttoken.predict.options import Loading, Output
    from lasttoken.predict.places import is_address, is_many

    source = source if source is None or is_address(source) else o.path(source)
    out = out if is_address(out) else out if out == "-" else o.path(out)
    loading = Loading(run, device, trust_remote_code, model, merge, precision, backend, raw)
    data = read_run(run / "config.toml").data.model_copy(update={} if quoting is None else {"quoting": quoting})
    data = data if text is None else data.model_copy(update={"text": o.listed(text), "template": None})
    writes = Output(out_format, probs, separator or data.separator or ";", empty, overwrite)
    asked = Asked(loading, data, format, encoding, writes, as_json)
    if is_many(source, out):
        if overwrite:
            raise ConfigError(
                ["--overwrite: a folder of parts is gone on with, not replaced; name another, or delete it"]
            )
        from lasttoken.cli.parts import label_many

        assert source is not None
        label_many(asked, source, out, strict=strict, part=part, engine=engine or "local", workers=workers)
        return
    if strict or any(given is not None for given in (part, engine, workers)):
        raise ConfigError(
            ["--strict, --part, --engine and --workers are for parts; name a folder to write to: -o labelled/"]
        )
    label_file(asked, source, text_is, out)


@dataclass(frozen=True)
class Asked:
    """What the command line says, beside what is labelled and where it goes."""

    loading: Loading
    data: Data  # the run's, or as the command line has it
    format: str | None
    encoding: str
    writes: Output
    as_json: bool

    def reads(self, data: Data, format: str | None) -> Input:
        """How rows are read."""
        from lasttoken.data.load import columns_of
        from lasttoken.predict.options import Input

        return Input(columns_of(data, labels=False), format, self.encoding, data.quoting)


def label_file(asked: Asked, source: str | None, text_is: str | None, out: str) -> None:
    """Label one file, a pipe or one text."""
    o.check_there(source)
    if out != "-":
        from lasttoken.data.write import check_target

        check_target(Path(out), asked.writes.overwrite)  # before the model is loaded
    from lasttoken.data.read import check_header

    place, data, format = source or "-", asked.data, asked.format
    if text_is is not None:
        place, data = lone_texts(iter([text_is]), "--text-is", data)
    elif source == "-" and format is None:
        place, data = piped(asked.encoding, data)
    reads = asked.reads(data, "jsonl" if isinstance(place, Lines) else format)
    naming = {"text": data.text, "label": data.label}
    if isinstance(place, str) and place != "-":
        with o.naming_options(naming):
            check_header(place, reads.columns, encoding=reads.encoding, format=reads.format, quoting=reads.quoting)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.cli.stopping import stopping
    from lasttoken.predict.file import predict_file

    left = "the output ends early" if out == "-" else f"{out} was not written"
    kept = f"{left}; with -o FOLDER/ parts that are finished are kept"
    with stopping(lambda: kept), Screen() as screen, o.naming_options(naming):
        screen.progress("predict", "loading the model", 0, 0)
        predictor = asked.loading()
        screen.progress("predict", "rows", 0, 0)
        summary = predict_file(
            predictor,
            place if isinstance(place, str) else cast("IO[str]", place),
            out,
            reads=reads,
            writes=asked.writes,
            progress=lambda *seen: screen.progress("predict", "rows", *seen),
        )
    if asked.as_json:
        target = typer.get_text_stream("stderr") if out == "-" else None
        typer.echo(json.dumps(vars(summary)), file=target)
    for sentence in summary.told:
        say(sentence)
    if summary.truncated:
        say(summary.truncated)
    empty = EMPTY[asked.writes.empty]
    say(
        f"{counted(summary.rows, 'row', 'rows')} labelled in {summary.seconds:.1f} s"
        + (f", {summary.empty} of them without a letter, digit or emoji ({empty})" if summary.empty else "")
        + (f", {summary.abstained} of them left to a person" if summary.abstained else "")
        + (f", {summary.without} of them given no label" if summary.without else "")
    )


class Lines(io.TextIOBase):
    """A text stream over an iterator of lines, so that a long pipe is never held in memory as a whole."""

    def __init__(self, lines: Iterator[str], name: str):
        self.lines, self.name = lines, name

    def readline(self, size: int | None = -1, /) -> str:
        """The next line, "" at the end; lines are never cut."""
        return next(self.lines, "")


def piped(encoding: str, data: Data) -> tuple[Lines, Data]:
    """(stream, data settings) for standard input without --format.

    JSON lines if the first line is a JSON object, else one text per line. Raises DataError if the first line is the
    header of a CSV or TSV file with the run's text columns.
    """
    from lasttoken.cli.screen import say
    from lasttoken.data.tables import decoded_lines

    lines = decoded_lines(sys.stdin.buffer, "<stdin>", encoding)
    begin = next(lines, "")
    lines = itertools.chain([begin] if begin else [], lines)
    if begin.lstrip().startswith("{"):
        return Lines(lines, "<stdin>"), data
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        cells = next(csv.reader([begin], delimiter=delimiter), [])
        if len(cells) > 1 and {name.strip() for name in data.text} <= {cell.strip() for cell in cells}:
            raise DataError(f"<stdin>: the first line is a header; give the format: --format {format}")
    say("<stdin>: read as one text per line; if the lines have columns, give the format: --format csv")
    return lone_texts((line.rstrip("\r\n") for line in lines), "<stdin>", data)


def lone_texts(texts: Iterator[str], name: str, data: Data) -> tuple[Lines, Data]:
    """(stream of JSON lines, data settings) for plain texts.

    If the run has several text columns, each text replaces all of them, without the run's template.
    """
    several = len(data.text) > 1
    column = "text" if several else data.text[0]
    data = data.model_copy(update={"text": ("text",), "template": None}) if several else data
    return Lines((json.dumps({column: text}) + "\n" for text in texts), name), data
