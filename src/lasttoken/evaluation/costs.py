"""Costs of mistakes, and the decisions with the least expected cost.

Costs are given by name: `{true label: {decided label: cost}}` with one label a row, `{label: {"false": cost,
"missed": cost}}` with any number. Costs that are not given are 1; a right decision costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lasttoken.errors import DataError
from lasttoken.labels import NOTHING, LabelSpace

Costs = Mapping[str, Mapping[str, float]]
ROUNDING = 1e-12  # expected costs closer than this are equal
MISTAKES = ("false", "missed")  # a label that was given but does not apply, and one that applies but was not given


def cost_matrix(costs: Costs, labels: LabelSpace) -> np.ndarray:
    """Costs (C, C) of decisions, true label by decided label. Raises DataError on names that are no labels."""
    names = [*costs, *(name for row in costs.values() for name in row)]
    column = dict(zip(names, checked(names, labels), strict=True))
    matrix = 1.0 - np.eye(len(labels))
    for true, row in costs.items():
        for decided, cost in row.items():
            if true == decided:
                raise DataError(
                    f"decision.costs: {true!r} decided for {true!r} is right and costs nothing; leave it out"
                )
            matrix[column[true], column[decided]] = cost
    return matrix


def label_costs(costs: Costs, labels: LabelSpace, *, false: float, missed: float) -> np.ndarray:
    """Costs (2, C) of giving each label wrongly and of missing it; by default `false` and `missed`.

    Raises DataError on names that are no labels, and on anything but "false" and "missed".
    """
    found = np.repeat(np.array([[false], [missed]]), len(labels), axis=1)
    for (name, row), column in zip(costs.items(), checked(list(costs), labels), strict=True):
        wrong = sorted(row.keys() - set(MISTAKES))
        if wrong:
            raise DataError(
                f"decision.costs: {name!r} has {wrong[0]!r}; where rows may have several labels each costs "
                "{false = ..., missed = ...}"
            )
        found[:, column] = [row.get(mistake, found[i, column]) for i, mistake in enumerate(MISTAKES)]
        if not found[:, column].any():
            raise DataError(f"decision.costs: no mistake about {name!r} costs anything; give false or missed a cost")
    return found


def checked(names: list[str], labels: LabelSpace) -> list[int]:
    """The columns of `names`. Raises DataError on a name that is no label."""
    try:
        return labels.encode(names).tolist()
    except DataError as error:
        raise DataError(f"decision.costs: {error}") from error


def cheapest(probs: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The column (N,) int64 with the least expected cost (Elkan 2001), NOTHING where all of probs (N, C) are 0.

    costs (C, C), true label by decided label. Ties go to the most probable column.
    """
    expected = probs @ costs
    least = expected <= expected.min(axis=1, keepdims=True) + ROUNDING
    return np.where(probs.any(axis=1), np.where(least, probs, -1.0).argmax(axis=1), NOTHING)


def paid(costs: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Cost of each row's decision (N,). y (N,) and chosen (N,) int64; NOTHING costs as much as the dearest mistake."""
    return np.where(chosen == NOTHING, costs[y].max(axis=1), costs[y, chosen])
