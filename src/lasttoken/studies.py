"""Several methods on the same rows, at several sizes and from several seeds: fitted or kept from before, compared, reported.

A study is a folder of runs with one report. It can be cut short and asked for again: what is finished in it is kept, and
another study in the same folder is refused before anything is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from lasttoken.config import Data, Decision, MethodConfig, Run, Settings, settings_line
from lasttoken.data.dataset import Splits
from lasttoken.data.subset import with_fewer
from lasttoken.errors import ArtifactError, ConfigError, UserError
from lasttoken.evaluation.metrics import HEADLINE, named
from lasttoken.experiment import check_same, finished, in_step, leads, load_data, run_method
from lasttoken.journal import Journal, told
from lasttoken.report.compose import Written, write_report
from lasttoken.report.page import check_page
from lasttoken.run import MANIFEST, check_not_run, check_writable, runs_in


@dataclass(frozen=True)
class Cell:
    """One run of a study: a method or a recipe's entry, with so many training rows, from a seed."""

    name: str
    run: Run

    def folder(self, first_seed: int) -> str:
        """embedding; embedding-200 with 200 training rows; embedding-200-seed1 with another than the first seed."""
        rows, seed = self.run.data.train_rows, self.run.seed
        return self.name + (f"-{rows}" if rows else "") + (f"-seed{seed}" if seed != first_seed else "")


@dataclass(frozen=True)
class Study:
    """What came of several methods on the same rows."""

    runs: list[dict[str, Any]]  # metrics.json of each method, means over its seeds
    comparison: dict[str, Any]  # summary, scores, pairs with their verdicts; empty in a process that does not lead
    failed: list[str]  # a sentence each: methods that could not run, or were cut short
    folders: list[Path]  # of each of `runs`, that of its first seed
    report: Path  # the page that shows all of it


def study(
    data: Data | Splits,
    methods: Mapping[str, MethodConfig],
    out: Path | str,
    *,
    sizes: Sequence[int | None] = (None,),
    seeds: int = 1,
    metric: str = HEADLINE,
    goal: float | None = None,
    decision: Decision | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Study:
    """Fit every method on the same rows and say which is best, and whether that is shown; `lasttoken compare` from Python.

    data: where rows are (`Data(source="reviews.csv", text=("body",), label=("stars",))`), or the parts themselves, as
    `make_splits` gives them. methods: name -> settings (`{"linear": Linear(), "rank-16": Embedding(lora=Lora(r=16))}`).
    out: the folder of all runs and of report.html; runs that are finished in it are kept. sizes: training rows, None for
    all. seeds: fits of each. What is told on the way goes to the logger "lasttoken". Raises UserError.
    """
    if not methods or not isinstance(methods, Mapping):
        raise ConfigError(["methods: give settings by name, such as {'linear': Linear()}"])
    if not isinstance(data, Data | Splits):
        raise ConfigError(
            [f"data: got {data!r}; describe it: Data(source='reviews.csv', text=('body',), label=('stars',))"]
        )
    plain = [name for name, config in methods.items() if not isinstance(config, Settings)]
    if plain:
        raise ConfigError([f"methods: {plain[0]!r} is {methods[plain[0]]!r}; give its settings, such as Linear()"])
    wrong_sizes = [size for size in sizes if size is not None and (not isinstance(size, Integral) or size < 1)]
    if wrong_sizes:
        raise ConfigError([f"sizes: {wrong_sizes[0]!r} is no number of training rows; None stands for all of them"])
    folder, described = Path(out), data if isinstance(data, Data) else Data(source="rows given from Python")
    check_not_run(folder)
    wrong = [name for name in methods if not re.fullmatch(r"[\w.-]+", name)]
    if wrong:
        raise ConfigError([f"methods: {wrong[0]!r} names a folder; use letters, digits, - and _"])
    splits = load_data(data, seed=seed, journal=logged("data")) if isinstance(data, Data) else data
    values = {"seed": seed, "device": device, "data": described, "decision": decision or Decision()}
    runs = {name: Run(method=config, **values) for name, config in methods.items()}
    cells = grid(runs, list(sizes), seeds)
    return run_cells(cells, splits, folder, metric=metric, goal=goal, journal_of=logged, tell=told("study"))


def logged(name: str) -> Journal:
    """A journal whose notes go to the logger "lasttoken" under a name."""
    return Journal(tell=told(name))


def grid(configs: Mapping[str, Run], sizes: Sequence[int | None], seeds: int) -> list[Cell]:
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


def run_cells(
    cells: Sequence[Cell],
    splits: Splits,
    out: Path,
    *,
    metric: str,
    journal_of: Callable[[str], Journal],
    tell: Callable[[str], None],
    goal: float | None = None,
    optional: frozenset[str] = frozenset(),
) -> Study:
    """Every run fitted, or kept from before; writes out/NAME of each and out/report.html.

    A method that cannot run does not take the others with it: it is told and left out. An optional method is left out
    without a failure where its model is not on this machine. Raises the last UserError where no method could run.
    """
    named(metric, splits.labels.multi)  # a wrong name or size is told before anything is trained
    check_page(out / "report.html")
    check_writable(out)
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
        if cell.name in optional and not at_hand(asked):
            if cell.name not in missing:
                tell(
                    f"{cell.name}: left out, {asked} is not on this machine; --encoder NAME asks for it, or for another"
                )
            missing.add(cell.name)
            continue
        journal = journal_of(name)
        try:
            part = parts[config.data.train_rows, config.seed]
            outcome = finished(config, part, out / name, cell.name)
            in_step(config.device)
            if outcome is None:
                tell(f"{name}: {settings_line(config)}")  # kept in config.toml
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
    others = {path for path in runs_in(out) if path != out} - set(folders)
    if others:
        tell(f"{out} holds {len(others)} more runs, which are not in this report: lasttoken report {out} has all")
    page, written = out / "report.html", Written([], [], {})
    if leads(cells[0].run.device):
        written = write_report(folders, page, metric=metric, goal=goal)
    return Study(written.shown, written.comparison, failed, written.folders, page)


def at_hand(model: str) -> bool:
    """Whether a model loads without a download. Asked of few methods: linear ones need not wait for transformers."""
    from lasttoken.model.backbone import on_this_machine

    return on_this_machine(model)


def check_kept(cells: Sequence[Cell], parts: Mapping[Any, Splits], out: Path, first_seed: int) -> None:
    """Raises ArtifactError where something other than the run asked for is in its place: before any is trained."""
    for cell in cells:
        folder = out / cell.folder(first_seed)
        if not folder.exists():
            continue
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{folder} is there and is no run; name another folder with --out, or remove it")
        check_same(cell.run, parts[cell.run.data.train_rows, cell.run.seed], folder)
