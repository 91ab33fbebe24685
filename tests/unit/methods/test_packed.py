"""Batches by length, and what happens to them when the device runs out of memory."""

import numpy as np
import pytest
import torch

from lasttoken.errors import ConfigError
from lasttoken.methods.packed import in_batches
from lasttoken.train.world import World

LENGTHS = np.array([3, 9, 1, 7, 5])


def with_room(tokens: int, tried: list[int]):
    def compute(rows: np.ndarray) -> list[int]:
        tried.append(int(LENGTHS[rows].sum()))
        if LENGTHS[rows].sum() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.tolist()

    return compute


def test_batches_are_made_again_under_half_the_budget() -> None:
    tried: list[int] = []
    found = [result for _, result in in_batches(LENGTHS, with_room(9, tried), budget=25)]
    assert found == [[1], [3], [4], [0, 2]]
    assert tried == [
        25,
        9,
        12,
        7,
        5,
        4,
    ]  # 25 and 12 were too much; each time the smaller budget holds for all that follow


def test_a_single_row_that_does_not_fit_is_said() -> None:
    with pytest.raises(
        ConfigError, match=r"the device ran out of memory on a single row of 9 tokens; lower max_length"
    ):
        list(in_batches(LENGTHS, with_room(8, []), budget=12))


def test_processes_share_the_batches() -> None:
    shares = [[rows.tolist() for rows, _ in in_batches(LENGTHS, list, budget=10, world=World(r, 2))] for r in (0, 1)]
    assert shares == [[[1], [4, 0, 2]], [[3]]]
