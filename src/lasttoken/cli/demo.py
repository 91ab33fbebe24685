"""`lasttoken demo`: the whole job on text that is already on this machine, with the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o

# What fits six minutes on two cores; everything else is a default.
SETTINGS = [
    "embedding.train.epochs=2",
    "embedding.train.batch=16",
    "embedding.pooling=mean",
    "embedding.max_length=256",
    "embedding.lora.r=16",
    "instruction.train.epochs=3",
    "instruction.train.batch=8",
    "instruction.train.lr=0.002",
    "instruction.max_length=320",
    "probe.max_length=256",
    "encoder.train.epochs=2",
    "encoder.max_length=128",
]


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist")] = Path("demo"),
    rows: Annotated[int, typer.Option("--rows", help="How many docstrings")] = 1700,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Names with commas; default: all that can run")
    ] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="Model of the encoder method")] = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Which library does a docstring come from? Every method that runs here; no GPU, nothing downloaded."""
    from lasttoken.cli.compare import chosen, method_configs, show
    from lasttoken.cli.screen import Screen
    from lasttoken.data.demo import docstring_rows
    from lasttoken.data.split import make_splits
    from lasttoken.evaluation.metrics import HEADLINE
    from lasttoken.model.backbone import installed_minilm
    from lasttoken.run import check_free
    from lasttoken.studies import grid, run_cells

    check_free(out)
    names = chosen(methods)
    found = encoder or (installed_minilm() if "encoder" in names else None)
    data = {"source": "docstrings of installed libraries", "group": "module"}
    configs = method_configs(
        names,
        data,
        model=None,
        encoder=found,
        quantize=None,
        seed=seed,
        device="auto",
        settings=[setting for setting in SETTINGS if setting.partition(".")[0] in names],
    )
    with Screen() as screen:
        journal = screen.journal("data")
        journal.note("reading the docstrings of installed libraries; label = library, names masked, split by module")
        splits = make_splits(docstring_rows(rows=rows, seed=seed), seed=seed)
        journal.note(splits.summary)
        done = run_cells(
            grid(configs, [None], 1),
            splits,
            out,
            metric=HEADLINE,
            optional=frozenset() if methods or found else frozenset({"encoder"}),
            journal_of=screen.journal,
            tell=screen.note,
        )
    show(done, metric=HEADLINE, as_json=as_json)
