"""Metrics that depend on the data set: on the training rows of each label, or on the hierarchy of labels.

They are functions of sums over rows like all metrics, so they get intervals in the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lasttoken.evaluation.metrics import Formula, Metric, counts, macro, macro_of_draws, ratio, top
from lasttoken.evaluation.row_statistics import RowSums
from lasttoken.hierarchy import Hierarchy
from lasttoken.labels import LabelSpace, is_indicator
from lasttoken.wording import counted

BANDS = ((0, 9), (10, 99), (100, None))  # training rows of a label, from and to (inclusive)
A, B = 0.55, 1.5  # of the propensity model: its authors' defaults


def label_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Rows of each label, (C,) int64, of targets (N,) or (N, C)."""
    return targets.sum(axis=0) if is_indicator(targets) else np.bincount(targets, minlength=classes)


def problem_metrics(space: LabelSpace, trained: np.ndarray, rows: int, hierarchy: Hierarchy | None) -> list[Metric]:
    """The metrics of a problem. trained: training rows of each label (C,); rows: training rows in total.

    Macro-F1 of rare and of frequent labels where there are both, propensity-scored P@k with any number of labels a row,
    hierarchical F1 with a hierarchy of labels.
    """
    found = by_band(trained)
    if space.multi:
        weights = 1 / propensities(trained, rows)
        found += [
            Metric(f"psp_at_{k}", f"PSP@{k}", True, (0, 1), None, Formula(rare_hits(weights, k), share))
            for k in (1, 3, 5)
        ]
    if hierarchy is not None:
        formula = Formula(nodes(space, hierarchy), overlap)
        found.append(Metric("hierarchical_f1", "hierarchical F1", True, (0, 1), formula, formula))
    return found


def by_band(trained: np.ndarray) -> list[Metric]:
    """Macro-F1 over the labels of each band of training rows; [] where one band holds all labels."""
    found = []
    for low, high in BANDS:
        columns = np.flatnonzero((trained >= low) & (trained <= (trained.max() if high is None else high)))
        if 0 < len(columns) < len(trained):
            words = f"{low}+" if high is None else f"up to {high}" if low == 0 else f"{low}-{high}"
            formula = Formula(counts_of(columns), macro, macro_of_draws)
            told = f"macro-F1, {words} rows ({counted(len(columns), 'label', 'labels')})"
            found.append(Metric(f"macro_f1_{low}", told, True, (0, 1), formula, formula))
    return found


def counts_of(columns: np.ndarray) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """`counts` of K of the labels: S = 3K."""

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        n, classes = probs.shape
        whole = counts(y, probs, chosen)
        place = np.full(classes, -1)
        place[columns] = np.arange(len(columns))
        part, column = np.divmod(whole.columns, classes)
        kept = place[column] >= 0
        new = part[kept] * len(columns) + place[column[kept]]
        return RowSums(n, 3 * len(columns), whole.rows[kept], new, whole.amounts[kept])

    return sums


def propensities(trained: np.ndarray, rows: int) -> np.ndarray:
    """Probability that a label that applies is annotated (C,), by its training rows (Jain 2016, KDD, eq. 2)."""
    scale = (np.log(max(rows, 3)) - 1) * (B + 1) ** A
    return 1 / (1 + scale * np.exp(-A * np.log(trained + B)))


def rare_hits(weights: np.ndarray, k: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """Summed weight of the true labels among the k most probable | its maximum for the row: S = 2."""

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
        got = (top(y, probs, k) * weights[order]).sum(axis=1)
        best = -np.sort(-(y * weights), axis=1)[:, :k].sum(axis=1)
        return RowSums.dense(np.column_stack([got, best]))

    return sums


def share(sums: np.ndarray, n: int) -> np.ndarray:
    return ratio(sums[:, 0], sums[:, 1])


def nodes(space: LabelSpace, hierarchy: Hierarchy) -> Callable[[np.ndarray, np.ndarray, np.ndarray], RowSums]:
    """Nodes true and decided | decided | true, ancestors included: S = 3 (Kiritchenko 2006)."""
    names = list(dict.fromkeys(node for name in space.names for node in (name, *hierarchy.above(name))))
    place = {name: j for j, name in enumerate(names)}
    above = np.zeros((len(space), len(names)), dtype=bool)  # (C, M): each label's nodes
    for j, name in enumerate(space.names):
        above[j, [place[node] for node in hierarchy.closed([name])]] = True
    above = above[:, ~above.all(axis=0)]  # without a root that all labels share

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        true, said = (closed(values, above) for values in (y, chosen))
        return RowSums.dense(np.column_stack([(true & said).sum(axis=1), said.sum(axis=1), true.sum(axis=1)]))

    return sums


def closed(values: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Nodes (N, M) bool of labels (N,) or (N, C). above: each label's nodes (C, M)."""
    if values.ndim == 1:
        return above[values]
    return (values.astype(np.float32) @ above.astype(np.float32)) > 0


def overlap(sums: np.ndarray, n: int) -> np.ndarray:
    return ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2])
