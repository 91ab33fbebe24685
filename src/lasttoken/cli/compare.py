"""`lasttoken compare`: several methods on the same rows, one report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.config import METHOD_CONFIGS, Run
from lasttoken.errors import ConfigError
from lasttoken.evaluation.metrics import HEADLINE

if TYPE_CHECKING:
    from lasttoken.cli.screen import Screen
    from lasttoken.data.dataset import Splits


QUICKEST_FIRST = ("linear", "probe", "encoder", "embedding", "instruction")


def compare(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="CSV, TSV, JSONL or Parquet file, hub:owner/name[:config], or wipo:FOLDER; default: the recipe's"
        ),
    ] = "",
    text: o.Text = "text",
    label: o.Label = "label",
    methods: Annotated[
        str | None, typer.Option("--methods", help="Names with commas; default: all that can run, the quickest first")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Causal LM: a hub name, a folder, or tiny", rich_help_panel=o.METHOD)
    ] = "tiny",
    encoder: Annotated[str | None, typer.Option("--encoder", help="Model of the encoder method")] = None,
    quantize: o.Quantize = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="What the comparison is decided on; default: macro_f1, or the recipe's"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="An experiment written down: paper/ag-news, or a .toml file of your own"),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Training rows to learn from, for learning curves: 200,1000,all")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fits of each method, a seed each")] = 1,
    goal: o.Goal = None,
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
    hierarchy: o.HierarchyOf = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    settings: o.SetOf = None,
    as_json: o.Json = False,
) -> None:
    """Fit several methods on the same splits and say which is best, and whether that is shown."""
    from lasttoken.cli.screen import Screen
    from lasttoken.experiment import leads, load_data
    from lasttoken.recipe import beside, read_recipe, runs_of
    from lasttoken.run import check_not_run, write_text

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
    if goal is not None and sizes is None:
        raise ConfigError(["--goal: is asked of learning curves; name sizes too, such as --sizes 200,1000,all"])
    written = None if recipe is None else read_recipe(recipe)
    if written is None:
        if not source:
            raise ConfigError(["name the file to learn from, or an experiment with --recipe"])
        configs = method_configs(
            chosen(methods),
            data,
            model=model,
            encoder=encoder,
            quantize=quantize,
            seed=seed,
            device=device,
            settings=settings or [],
        )
        folder = out or o.default_folder(source, model)
    else:
        if encoder is not None:
            raise ConfigError(["--encoder: a recipe names its encoders; set one with --set ENTRY.model=NAME"])
        configs = runs_of(
            written,
            {name: value for name, value in data.items() if asked_for(context, name)},
            None if methods is None else o.listed(methods),
            model=model if asked_for(context, "model") else None,
            quantize=quantize,
            seed=seed,
            device=device,
            settings=settings or [],
        )
        folder = out or Path("runs") / written.name.removesuffix(".toml").replace("/", "-")
    metric = metric or (written.metric if written else HEADLINE)
    check_not_run(folder)
    first = next(iter(configs.values()))
    with Screen(loud=leads(first.device)) as screen:
        if written is not None and written.about:
            screen.note(f"{written.name}: {written.about}")
        whole = first.data.model_copy(update={"train_rows": None})  # each run takes its rows from all of them
        splits = load_data(whole, seed=first.seed, journal=screen.journal("data"))
        optional = set() if methods or encoder or written else {"encoder"}
        cells = grid(configs, sizes_of(sizes, first.data.train_rows), seeds)
        done = run_all(cells, splits, folder, metric=metric, goal=goal, optional=optional, screen=screen)
    if leads(first.device):
        if written is not None:
            scores = {run["name"]: score_of(run, done.comparison, metric) for run in done.runs}
            write_text(folder / "reproduced.md", beside(written, scores) + "\n")
        show(done, folder, metric=metric, as_json=as_json)


def asked_for(context: typer.Context, option: str) -> bool:
    """Whether an option was given, and does not stand at its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def score_of(run: dict[str, Any], comparison: dict[str, Any] | None, metric: str) -> str:
    """`.912 [.905, .919]` of one run; over its seeds where there are several."""
    from lasttoken.cli.show import interval

    scores = comparison["scores"] if comparison else {}
    return interval(scores.get(run["name"], run["splits"]["test"]["metrics"][metric]))


def chosen(methods: str | None) -> tuple[str, ...]:
    """The methods that are named, or all. Raises ConfigError where none is."""
    names = QUICKEST_FIRST if methods is None else o.listed(methods)
    if not names:
        raise ConfigError([f"--methods: no method is named; choose from {', '.join(QUICKEST_FIRST)}"])
    return names


def method_configs(
    names: tuple[str, ...],
    data: dict[str, Any],
    *,
    model: str,
    encoder: str | None,
    quantize: str | None,
    seed: int,
    device: str,
    settings: list[str],
) -> dict[str, Run]:
    """The Run of each method. A setting is given to all (`seed=1`) or to one (`embedding.lora.r=16`)."""
    configs = {}
    for name in names:
        known = METHOD_CONFIGS[name].model_fields if name in METHOD_CONFIGS else {}
        others = METHOD_CONFIGS.keys() - {name}
        mine = [assigned for assigned in settings if assigned.partition(".")[0] not in others]
        configs[name] = o.run_config(
            name,
            data,
            model=encoder if name == "encoder" else model if "model" in known else None,
            quantize=quantize if "quantize" in known else None,
            seed=seed,
            device=device,
            settings=mine,
        )
    o.check_used(names, [] if quantize is None else ["quantize"])  # the names are known to be methods by now
    return configs


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a method or a recipe's entry, with so many training rows, from a seed."""

    name: str
    run: Run

    def folder(self, first_seed: int) -> str:
        """embedding; embedding-200 with 200 training rows; embedding-200-seed1 with another than the first seed."""
        rows, seed = self.run.data.train_rows, self.run.seed
        return self.name + (f"-{rows}" if rows else "") + (f"-seed{seed}" if seed != first_seed else "")


