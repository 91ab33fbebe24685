"""`lasttoken train`: one method, one run folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ConfigError


def train(
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSONL or Parquet file, or hub:owner/name[:config]")],
    method: Annotated[str, typer.Option("--method", help="embedding, instruction, encoder, probe or linear")],
    text: o.Text = "text",
    label: o.Label = "label",
    model: o.Model = None,
    quantize: o.Quantize = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="instruction: do not train")] = False,
    out: o.Out = None,
    separator: o.Separator = None,
    template: o.Template = None,
    id: o.Id = None,
    group: o.Group = None,
    split: o.Split = None,
    valid: o.Valid = None,
    test: o.Test = None,
    encoding: o.Encoding = "utf-8",
    drop_empty: o.DropEmpty = False,
    hierarchy: o.HierarchyOf = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    checkpointing: o.Checkpointing = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Train one method and write its run folder."""
    o.check_there(source, valid, test)
    from lasttoken.cli.screen import Screen, say
    from lasttoken.cli.show import brief
    from lasttoken.config import settings_line
    from lasttoken.experiment import leads, load_data, run_method
    from lasttoken.run import check_free

    folder = out or o.default_folder(source, method)
    data = o.data_values(
        source,
        text,
        label,
        separator=separator,
        template=template,
        id=id,
        group=group,
        split=split,
        valid=valid,
        test=test,
        encoding=encoding,
        drop_empty=drop_empty,
        hierarchy=hierarchy,
    )
    if zero_shot and method != "instruction":
        raise ConfigError([f"--zero-shot: {method} cannot answer untrained; use --method instruction"])
    assigned = [*(settings or []), *(["method.train_model=false"] if zero_shot else [])]
    config = o.run_config(
        method,
        data,
        model=model,
        quantize=quantize,
        seed=seed,
        device=device,
        settings=assigned,
        checkpointing=checkpointing,
    )
    check_free(folder)
    with Screen(loud=leads(config.device)) as screen:
        journal = screen.journal(method)
        splits = load_data(config.data, seed=config.seed, journal=journal)
        screen.note(f"{method}: {settings_line(config)}")  # kept in config.toml
        outcome = run_method(config, splits, folder, name=folder.name, journal=journal)
    if leads(config.device):
        typer.echo(json.dumps(outcome.metrics, allow_nan=False) if as_json else brief(outcome.metrics))
        say(
            f"next: lasttoken predict {outcome.folder} NEW.csv -o labelled.csv   (report: {outcome.folder / 'report.html'})"
        )
    if outcome.failure is not None:
        say(f"lasttoken: {end_of(journal.notes)}")
        raise typer.Exit(2)


def end_of(notes: list[str]) -> str:
    """The note that tells how training ended."""
    return next(note for note in reversed(notes) if note.startswith("training ") and "kept;" in note)
