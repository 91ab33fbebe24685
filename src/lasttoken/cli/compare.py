"""`lasttoken compare`: several methods on the same rows, one report."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import launch
from lasttoken.cli import options as o
from lasttoken.errors import ConfigError

if TYPE_CHECKING:
    from lasttoken.config.run import Run
    from lasttoken.studies.many import Study


QUICKEST_FIRST = ("linear", "probe", "encoder", "embedding", "instruction")
ZERO_SHOT = "zero-shot"  # instruction without training, beside the methods


@o.takes_data()
def compare(
    source: Annotated[
        str,
        typer.Argument(
            callback=o.path,
            help="CSV, TSV, JSONL or Parquet file, hub:owner/name[:config], or wipo:FOLDER; default: the recipe's",
        ),
    ] = "",
    *,
    data: dict[str, Any],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Comma-separated methods, zero-shot too; default: all others that can run, fastest first"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            callback=o.path,
            help="Causal LM: a hub name, a folder, a GGUF file, smollm2 (default, if installed) or tiny",
            rich_help_panel=o.METHOD,
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", callback=o.path, help="Encoder model: a hub name, a folder, or minilm")
    ] = None,
    quantize: o.Quantize = None,
    precision: o.Precision = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Metric that ranks the runs; default: macro_f1, or the recipe's"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", callback=o.path, help="Recipe to run: paper/ag-news, or a .toml file of your own"),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Training set sizes, for learning curves: 200,1000,all")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds per method; with --folds, repeats")] = 1,
    goal: o.Goal = None,
    out: Annotated[
        Path | None, typer.Option("--out", callback=o.path, help="Folder of the runs; finished runs in it are reused")
    ] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    gpus: o.Gpus = None,
    settings: o.SetOf = None,
    checkpoint_every: o.CheckpointEvery = 60.0,
    time: o.Time = None,
    track: o.Track = None,
    engine: Annotated[
        str, typer.Option("--engine", help="Where runs are fitted: local, or ray for a cluster (RAY_ADDRESS)")
    ] = "local",
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-run",
            min=0,
            max=1,
            help="On a cluster: share of a GPU for each run, such as 0.5 for two runs a GPU  [default: 1]",
            show_default=False,
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Fit several methods on the same splits and report which is best, and whether the difference is significant."""
    began = monotonic()
    o.check_tracked(track)
    check_where(engine, gpus_per_run, gpus, time)
    o.check_there(source, data.get("valid"), data.get("test"))
    from lasttoken.evaluation.metrics import HEADLINE
    from lasttoken.packages import default_model
    from lasttoken.recipe import beside, read_recipe, runs_of
    from lasttoken.record.folder import check_not_run, write_text

    given = {"source": source, **data} if source else data
    if goal is not None and sizes is None:
        raise ConfigError(["--goal: is asked of learning curves; name sizes too, such as --sizes 200,1000,all"])
    written = None if recipe is None else read_recipe(recipe)
    told = []
    if written is None:
        if encoder is None and methods is None:
            encoder, told = o.encoder_here(settings or [])
        if not source:
            raise ConfigError(["name the file to learn from, or an experiment with --recipe"])
        configs = method_configs(
            chosen(methods),
            given,
            model=model,
            encoder=encoder,
            quantize=quantize,
            precision=precision,
            seed=seed,
            device=device,
            settings=settings or [],
        )
        asks = any(run.method.method in ("embedding", "instruction") for run in configs.values())  # a language model
        folder = out or o.default_folder(source, (model or default_model()) if model or asks else "compared")
    else:
        if precision is not None:
            raise ConfigError(["--precision: a recipe may hold several; set one with --set ENTRY.precision=float32"])
        if encoder is not None:
            raise ConfigError(["--encoder: a recipe names its encoders; set one with --set ENTRY.model=NAME"])
        configs = runs_of(
            written,
            given,
            None if methods is None else o.listed(methods),
            model=model,
            quantize=quantize,
            seed=seed,
            device=device,
            settings=settings or [],
        )
        folder = out or Path("runs") / written.name.removesuffix(".toml").replace("/", "-")
    metric = metric or (written.metric if written else HEADLINE)
    check_not_run(folder)
    first = next(iter(configs.values()))
    o.check_first(first.data, [model, encoder])
    if launch.wanted(gpus, time):
        raise typer.Exit(launch.start(gpus or 1, first.device))
    from lasttoken.cli.screen import Screen
    from lasttoken.cli.stopping import stopping
    from lasttoken.studies.cells import Watcher, one_by_one
    from lasttoken.studies.kept import Keeping
    from lasttoken.studies.many import grid, load_repeats, run_cells
    from lasttoken.studies.one import leads
    from lasttoken.studies.timed import limited

    limit = limited(time, began)
    kept = "runs that were finished are kept, and the same command goes on with the others"
    with stopping(lambda: kept) as stop, Screen(loud=leads(first.device)) as screen:
        if written is not None and written.about:
            screen.note(f"{written.name}: {written.about}")
        for sentence in told:
            screen.note(sentence)
        whole = first.data.model_copy(update={"train_rows": None})  # each run takes its rows from all of them
        splits = load_repeats(whole, first.seed, seeds, screen.journal("data"))
        optional = frozenset() if methods or encoder or written else frozenset({"encoder"})
        cells = grid(configs, sizes_of(sizes, first.data.train_rows), seeds, optional=optional)
        watcher = Watcher(screen.journal, screen.note, track)
        if engine == "ray":
            from lasttoken.studies.on_ray import on_cluster

            share = 0.0 if first.device == "cpu" else 1.0 if gpus_per_run is None else gpus_per_run
            fit_all = partial(on_cluster, gpus=share, watcher=watcher, every=checkpoint_every)
        else:
            keeping = Keeping(resume=True, every=checkpoint_every, stop=stop)
            fit_all = partial(one_by_one, limit=limit, watcher=watcher, keeping=keeping)
        done = run_cells(
            cells,
            splits,
            folder,
            metric=metric,
            goal=goal,
            limit=limit,
            watcher=watcher,
            fit_all=fit_all,
        )
    if leads(first.device):
        if written is not None:
            scores = {run["name"]: score_of(run, done.comparison) for run in done.runs}
            write_text(folder / "reproduced.md", beside(written, scores) + "\n")
        show(done, metric=metric, as_json=as_json)