def grid(configs: dict[str, Run], sizes: list[int | None], seeds: int) -> list[Cell]:
    """Every method at every size from every seed; the first seed of everything comes first, then small sizes, then quick methods.

    The rows are divided by the first seed whatever the seed of a run is, so that all are judged on the same test rows.
    """
    cells = []
    for more in range(seeds):
        for size in sizes:
            for name, first in configs.items():
                split_seed = first.seed if more and first.data.split_seed is None else first.data.split_seed
                data = first.data.model_copy(update={"train_rows": size, "split_seed": split_seed})
                cells.append(Cell(name, first.model_copy(update={"seed": first.seed + more, "data": data})))
    return cells


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


@dataclass(frozen=True)
class Compared:
    """What came of several methods on the same rows."""

    runs: list[dict[str, Any]]  # metrics.json of each method, means over its seeds
    comparison: dict[str, Any] | None  # None for a single run
    failed: list[str]  # a sentence each: methods that could not run, or were cut short
    folders: list[Path]  # of each of `runs`, that of its first seed


def run_all(
    cells: list[Cell],
    splits: Splits,
    out: Path,
    *,
    metric: str,
    optional: set[str],
    screen: Screen,
    goal: float | None = None,
) -> Compared:
    """Every run fitted, or kept from before; writes out/NAME of each and out/report.html.

    A method that cannot run does not take the others with it: it is told and left out. An optional method is left out
    in silence where its model is not on this machine. Raises the last UserError where no method could run.
    """
    from lasttoken.cli.show import settings_line
    from lasttoken.data.subset import with_fewer
    from lasttoken.errors import UserError
    from lasttoken.evaluation.metrics import named
    from lasttoken.experiment import finished, run_method
    from lasttoken.model.backbone import on_this_machine
    from lasttoken.report.compose import Written, write_report
    from lasttoken.report.page import check_page
    from lasttoken.run import runs_in

    named(metric, splits.labels.multi)  # a wrong name or size is told before anything is trained
    check_page(out / "report.html")
    first_seed = cells[0].run.seed
    parts = {
        (rows, seed): splits if rows is None else with_fewer(splits, rows, seed=seed)
        for rows, seed in {(cell.run.data.train_rows, cell.run.seed) for cell in cells}
    }
    check_kept(cells, parts, out, first_seed)
    folders, failed, last, missing = [], [], None, set[str]()
    for cell in cells:
        config, name = cell.run, cell.folder(first_seed)
        asked = getattr(config.method, "model", "")
        if cell.name in optional and not on_this_machine(asked):
            if cell.name not in missing:
                screen.note(
                    f"{cell.name}: left out, {asked} is not on this machine; --encoder NAME asks for it, or for another"
                )
            missing.add(cell.name)
            continue
        journal = screen.journal(name)
        try:
            part = parts[config.data.train_rows, config.seed]
            outcome = finished(config, part, out / name, cell.name)
            if outcome is None:
                screen.note(f"{name}: {settings_line(config)}")  # kept in config.toml
                outcome = run_method(config, part, out / name, name=cell.name, journal=journal)
            else:
                journal.note(f"kept from before, {out / name}")
        except UserError as error:
            last = error
            failed.append(f"{name} left out: {error}")
            journal.note(f"left out: {error}")
            continue
        if isinstance(outcome.failure, KeyboardInterrupt):
            raise outcome.failure
        if outcome.failure is not None:
            failed.append(f"{name} was cut short: {outcome.failure}")
        folders.append(outcome.folder)
        del outcome  # and the model with it: the next one needs the memory
    if not folders and last is not None:
        raise last
    written = Written([], [], None)
    others = {path for path in runs_in(out) if path != out} - set(folders)
    if others:
        screen.note(
            f"{out} holds {len(others)} more runs, which are not in this report: lasttoken report {out} has all"
        )
    if screen.loud:
        written = write_report(folders, out / "report.html", metric=metric, goal=goal)
    return Compared(written.shown, written.comparison, failed, written.folders)


def check_kept(cells: list[Cell], parts: dict[Any, Splits], out: Path, first_seed: int) -> None:
    """Raises ArtifactError where a run that is there already is another than the one asked for: before any is trained."""
    from lasttoken.experiment import check_same

    for cell in cells:
        folder = out / cell.folder(first_seed)
        if folder.exists():
            check_same(cell.run, parts[cell.run.data.train_rows, cell.run.seed], folder)


def show(done: Compared, out: Path, *, metric: str, as_json: bool) -> None:
    """The table, the verdicts and the next command; exit 2 where a method failed."""
    from lasttoken.cli.screen import say
    from lasttoken.cli.show import best_first, table, verdicts

    if as_json:
        typer.echo(json.dumps(vars(done), allow_nan=False, default=str))
    else:
        typer.echo(table(done.runs, metric))
        if done.comparison is not None:
            summary, *rest = verdicts(done.comparison)
            typer.echo("\n" + "\n".join([summary, "", *rest]).rstrip())
    best = best_first(done.runs, metric)[0]
    folder = dict(zip((run["name"] for run in done.runs), done.folders, strict=True))[best["name"]]
    say(f"report: {out / 'report.html'}")
    say(f"next: lasttoken predict {folder} NEW.csv -o labelled.csv")
    if done.failed:
        say("lasttoken: " + "; ".join(done.failed))
        raise typer.Exit(2)
