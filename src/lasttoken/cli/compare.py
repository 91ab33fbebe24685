"""`lasttoken compare`: several methods on the same rows, one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.config import METHOD_CONFIGS, Run

if TYPE_CHECKING:
    from lasttoken.cli.screen import Screen
    from lasttoken.data.dataset import Splits


def compare(
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSONL or Parquet file, or hub:owner/name[:config]")],
    text: o.Text = "text",
    label: o.Label = "label",
    methods: Annotated[
        str | None, typer.Option("--methods", help="Names with commas; default: all that can run")
    ] = None,
    model: o.Model = "tiny",
    encoder: Annotated[str | None, typer.Option("--encoder", help="Model of the encoder method")] = None,
    quantize: o.Quantize = "none",
    metric: Annotated[str, typer.Option("--metric", help="What the comparison is decided on")] = "macro_f1",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the runs; finished runs in it are kept")] = None,
    separator: o.Separator = None,
    template: o.Template = None,
    id: o.Id = None,
    group: o.Group = None,
    split: o.Split = None,
    valid: o.Valid = None,
    test: o.Test = None,
    encoding: o.Encoding = "utf-8",
    drop_empty: o.DropEmpty = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Fit several methods on the same splits and say which is best, and whether that is shown."""
    from lasttoken.cli.screen import Screen
    from lasttoken.experiment import leader, load_data

    folder = out or o.default_folder(source, model)
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
    )
    configs = method_configs(
        o.listed(methods or ",".join(METHOD_CONFIGS)),
        data,
        model=model,
        encoder=encoder,
        quantize=quantize,
        seed=seed,
        device=device,
        settings=settings or [],
    )
    with Screen(loud=leader(device).rank == 0) as screen:
        journal = screen.journal("data")
        splits = load_data(next(iter(configs.values())).data, seed=seed, journal=journal)
        journal.note(
            f"{len(splits.train)} train, {len(splits.valid)} valid, {len(splits.test)} test rows; {splits.origin}"
        )
        runs, comparison = run_all(
            configs, splits, folder, metric=metric, optional=set() if methods else {"encoder"}, screen=screen
        )
    if leader(device).rank == 0:
        show(runs, comparison, folder, as_json=as_json)


def method_configs(
    names: tuple[str, ...],
    data: dict[str, Any],
    *,
    model: str,
    encoder: str | None,
    quantize: str,
    seed: int,
    device: str,
    settings: list[str],
) -> dict[str, Run]:
    """The Run of each method. A setting is given to all (`seed=1`) or to one (`embedding.lora.r=16`)."""
    configs = {}
    for name in names:
        mine = [f"method.{s.partition('.')[2]}" for s in settings if s.partition(".")[0] == name]
        shared = [s for s in settings if s.partition(".")[0] not in METHOD_CONFIGS]
        chosen = encoder if name == "encoder" else model
        configs[name] = o.run_config(
            name, data, model=chosen, quantize=quantize, seed=seed, device=device, settings=[*shared, *mine]
        )
    return configs


def run_all(
    configs: dict[str, Run], splits: Splits, out: Path, *, metric: str, optional: set[str], screen: Screen
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(metrics of each run, the comparison); writes out/NAME and out/report.html. An optional method may lack its model."""
    from lasttoken.cli.show import settings_line
    from lasttoken.evaluation.metrics import named
    from lasttoken.experiment import finished, run_method, write_report
    from lasttoken.model.backbone import on_this_machine

    named(metric, splits.labels.multi)  # a wrong name is told before anything is trained
    runs = []
    for name, config in configs.items():
        journal = screen.journal(name)
        asked = getattr(config.method, "model", "")
        if name in optional and not on_this_machine(asked):
            journal.note(f"left out: {asked} is not on this machine; --encoder NAME asks for it, or for another")
            continue
        outcome = finished(config, splits, out / name, name)
        if outcome is not None:
            journal.note(f"kept from before, {out / name}")
        else:
            screen.note(f"{name}: {settings_line(config)}")  # kept in config.toml
            outcome = run_method(config, splits, out / name, name=name, journal=journal)
        runs.append(outcome)
        if isinstance(outcome.failure, KeyboardInterrupt):
            raise outcome.failure
    comparison = None
    if screen.loud:
        title = f"{next(iter(configs.values())).data.source}: {len(runs)} methods compared"
        comparison = write_report([run.folder for run in runs], out / "report.html", metric=metric, title=title)
    return [dict(run.metrics) for run in runs], comparison


def show(runs: list[dict[str, Any]], comparison: dict[str, Any] | None, out: Path, *, as_json: bool) -> None:
    """The table, the verdicts and the next command."""
    from lasttoken.cli.screen import say
    from lasttoken.cli.show import table

    if as_json:
        typer.echo(json.dumps({"runs": runs, "comparison": comparison}, allow_nan=False, default=str))
    else:
        typer.echo(table(runs))
        if comparison is not None:
            typer.echo(
                "\n" + "\n".join([comparison["summary"], "", *(pair["verdict"] for pair in comparison["pairs"])])
            )
    best = max(runs, key=lambda run: run["splits"]["test"]["metrics"]["macro_f1"]["estimate"])
    say(f"report: {out / 'report.html'}")
    say(f"next: lasttoken predict {out / best['name']} NEW.csv -o labelled.csv")
