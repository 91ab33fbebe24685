"""`lasttoken train`: one method, one run folder."""

from __future__ import annotations

import json
import signal
from shutil import rmtree
from time import monotonic
from typing import Annotated, Any

import typer

from lasttoken.cli import launch
from lasttoken.cli import options as o
from lasttoken.config.exportable import exportable_problems, exportable_settings, refuse_encoder
from lasttoken.errors import ConfigError, Stopped


@o.takes_data()
def train(
    source: Annotated[
        str, typer.Argument(callback=o.path, help="CSV, TSV, JSONL or Parquet file, or hub:owner/name[:config]")
    ],
    method: Annotated[str, typer.Option("--method", help="Method: embedding, instruction, encoder, probe or linear")],
    *,
    data: dict[str, Any],
    model: o.Model = None,
    quantize: o.Quantize = None,
    precision: o.Precision = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Do not train (instruction only)")] = False,
    out: o.Out = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    gpus: o.Gpus = None,
    checkpointing: o.Checkpointing = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints of the same command that was stopped or killed")
    ] = False,
    checkpoint_every: o.CheckpointEvery = 60.0,
    time: o.Time = None,
    track: o.Track = None,
    exportable: Annotated[
        bool,
        typer.Option(
            "--exportable",
            help="Choose settings that the layout of transformers can express (lasttoken export --to hf)",
        ),
    ] = False,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Train one method and write its run folder."""
    began = monotonic()
    o.check_there(source, data.get("valid"), data.get("test"))
    from lasttoken.record.folder import (
        INTERRUPTED,
        check_new,
        check_no_checkpoints,
        checkpoints_of,
        plain,
        updates_in,
    )

    folder = out or o.default_folder(source, method)
    if zero_shot and method != "instruction":
        raise ConfigError([f"--zero-shot: {method} cannot predict without training; use --method instruction"])
    assigned = [*(settings or []), *(["method.train_model=false"] if zero_shot else [])]
    if exportable:
        o.check_known([method], "--method")
        assigned = [*exportable_settings(method), *assigned]
    config = o.run_config(
        method,
        {"source": source, **data},
        model=model,
        quantize=quantize,
        seed=seed,
        device=device,
        settings=assigned,
        checkpointing=checkpointing,
        precision=precision,
    )
    if exportable and (problems := exportable_problems(config)):
        raise ConfigError([f"--exportable: {problem}; leave one of the two out" for problem in problems])
    if not resume:
        check_no_checkpoints(folder)
    if not (resume and folder.exists()):
        check_new(folder)
    o.check_tracked(track)
    o.check_first(config.data, [getattr(config.method, "model", None)])
    if (gpus or 1) > 1 and "train" not in type(config.method).model_fields:
        raise ConfigError([f"--gpus: {method} trains no network and gains nothing from it; leave it out"])
    if launch.wanted(gpus, time):
        raise typer.Exit(launch.start(gpus or 1, config.device))
    from lasttoken.cli.screen import Screen, say
    from lasttoken.cli.show import brief
    from lasttoken.cli.stopping import stopping
    from lasttoken.config.parse import settings_line
    from lasttoken.data.load import load_data
    from lasttoken.evaluation.gaining import still_gaining
    from lasttoken.evaluation.run_record import read_record
    from lasttoken.packages import stand_in
    from lasttoken.record.atomic import claimed
    from lasttoken.studies.kept import Keeping
    from lasttoken.studies.one import finished, in_step, leads, run_method
    from lasttoken.studies.timed import as_kept, gone_on, limited, of_rows, within
    from lasttoken.track import tracking

    if exportable and method == "encoder":
        from lasttoken.model.load import load_config

        encoder = str(getattr(config.method, "model", ""))
        refuse_encoder(encoder, load_config(encoder).model_type)
    limit = limited(time, began)
    first = leads(config.device)

    def left() -> str:
        """What the command leaves when a signal ends it outside of a training's updates."""
        if updates_in(checkpoints_of(folder)):
            return "a checkpoint is kept, and the same command with --resume goes on"
        return f"{folder} is finished" if folder.exists() else "nothing was written"

    with claimed(folder, here=first), stopping(left) as stop, Screen(loud=first) as screen:
        journal = screen.journal(method)
        if told := stand_in([config.method]):
            screen.note(told)
        every = config.data if limit is None else config.data.model_copy(update={"train_rows": None})
        whole = load_data(every, seed=config.seed, journal=journal)
        kept, outcome = as_kept(config, folder, limit), None
        if folder.exists():  # one that was interrupted is renamed
            outcome = finished(kept, whole if limit is None else of_rows(whole, kept), folder)
        in_step(config.device)
        if outcome is None:
            if resume and "train" in type(config.method).model_fields and not updates_in(checkpoints_of(folder)):
                screen.note(f"{checkpoints_of(folder)}: no checkpoint; training begins anew")
            made = gone_on(config, whole, folder, limit) if resume else None
            made = made or within(config, whole, limit, journal=journal)
            screen.note(f"{method}: {settings_line(made.run)}")  # kept in config.toml
            with tracking(track if first else None, made.run, folder, journal) as tracked:
                outcome = run_method(
                    made.run,
                    made.splits,
                    folder,
                    name=folder.name,
                    journal=journal,
                    until=made.until,
                    keeping=Keeping(resume, checkpoint_every, stop),
                )
                tracked(outcome.measures)
        else:
            screen.note(f"{method}: finished before, {folder}")
            rmtree(checkpoints_of(folder), ignore_errors=True)  # of a command that was killed at its very end
    metrics = plain(outcome.measures.model_dump())
    if first:
        typer.echo(json.dumps(metrics, allow_nan=False) if as_json else brief(metrics))
        if told := still_gaining(read_record(outcome.folder)):
            say(told)
        say(f"report: {outcome.folder / 'report.html'}")
        say(f"next: {o.command('predict', outcome.folder, 'NEW.csv', '-o', 'labelled.csv')}")
    if (end := outcome.measures.end).how == "interrupted":
        kept = f"{outcome.folder}{INTERRUPTED}"
        raise Stopped(
            signal.SIGINT, f"{end.told}; the same command with --resume goes on, and keeps this run as {kept}"
        )
    if end.how == "diverged":
        say(f"lasttoken: {end.told}")
        raise typer.Exit(2)
