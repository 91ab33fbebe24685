"""`lasttoken check`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import DataError
from lasttoken.wording import counted

if TYPE_CHECKING:
    from lasttoken.check.finding import Finding

SHOWN = 3  # rows of a finding on the screen; all are in the file of --out and in --json


def check(
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSONL or Parquet file, or hub:owner/name[:config]")],
    text: o.Text = "text",
    label: o.Label = "label",
    model: Annotated[
        str, typer.Option("--model", help="Whose tokenizer counts; it has to be on this machine")
    ] = "tiny",
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Tokens a text may have")] = 512,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file of every finding's rows")] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix", help="File to write without empty, unlabelled and repeated rows and invisible characters"
        ),
    ] = None,
    separator: o.Separator = None,
    template: o.Template = None,
    id: o.Id = None,
    split: o.Split = None,
    valid: o.Valid = None,
    test: o.Test = None,
    encoding: o.Encoding = "utf-8",
    seed: o.Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out and --fix name")] = False,
    as_json: o.Json = False,
) -> None:
    """Look for duplicates, mislabelled rows, leaks, and what else makes scores lie; nothing is changed unasked."""
    o.check_there(source, valid, test)
    from lasttoken.check.examine import examine
    from lasttoken.check.fix import write_fixed
    from lasttoken.cli.screen import Screen, say
    from lasttoken.data.read import Columns, read_parts
    from lasttoken.data.split import joined
    from lasttoken.data.tables import format_of
    from lasttoken.data.write import check_target
    from lasttoken.plan.rows import Estimate, tokenizer_here

    columns = Columns(o.listed(text), template, o.listed(label), separator, id, None, split)
    for target in filter(None, (out, fix)):
        check_target(target, overwrite=overwrite)
    if fix is not None:
        format_of(fix)  # an ending that names no format is told before rows are looked at
    if out is not None and out.absolute() in {Path(place).absolute() for place in (fix, source, valid, test) if place}:
        raise DataError(f"--out {out}: that file is named twice; give the findings a file of their own")
    if fix is not None and source.startswith(("hub:", "wipo:")):
        raise DataError(f"--fix: {source} is no file; save it as one first")
    if fix is not None and (valid or test):
        raise DataError("--fix writes one file; mend each by itself, and check them together without --fix")
    given = [place for place in (source, valid, test) if place is not None]
    parts = read_parts(source, valid, test, columns=columns, encoding=encoding, keep_empty=True)
    rows = joined(parts) if len(parts) > 1 else parts["train"]
    tokenizer = tokenizer_here(model, revision=None, trust_remote_code=False)
    if isinstance(tokenizer, Estimate):
        raise DataError(
            f"--model {model}: its tokenizer is not on this machine; name a folder, or a model that was used here"
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
        counted_from = "" if id else ", ids counted from 0"
        typer.echo(page(", ".join(given), f"{counted(len(rows), 'row', 'rows')}{counted_from}", findings))
    if out is not None:
        write_places(out, findings, overwrite=overwrite)
        say(f"rows of every finding: {out}")
    if fix is not None:
        dropped, cleaned = write_fixed(
            Path(source), fix, rows, findings, columns=columns, encoding=encoding, overwrite=overwrite
        )
        left_out, cleared = counted(dropped, "row", "rows"), counted(cleaned, "text", "texts")
        say(f"{fix}: {left_out} left out, invisible characters taken out of {cleared}")


def page(source: str, rows: str, findings: list[Finding]) -> str:
    """The findings for a terminal, the serious first."""
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
    """A CSV file of kind, id and detail of every row of every finding, written whole or not at all."""
    import csv
    import io

    from lasttoken.data.write import opened_file

    text = io.StringIO(newline="")
    pen = csv.writer(text)
    pen.writerow(["finding", "id", "detail"])
    pen.writerows([finding.kind, place.id, place.detail] for finding in findings for place in finding.places)
    with opened_file(path, overwrite=overwrite) as stream:
        stream.write(text.getvalue().encode())
