"""Batches by length, and what happens to them when the device runs out of memory."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import sentences

from lasttoken.errors import ConfigError
from lasttoken.infer.batches import in_batches
from lasttoken.infer.head import head_probs
from lasttoken.labels import LabelSpace
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import encode
from lasttoken.train.distributed import World

CPU = cast("Any", SimpleNamespace(device=torch.device("cpu"), threads=1, check_process=lambda: None, sharded=False))
TWO = cast("Any", SimpleNamespace(device=torch.device("cpu"), threads=2, check_process=lambda: None, sharded=False))
LENGTHS = np.array([3, 9, 1, 7, 5])


def with_room(tokens: int, tried: list[int]):
    def compute(rows: np.ndarray) -> list[int]:
        tried.append(int(LENGTHS[rows].sum()))
        if LENGTHS[rows].sum() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows.tolist()

    return compute


def test_batches_are_made_again_under_half_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []
    with caplog.at_level("WARNING", "lasttoken"):
        found = [result for _, result in in_batches(LENGTHS, with_room(9, tried), CPU, budget=25)]
    assert found == [[1], [3], [4], [0, 2]]
    assert caplog.messages[0] == "out of memory: the batch size is reduced to 12 tokens, and the batch runs again"
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
        list(in_batches(LENGTHS, with_room(8, []), CPU, budget=12))


def test_processes_share_the_batches() -> None:
    shares = [
        [rows.tolist() for rows, _ in in_batches(LENGTHS, list, CPU, budget=10, world=World(r, 2))] for r in (0, 1)
    ]
    assert shares == [[[1], [4, 0, 2]], [[3]]]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_several_threads_give_the_same_in_the_same_order() -> None:
    seen: list[tuple[bool, int]] = []

    def compute(rows: np.ndarray) -> list[int]:
        seen.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return rows.tolist()

    found = list(in_batches(np.arange(1, 41), compute, TWO, budget=80))
    assert [result for _, result in found] == [rows.tolist() for rows, _ in found]
    assert sorted(chain.from_iterable(result for _, result in found)) == list(range(40))
    assert max(sum(i + 1 for i in result) for _, result in found) <= 40  # both together stay within the budget
    assert seen == [(True, 1)] * len(found)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_what_fails_in_a_thread_fails_here() -> None:
    def compute(rows: np.ndarray) -> list[int]:
        raise ValueError(f"row {rows[0]}")

    with pytest.raises(ValueError, match="row 39"):
        list(in_batches(np.arange(1, 41), compute, TWO, budget=80))
    assert torch.get_num_threads() == 2


def test_threads_do_not_change_probabilities(load_shared, two_threads) -> None:
    """A real model, 60 texts in many batches: one after the other, and two at once (float32, other batches)."""
    backbone, labels = load_shared("qwen3"), LabelSpace(("a", "b", "c"))
    head = Head(backbone.width, 3, pooling="mean")
    encoded = encode(backbone.tokenizer, sentences(60, seed=4), limit=64)
    one, two = (head_probs(replace(backbone, threads=threads), head, encoded, labels, budget=100) for threads in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


def test_processes_that_share_weights_run_equally_many_batches() -> None:
    """The results of the passes that a process runs along for the others are left out."""
    split = cast("Any", SimpleNamespace(**{**vars(CPU), "sharded": True}))
    lengths, ran, kept = np.array([4, 4, 4]), [[], []], [[], []]
    for rank in range(2):
        world = World(rank, 2)
        batches = in_batches(
            lengths, lambda rows, r=rank: ran[r].append(len(rows)) or rows, split, budget=4, world=world
        )
        kept[rank] = [int(rows[0]) for rows, _ in batches]
    assert [len(passes) for passes in ran] == [2, 2]
    assert sorted(kept[0] + kept[1]) == [0, 1, 2]
