"""Search for the layer with the lowest loss: every fourth layer of a deep model, then those near the best.

Neighbouring layers differ by one block, so their losses are similar (docs/lab.md, 2026-11-29). A model of thirty blocks
needs twelve layers instead of thirty-one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STRIDE = 4  # between the layers tried first; halved until both neighbours of the best are tried
DEEP = 16  # layers; up to this many, all are tried


def best_layer(count: int, losses_of: Callable[[int], np.ndarray]) -> tuple[int, dict[int, np.ndarray]]:
    """(index of the layer with the lowest mean loss of those tried, losses of each layer tried in order of index).

    count: number of layers. losses_of: index -> losses of the rows (N,). The last layer is always tried.
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
