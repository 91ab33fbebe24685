"""`lasttoken demo`: the whole job on text that is already on this machine, with the best model that is installed.

Its rows are kept as docstrings.csv beside the runs, so that every other command can be tried on them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from lasttoken.cli import options as o

if TYPE_CHECKING:
    from lasttoken.data.dataset import Rows

# Chosen for a model of 135 M parameters on a CPU; everything else is a default. --time shortens what does not fit.
SETTINGS = [
    "embedding.train.epochs=4",
    "embedding.train.batch=4",
    "embedding.train.lr=0.001",
    "embedding.lora.r=16",
    "embedding.lora.alpha=32",
    'embedding.suffix="\\nThis is from the library"',
    "encoder.train.epochs=6",
    "encoder.train.lr=0.0002",
]
METHODS = ("linear", "probe", "encoder", "embedding", "zero-shot")
UPPER = "embedding.trunk=20"  # of smollm2: LoRA on the upper third of its blocks takes two thirds of the time

TEST = 0.55  # share of the rows: training takes the time, and differences show on test rows


def demo(
    out: Annotated[Path, typer.Option("--out", callback=o.path, help="Folder to write; it must not exist")] = Path(
        "demo"
    ),
    rows: Annotated[int, typer.Option("--rows", help="How many docstrings")] = 2000,
    methods: Annotated[
        str | None, typer.Option("--methods", help=f"Names with commas; default: {', '.join(METHODS)}")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", callback=o.path, help="Model of the encoder method")
    ] = None,
    time: Annotated[str, typer.Option("--time", help="Upper limit; what does not fit is shortened")] = "8m",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Which library does a docstring come from? Every method that runs here; no GPU, nothing downloaded."""
    from lasttoken.cli.compare import chosen, method_configs, show
    from lasttoken.cli.screen import Screen
    from lasttoken.data.demo import docstring_rows
    from lasttoken.data.split import make_splits
    from lasttoken.evaluation.metrics import HEADLINE
    from lasttoken.packages import MINILM, SMOLLM2, default_model, installed_minilm
    from lasttoken.record.folder import check_free
    from lasttoken.studies.cells import Watcher
    from lasttoken.studies.many import grid, run_cells
    from lasttoken.studies.timed import limited

    limit = limited(time, monotonic())
    check_free(out)
    names = METHODS if methods is None else chosen(methods)
    found = encoder or (MINILM if "encoder" in names and installed_minilm() else None)
    settings = [*SETTINGS, UPPER] if default_model() == SMOLLM2 else SETTINGS
    data = {"source": "docstrings of installed libraries", "group": "module"}
    configs = method_configs(
        names,
        data,
        model=None,
        encoder=found,
        quantize=None,
        seed=seed,
        device="auto",
        settings=[setting for setting in settings if setting.partition(".")[0] in names],
    )
    with Screen() as screen:
        journal = screen.journal("data")
        journal.note("reading the docstrings of installed libraries; label = library, names masked, split by module")
        described = docstring_rows(rows=rows, seed=seed)
        splits = make_splits(described, seed=seed, test=TEST)
        journal.note(splits.summary)
        out.mkdir(parents=True, exist_ok=True)
        write_csv(described, out / "docstrings.csv")
        done = run_cells(
            grid(configs, [None], 1, optional=() if methods or found else ("encoder",)),
            splits,
            out,
            metric=HEADLINE,
            watcher=Watcher(screen.journal, screen.note),
            limit=limit,
        )
    show(done, metric=HEADLINE, as_json=as_json)


def write_csv(rows: Rows, path: Path) -> None:
    """Write the demo's rows as a CSV file with the columns docstring, library and module."""
    from lasttoken.record.atomic import writing_file

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["docstring", "library", "module"])
    for docstring, labels, module in zip(rows.texts, rows.labels or (), rows.groups or (), strict=True):
        writer.writerow([docstring, *labels, module])
    with writing_file(path) as stream:
        stream.write(text.getvalue().encode("utf-8"))
