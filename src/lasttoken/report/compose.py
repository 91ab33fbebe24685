"""From run folders to a report: read runs, group seeds and sizes, compare, render, write."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.comparison import align, compare, score
from lasttoken.evaluation.gaining import remarks
from lasttoken.evaluation.learning import fit_curve, sentences, to_dict
from lasttoken.evaluation.metrics import Metric, named
from lasttoken.evaluation.run_record import RunRecord, read_record
from lasttoken.record.folder import plain, verify
from lasttoken.report.entries import Entry, entries, with_unique_names
from lasttoken.report.page import check_page, render, write_page
from lasttoken.report.verdict import title
from lasttoken.wording import there_and_here

DRAWN = (  # settings that decide which rows are tested
    "source", "test", "valid", "split", "group", "folds", "split_seed", "valid_share", "test_share", "drop_empty", "id",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """The contents of a report, ready for JSON."""

    shown: list[dict[str, Any]]  # metrics.json of each method at its largest size, as means over seeds
    folders: list[Path]  # for each method the run of its first seed
    comparison: dict[str, Any]


def write_report(
    folders: Sequence[Path],
    path: Path,
    *,
    metric: str,
    goal: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Written:
    """Write the report on finished runs to `path`.

    goal: the score that learning curves are extrapolated to; None: the best score. overwrite: replace any file, not only a
    report. Raises ArtifactError on a damaged run or where `path` is another file, DataError where the runs have different
    test rows.
    """
    check_page(path, overwrite)
    for folder in folders:
        verify(folder)
        check_judged(folder)
    views = [read_record(folder) for folder in folders]
    for view in views:
        named(metric, view.labels.multi)
    views = in_one_order(views)
    found = with_unique_names(entries(views))
    shown = [entry.view() for entry in found]
    by_name = {view.name: entry.predictions for view, entry in zip(shown, found, strict=True)}
    comparison = compare(by_name, metric=metric, seed=seed).to_dict()
    comparison["learning"] = learning(found, named(metric, shown[0].labels.multi), goal=goal, seed=seed)
    comparison["remarks"] = remarks(shown)
    write_page(render(shown, comparison if len(views) > 1 else None, title=title(shown)), path, overwrite)
    dumped = [plain(view.measures.model_dump()) for view in shown]
    return Written(dumped, [view.folder for view in shown], comparison)


def check_judged(folder: Path) -> None:
    """Raises ArtifactError on the folder of a saved estimator (`save` in Python), which has no test metrics."""
    if not (folder / "metrics.json").exists():
        raise ArtifactError(
            f"{folder}: a saved estimator without test metrics, so there is nothing to report; "
            "`lasttoken train` and `lasttoken.study` evaluate on test rows"
        )


def check_drawn_alike(names: Sequence[str], views: Sequence[RunRecord]) -> None:
    """Raises DataError, naming the settings, where they explain why a run has other test rows than the first."""
    drawn = [what_draws(view) for view in views]
    for name, view, how in zip(names[1:], views[1:], drawn[1:], strict=True):
        others = [key for key in DRAWN if how.get(key) != drawn[0].get(key)]
        if others and set(view.predictions.ids) != set(views[0].predictions.ids):
            shown = ", ".join(there_and_here(key, drawn[0].get(key), how.get(key), (names[0], name)) for key in others)
            raise DataError(
                f"{name} and {names[0]} were judged on different rows, for they differ in {shown}; report each by itself, or "
                "train them alike"
            )


def what_draws(view: RunRecord) -> dict[str, Any]:
    """The settings that decide which rows a run is tested on; none about the drawing where a file or a column gives them."""
    settings = tomllib.loads(view.config)
    data = settings.get("data", {})
    given = data.get("test") or data.get("split")
    return {**data, "split_seed": None if given else data.get("split_seed", settings.get("seed"))}


def in_one_order(views: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs with their test rows in the order of the first. Raises DataError, naming folders, where rows differ."""
    names = ["/".join(view.folder.absolute().parts[-2:]) for view in views]
    check_drawn_alike(names, views)
    align({name: [view.predictions] for name, view in zip(names, views, strict=True)})
    first = views[0].predictions.ids
    ordered = []
    for view in views:
        if list(view.predictions.ids) != list(first):
            place = {row: i for i, row in enumerate(view.predictions.ids)}
            order = np.array([place[row] for row in first], dtype=np.int64)
            texts = None if view.texts is None else [view.texts[i] for i in order.tolist()]
            view = replace(view, predictions=view.predictions.take(order), texts=texts, raw=view.raw[order])
        ordered.append(view)
    return ordered


def learning(found: Sequence[Entry], metric: Metric, *, goal: float | None, seed: int) -> dict[str, Any] | None:
    """Learning curves and their extrapolation; None where no method has several sizes, or the metric's best is not 1."""
    grown = {entry.runs[0].name: entry.by_size() for entry in found if entry.smaller}
    if not grown or metric.bounds[1] != 1 or not metric.higher_is_better:
        return None
    curves = {name: fit_curve(metric, by_size, seed=seed) for name, by_size in grown.items()}
    points = {
        name: [{"rows": rows, **score(metric, by_size[rows], seed=seed).to_dict()} for rows in sorted(by_size)]
        for name, by_size in grown.items()
    }
    return {
        "curves": {name: to_dict(curve) for name, curve in curves.items()},
        "points": points,
        "sentences": sentences(curves, metric, goal=goal),
        "goal": goal,
    }
