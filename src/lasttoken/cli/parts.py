"""`lasttoken predict` of many rows: a job of parts, its workers, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from lasttoken.cli import options as o
from lasttoken.cli.screen import Screen, say
from lasttoken.cli.stopping import stopping
from lasttoken.wording import counted

SHOWN = 5  # files that could not be read, told by name
LARGE = 100_000_000  # bytes of input that are told in MB

if TYPE_CHECKING:
    from lasttoken.cli.predict import Asked
    from lasttoken.predict.job import JobSummary


def label_many(
    asked: Asked, source: str, out: str, *, strict: bool, part: int | None, engine: str, workers: int | None
) -> None:
    """Label many rows in parts, and go on where an earlier command ended; exit 2 where a file could not be read."""
    from lasttoken.cluster import check_engine
    from lasttoken.predict.driver import run_job
    from lasttoken.predict.job import PART, Job
    from lasttoken.predict.places import OutputFolder, inputs_of
    from lasttoken.predict.placing import engine_of
    from lasttoken.record.folder import MANIFEST, digest, is_export

    check_engine(engine)
    loading, reads = asked.loading, asked.reads(asked.data, asked.format)
    settings = {
        "text": list(reads.columns.text),
        "template": reads.columns.template,
        "raw": loading.raw,
        "out_format": asked.writes.format,
        "probs": asked.writes.probs,
        "separator": asked.writes.separator,
        "empty": asked.writes.empty,
        "encoding": reads.encoding,
        "quoting": reads.quoting,
        "format": reads.format,
        "strict": strict,
        "merge": loading.merge,
        "precision": loading.precision,
    }
    if is_export(loading.run):
        from lasttoken.runtime.exported import form_of

        settings["backend"] = form_of(loading.run, loading.backend).name
        loading = replace(loading, backend=settings["backend"])
    made_by = {"run": digest(loading.run / MANIFEST), "settings": settings}
    files, folder = inputs_of(source, out), OutputFolder(out.rstrip("/"))
    job = Job(files, folder, reads, asked.writes, made_by, strict, part or PART)
    naming = {"text": asked.data.text, "label": asked.data.label}
    kept = "parts that were finished are kept, and the same command goes on with the others"
    with stopping(lambda: kept), Screen() as screen, o.naming_options(naming):
        engines = partial(engine_of, loading, engine, workers, lambda what: screen.progress("predict", what, 0, 0))
        done = run_job(job, engines, progress=lambda *seen: screen.progress("predict", *amount(*seen)))
    tell(done, out, as_json=asked.as_json)


def amount(rows: int, done: int, size: int) -> tuple[str, int, int]:
    """What is done of how much: MB or kB of the inputs where their size is known, else rows."""
    if not size:
        return "rows", rows, 0
    unit, name = (1_000_000, "MB") if size >= LARGE else (1000, "kB")
    return f"{name} of the input labelled", done // unit, -(-size // unit)


def tell(done: JobSummary, out: str, *, as_json: bool) -> None:
    """What a job came to; exit 2 where a file could not be read."""
    if as_json:
        typer.echo(json.dumps(vars(done)))
    for sentence in done.told:
        say(sentence)
    say(
        f"{counted(done.rows, 'row', 'rows')} of {counted(done.files - len(done.unread), 'file', 'files')} labelled in "
        f"{counted(done.parts, 'part', 'parts')}, {done.seconds:.1f} s"
        + (f"; {done.kept} of the parts were there before" if done.kept else "")
    )
    if done.bad:
        say(f"{counted(done.bad, 'row', 'rows')} could not be read: {out.rstrip('/')}/errors/ says why")
    if done.unread:
        more = f"; and {len(done.unread) - SHOWN} more, which errors/ lists" if len(done.unread) > SHOWN else ""
        say(
            f"lasttoken: {counted(len(done.unread), 'file', 'files')} could not be read, or not to the end: "
            + "; ".join(done.unread[:SHOWN])
            + more
        )
        raise typer.Exit(2)
