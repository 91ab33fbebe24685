"""The layer of the lowest loss, found from a few: every fourth layer of a deep model, then those around the best of them.

Neighbouring layers differ by one block, so their losses are alike (docs/lab.md, 2026-11-29); a model of thirty blocks is
compared at twelve layers in place of thirty-one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STRIDE = 4  # of the first look; halved until every neighbour of the best was tried
DEEP = 16  # layers; up to this many, all are tried


def best_layer(count: int, losses_of: Callable[[int], np.ndarray]) -> tuple[int, dict[int, np.ndarray]]:
    """(index of the layer with the lowest mean loss of those tried, losses by index, in order).

    losses_of: place -> losses of the rows (N,). The last layer is always tried.
    """
    losses: dict[int, np.ndarray] = {}
    stride = STRIDE if count > DEEP else 1
    places = list(range(count - 1, -1, -stride))
    while True:
        for place in sorted(places):
            if place not in losses:
                losses[place] = losses_of(place)
        best = min(losses, key=lambda place: (losses[place].mean(), place))
        if stride == 1:
            return best, dict(sorted(losses.items()))
        stride //= 2
        places = [place for place in (best - stride, best + stride) if 0 <= place < count]
