"""`lasttoken predict`: labels for a file, by a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder")],
    source: Annotated[str, typer.Argument(help="File to label, or - for standard input")],
    out: Annotated[str, typer.Option("--out", "-o", help="File to write, or - for standard output")] = "-",
    text: Annotated[str | None, typer.Option("--text", help="Text column(s); default: those of the run")] = None,
    probs: Annotated[bool, typer.Option("--probs", help="One column a label with its probability")] = False,
    format: Annotated[
        str | None, typer.Option("--format", help="csv, tsv, jsonl or parquet; default: the file's ending")
    ] = None,
    out_format: Annotated[str | None, typer.Option("--out-format", help="The same, of what is written")] = None,
    encoding: o.Encoding = "utf-8",
    model: o.Base = None,
    trust_remote_code: o.TrustRemoteCode = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Probabilities and decisions without the run's calibration and thresholds")
    ] = False,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model first: ten seconds or more, then faster; for large files"),
    ] = False,
    merge: Annotated[
        str | None,
        typer.Option("--merge", help="auto, or off to keep 4-bit weights: less memory, slower; default: the run's"),
    ] = None,
    separator: Annotated[str | None, typer.Option("--separator", help="Between several labels in CSV and TSV")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file")] = False,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Label the rows of a file; every column passes through, the prediction is added."""
    from lasttoken.run import check_run

    check_run(run)
    o.check_there(source)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.config import read_run
    from lasttoken.evaluation.policy import read_policy
    from lasttoken.experiment import columns_of, compile_classifier, load
    from lasttoken.predict import predict_file

    classifier = load(run, device=device, trust_remote_code=trust_remote_code, model=model, merge=merge)
    data = read_run(run / "config.toml").data
    if text is not None:
        data = data.model_copy(update={"text": o.listed(text), "template": None})

    def compiled() -> None:
        say("compiling the model: ten seconds or more")
        say(f"compiled in {compile_classifier(classifier):.1f} s")

    with Screen() as screen:
        summary = predict_file(
            classifier,
            source,
            out,
            columns=columns_of(data, labels=False),
            policy=None if raw else read_policy(run),
            encoding=encoding,
            format_in=format,
            format_out=out_format,
            probs=probs,
            separator=separator or data.separator or ";",
            overwrite=overwrite,
            ready=compiled if compile else None,
            progress=lambda done: screen.progress("predict", "rows", done, 0),
        )
    if as_json:
        target = typer.get_text_stream("stderr") if out == "-" else None
        typer.echo(json.dumps(vars(summary)), file=target)
    if summary.truncated:
        say(summary.truncated)
    say(
        f"{summary.rows} rows labelled in {summary.seconds:.1f} s"
        + (f", {summary.empty} of them without text" if summary.empty else "")
        + (f", {summary.abstained} of them left to a person" if summary.abstained else "")
        + (f", {summary.without} of them given no label" if summary.without else "")
    )
