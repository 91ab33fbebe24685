"""`lasttoken check`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.config.settings import Data
from lasttoken.errors import DataError
from lasttoken.wording import counted

if TYPE_CHECKING:
    from lasttoken.check.finding import Finding

UNUSED = ("group", "drop_empty", "valid_share", "test_share", "hierarchy", "split_seed", "train_rows", "folds")
SHOWN = 3  # rows of a finding on the screen; all are in the file of --out and in --json


@o.takes_data(without=UNUSED)
def check(
    source: Annotated[
        str, typer.Argument(callback=o.path, help="CSV, TSV, JSONL or Parquet file, or hub:owner/name[:config]")
    ],
    *,
    data: dict[str, Any],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            callback=o.path,
            help="Model whose tokenizer counts tokens, on this machine; default: smollm2 if installed, else tiny",
        ),
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Maximum number of tokens per text")] = 512,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=o.path, help="CSV file to write, with the rows of every finding"),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            callback=o.path,
            help="Cleaned copy to write: no empty, unlabelled or repeated rows, no invisible characters",
        ),
    ] = None,
    seed: o.Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --out and --fix")] = False,
    as_json: o.Json = False,
) -> None:
    """Find duplicates, mislabelled rows, leaks and other problems in a data set; files change only with --fix."""
    valid, test = data.get("valid"), data.get("test")
    o.check_there(source, valid, test)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.data.load import columns_of
    from lasttoken.data.read import read_parts
    from lasttoken.data.split import joined
    from lasttoken.data.tables import format_of
    from lasttoken.data.write import check_target

    settings = Data(source=source, **data)
    o.check_first(settings, keep_empty=True)
    columns, encoding = columns_of(settings), settings.encoding
    for target in filter(None, (out, fix)):
        check_target(target, overwrite=overwrite)
    if fix is not None:
        format_of(fix, write=True)  # reject an unknown ending before reading rows
    if out is not None and out.absolute() in {Path(place).absolute() for place in (fix, source, valid, test) if place}:
        raise DataError(
            f"--out {out}: this file is already an input or the target of --fix; give the findings another file"
        )
    if fix is not None and source.startswith(("hub:", "wipo:")):
        raise DataError(f"--fix: {source} is not a file; save it as one first")
    if fix is not None and (valid or test):
        raise DataError("--fix cleans one file; run it once per file, and check all files together without --fix")
    given = [place for place in (source, valid, test) if place is not None]
    parts = read_parts(
        source, valid, test, columns=columns, encoding=encoding, quoting=settings.quoting, keep_empty=True
    )
    rows = joined(parts) if len(parts) > 1 else parts["train"]
    from lasttoken.check.examine import examine
    from lasttoken.check.fix import SAFE, write_fixed
    from lasttoken.model.load import tokenizer_here
    from lasttoken.packages import default_model

    named = model or default_model()
    tokenizer = tokenizer_here(named)
    if tokenizer is None:
        raise DataError(
            f"--model {named}: its tokenizer is not on this machine; give a folder, or a model that was downloaded"
        )
    with Screen() as screen:
        findings = examine(
            rows,
            tokenizer=tokenizer,
            limit=max_length,
            seed=seed,
            progress=lambda *seen: screen.progress("check", *seen),
        )
    if as_json:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], ensure_ascii=False))
    else:
        counted_from = "" if settings.id else ", ids counted from 0"
        typer.echo(page(", ".join(given), f"{counted(len(rows), 'row', 'rows')}{counted_from}", findings))
    if out is not None:
        write_places(out, findings, overwrite=overwrite)
        say(f"rows of every finding: {out}")
    if fix is not None:
        dropped, cleaned = write_fixed(
            Path(source),
            fix,
            rows,
            findings,
            columns=columns,
            encoding=encoding,
            quoting=settings.quoting,
            overwrite=overwrite,
        )
        left_out, cleared = counted(dropped, "row", "rows"), counted(cleaned, "text", "texts")
        say(f"{fix}: {left_out} left out, invisible characters removed from {cleared}")
    left = dict.fromkeys(one.kind for one in findings if one.serious and not (fix and one.kind in SAFE))
    if left.keys().isdisjoint({"columns", "one-label"}):
        first = f", once what ! marks is mended ({', '.join(left)})" if left else ""
        say(f"next{first}: {o.command('compare', fix or source, *o.data_words(data))}")


def page(source: str, rows: str, findings: list[Finding]) -> str:
    """The findings as text for a terminal."""
    serious = sum(finding.serious for finding in findings)
    lines = [f"{source}: {rows}, {counted(serious, 'finding', 'findings')} to look at first"]
    for finding in findings:
        lines += ["", f"{'!' if finding.serious else '-'} {finding.kind}: {finding.sentence}"]
        lines += [f"    id {place.id}  {place.detail}".rstrip() for place in finding.places[:SHOWN]]
        more = len(finding.places) - SHOWN
        lines += [f"    and {more} more"] if more > 0 else []
        lines += [f"    {line}" for line in finding.chart]
        lines += [f"  {finding.remedy}"] if finding.remedy else []
    return "\n".join(lines)


def write_places(path: Path, findings: list[Finding], *, overwrite: bool) -> None:
    """Write a CSV file with a line of kind, id and detail for each row of each finding; atomic."""
    import csv
    import io

    from lasttoken.data.write import opened_file

    text = io.StringIO(newline="")
    pen = csv.writer(text)
    pen.writerow(["finding", "id", "detail"])
    pen.writerows([finding.kind, place.id, place.detail] for finding in findings for place in finding.places)
    with opened_file(path, overwrite=overwrite) as stream:
        stream.write(text.getvalue().encode())
