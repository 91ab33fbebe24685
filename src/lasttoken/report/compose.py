"""From run folders to a page: read, put together what belongs together, compare, draw, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.comparison import align, compare, score
from lasttoken.evaluation.learning import fit_curve, sentences, to_dict
from lasttoken.evaluation.metrics import Metric, named
from lasttoken.report.collect import RunView, collect
from lasttoken.report.entries import Entry, entries, told_apart
from lasttoken.report.page import check_page, render, write_page
from lasttoken.report.verdict import title
from lasttoken.run import plain, read_json, verify


@dataclass(frozen=True)
class Written:
    """What a page says, ready for JSON."""

    shown: list[dict[str, Any]]  # metrics.json of each method's largest size, means over its seeds
    folders: list[Path]  # of each, the run of its first seed
    comparison: dict[str, Any]


def write_report(
    folders: Sequence[Path], path: Path, *, metric: str, goal: float | None = None, seed: int = 0
) -> Written:
    """One page about finished runs, at `path`.

    goal: the score that more labels should bring, None: the best there is. Raises ArtifactError on a damaged run or
    where `path` is another file, DataError where the runs were not judged on the same rows.
    """
    check_page(path)
    for folder in folders:
        verify(folder)
        check_judged(folder)
    views = [collect(folder) for folder in folders]
    for view in views:
        named(metric, view.labels.multi)
    views = in_one_order(views)
    found = told_apart(entries(views))
    shown = [entry.view() for entry in found]
    by_name = {view.name: entry.predictions for view, entry in zip(shown, found, strict=True)}
    comparison = compare(by_name, metric=metric, seed=seed).to_dict()
    comparison["learning"] = learning(found, named(metric, shown[0].labels.multi), goal=goal, seed=seed)
    write_page(render(shown, comparison if len(views) > 1 else None, title=title(shown)), path)
    dumped = [{**read_json(view.folder / "metrics.json"), **plain(view.measures.model_dump())} for view in shown]
    return Written(dumped, [view.folder for view in shown], comparison)


def check_judged(folder: Path) -> None:
    """Raises ArtifactError on a whole folder that holds a saved estimator alone, as `save` writes from Python."""
    if not (folder / "metrics.json").exists():
        raise ArtifactError(
            f"{folder}: a saved estimator, never judged on test rows, so there is nothing to report; "
            "`lasttoken train` or `lasttoken.study` judges what it fits"
        )


def in_one_order(views: Sequence[RunView]) -> list[RunView]:
    """The runs with their test rows in the order of the first. Raises DataError, naming folders, where rows differ."""
    names = ["/".join(view.folder.absolute().parts[-2:]) for view in views]
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
    """Scores by training size and what more labels would bring; None where no method has several sizes.

    Only for metrics whose best is 1: of others no error falls towards 0.
    """
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