def check_where(engine: str, gpus_per_run: float | None, gpus: int | None, time: str | None) -> None:
    """Raises ConfigError where options of a cluster and of this machine are mixed, or Ray is not installed."""
    from lasttoken.cluster import check_engine

    check_engine(engine)
    if engine == "local" and gpus_per_run is not None:
        raise ConfigError(["--gpus-per-run: runs share out the GPUs of a cluster; add --engine ray"])
    if gpus_per_run == 0:
        raise ConfigError(["--gpus-per-run 0: --device cpu fits runs without a GPU"])
    given = [name for name, value in {"--gpus": gpus, "--time": time}.items() if value is not None]
    if engine == "ray" and given:
        raise ConfigError(
            [f"--engine ray: a run is one process and has no time limit; leave out {' and '.join(given)}"]
        )


def score_of(run: dict[str, Any], comparison: dict[str, Any]) -> str:
    """`.912 [.905, .919]` of one run; over its seeds where there are several."""
    from lasttoken.cli.show import interval

    return interval(comparison["scores"][run["name"]])


def chosen(methods: str | None) -> tuple[str, ...]:
    """The methods that are named, or all, the quickest first. Raises ConfigError where none is named.

    On a CPU the peak memory is that of the whole process, and a later method inherits it.
    """
    names = QUICKEST_FIRST if methods is None else o.listed(methods)
    if not names:
        raise ConfigError([f"--methods: no method is named; choose from {', '.join(QUICKEST_FIRST)}"])
    return tuple(sorted(names, key=[*QUICKEST_FIRST[:-1], ZERO_SHOT, QUICKEST_FIRST[-1], *names].index))


def method_configs(
    names: tuple[str, ...],
    data: dict[str, Any],
    *,
    model: str | None,
    encoder: str | None,
    quantize: str | None,
    precision: str | None = None,
    seed: int,
    device: str,
    settings: list[str],
) -> dict[str, Run]:
    """The Run of each method. A setting is given to all (`seed=1`) or to one (`embedding.lora.r=16`)."""
    from lasttoken.config.methods import METHOD_CONFIGS
    from lasttoken.recipe import called, check_compared

    every = (*METHOD_CONFIGS, ZERO_SHOT)
    o.check_known(names, "--methods", every)
    methods = {name: "instruction" if name == ZERO_SHOT else name for name in names}
    configs = {}
    for name, method in methods.items():
        known = METHOD_CONFIGS[method].model_fields
        mine = [assigned for assigned in settings if assigned.partition(".")[0] not in {*every} - {name}]
        if name == ZERO_SHOT:
            mine = [re.sub(rf"^{ZERO_SHOT}\.", "method.", assigned) for assigned in mine] + ["method.train_model=false"]
        with called(name):
            configs[name] = o.run_config(
                method,
                data,
                model=encoder if name == "encoder" else model if "model" in known else None,
                quantize=quantize if "quantize" in known else None,
                precision=precision if "precision" in known else None,
                seed=seed,
                device=device,
                settings=mine,
            )
    given = {"quantize": quantize, "precision": precision}
    o.check_used(methods.values(), [name for name, value in given.items() if value is not None])
    check_compared(settings, every, names)
    if encoder is not None and "encoder" not in names:
        raise ConfigError(["--encoder: the encoder is not compared; add encoder to --methods, or leave --encoder out"])
    if model is not None and not any(
        "model" in METHOD_CONFIGS[method].model_fields for method in methods.values() if method != "encoder"
    ):
        raise ConfigError([f"--model: none of {', '.join(names)} takes a causal LM; leave it out"])
    return configs


def sizes_of(text: str | None, given: int | None) -> list[int | None]:
    """`200,1000,all` as numbers, ascending, None for all; `given` alone where nothing is asked. Raises ConfigError."""
    if text is None:
        return [given]
    words = o.listed(text)
    wrong = next((word for word in words if word != "all" and not (word.isdigit() and int(word))), None)
    if wrong is not None or not words:
        raise ConfigError(
            [f"--sizes {text}: {wrong!r} is no number of rows; write numbers or all: --sizes 200,1000,all"]
        )
    numbers = sorted({int(word) for word in words if word != "all"})
    return [*numbers, *([None] if "all" in words else [])]


def show(done: Study, *, metric: str, as_json: bool) -> None:
    """The table, the verdicts and the next command; exit 2 where a method failed."""
    from lasttoken.cli.screen import say
    from lasttoken.cli.show import best_first, table, verdicts

    if as_json:
        typer.echo(json.dumps(vars(done), allow_nan=False, default=str))
    else:
        typer.echo(table(done.runs, metric))
        summary, *rest = verdicts(done.comparison)
        typer.echo("\n" + "\n".join([summary, "", *rest]).rstrip())
    best = best_first(done.runs, metric)[0]
    folder = dict(zip((run["name"] for run in done.runs), done.folders, strict=True))[best["name"]]
    say(f"report: {done.report}")
    say(f"next: {o.command('predict', folder, 'NEW.csv', '-o', 'labelled.csv')}")
    if done.failed:
        say("lasttoken: " + "; ".join(done.failed))
        raise typer.Exit(2)
