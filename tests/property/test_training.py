"""What holds of plans, schedules and updates, whatever the rows."""

import math
from itertools import islice, pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lasttoken.seed import derive
from lasttoken.text.batch import Budget, MicroBatch, by_length, under_budget, updates
from lasttoken.train.loop import train
from lasttoken.train.loss import balanced_weights, class_loss, label_loss
from lasttoken.train.schedule import schedule

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(np.array)
MANY = settings(max_examples=100, deadline=None)
FEW = settings(max_examples=25, deadline=None)


@MANY
@given(LENGTHS, st.integers(1, 200))
def test_batches_of_prediction_hold_every_row_once_within_the_budget(lengths: np.ndarray, budget: int) -> None:
    batches = by_length(lengths, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(lengths[rows].sum() <= budget or len(rows) == 1 for rows in batches)
    ordered = lengths[np.concatenate(batches)]
    assert (ordered[:-1] >= ordered[1:]).all()
    # no batch could take the first row of the next one
    assert all(lengths[a].sum() + lengths[b[0]] > budget for a, b in pairwise(batches))


@MANY
@given(LENGTHS, st.integers(1, 200), st.integers(0, 99))
def test_cutting_keeps_the_order(lengths: np.ndarray, budget: int, seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(len(lengths))
    assert np.concatenate(under_budget(rows, lengths, budget)).tolist() == rows.tolist()


@MANY
@given(LENGTHS, st.integers(1, 12), st.integers(1, 150), st.integers(1, 3), st.integers(0, 2**32))
def test_every_epoch_uses_every_row_once(
    lengths: np.ndarray, batch: int, budget: int, processes: int, seed: int
) -> None:
    count = math.ceil(len(lengths) / batch)

    def plan(rank: int, size: int) -> list[list[MicroBatch]]:
        found = updates(lengths, batch=batch, budget=Budget(budget), seed=seed, share=(rank, size))
        return list(islice(found, 2 * count))

    plans, alone = [plan(rank, processes) for rank in range(processes)], plan(0, 1)
    for epoch in range(2):
        used = []
        for update in range(epoch * count, (epoch + 1) * count):
            together = [int(row) for each in plans for micro in each[update] for row in micro.rows]
            assert sorted(together) == sorted(int(row) for micro in alone[update] for row in micro.rows)
            assert len(together) == min(batch, len(lengths) - (update - epoch * count) * batch)
            used += together
        assert sorted(used) == list(range(len(lengths)))
    every = [micro.rows for each in plans for update in each for micro in update]
    assert all(lengths[rows].sum() <= budget or len(rows) == 1 for rows in every)


@MANY
@given(st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 0.99), st.floats(0, 1, exclude_max=True))
def test_a_schedule_stays_between_zero_and_one(name: str, warmup: float, progress: float) -> None:
    factor = schedule(name, warmup=warmup)
    assert 0 <= factor(progress) <= 1
    if warmup > 1e-6:
        assert 0 < factor(0.0) < 1
    if progress < warmup:
        assert factor(progress) <= factor(min(warmup, progress + 0.01)) + 1e-9  # rises; the last digit may round


def weighted(model: nn.Linear, x: Tensor, y: Tensor, weights: Tensor):
    """A loss over chosen rows whose items are unequal: rows weigh as much as their class."""

    def loss_and_count(rows: np.ndarray) -> tuple[Tensor, float]:
        return class_loss(model(x[rows]), y[rows], weights=weights)

    return loss_and_count


@FEW
@given(st.lists(st.integers(0, 19), min_size=2, max_size=20, unique=True), st.integers(1, 19), st.integers(0, 99))
def test_an_accumulated_update_equals_one_large_batch(rows: list[int], cut: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, y = torch.randn(20, 5), torch.randint(0, 3, (20,))
    weights = torch.tensor([0.2, 1.0, 7.0])
    cut = 1 + cut % (len(rows) - 1)
    chosen = np.array(rows)
    results = []
    for update in ([chosen], [chosen[:cut], chosen[cut:]], [chosen[i : i + 1] for i in range(len(rows))]):
        torch.manual_seed(seed)
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        step = next(
            train(
                weighted(model, x, y, weights),
                [update],
                optimizer,
                numbers=range(1, 2),
                multiplier=lambda p: 1.0,
                clip=1e9,
            )
        )
        results.append((model.weight.detach(), step.loss, step.grad_norm))
    for weight, loss, norm in results[1:]:
        # float32 sums in another order
        torch.testing.assert_close(weight, results[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([loss, norm], results[0][1:], rtol=1e-5, atol=1e-6)


@FEW
@given(st.integers(1, 20), st.booleans(), st.floats(0, 0.5), st.integers(0, 99))
def test_losses_are_sums_over_rows(rows: int, multi: bool, smoothing: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(rows, 4)
    targets = torch.rand(rows, 4) < 0.4 if multi else torch.randint(0, 4, (rows,))
    loss = label_loss if multi else class_loss
    whole, count = loss(logits, targets, smoothing=smoothing)
    parts = [loss(logits[i : i + 1], targets[i : i + 1], smoothing=smoothing) for i in range(rows)]
    torch.testing.assert_close(
        whole, torch.stack([part for part, _ in parts]).sum(), rtol=1e-5, atol=1e-5
    )  # order of sums
    assert count == sum(one for _, one in parts) == rows


@MANY
@given(st.lists(st.integers(0, 4), min_size=1, max_size=50).map(np.array))
def test_balanced_weights_give_every_class_that_occurs_the_same_say(targets: np.ndarray) -> None:
    weights = balanced_weights(targets, 5).numpy()
    counts = np.bincount(targets, minlength=5)
    shares = (weights * counts)[counts > 0]
    np.testing.assert_allclose(shares, len(targets) / 5, rtol=1e-6)  # float32


@MANY
@given(st.integers(0, 2**63), st.text(max_size=20), st.text(max_size=20))
def test_seeds_are_in_range_and_differ_by_purpose(seed: int, one: str, other: str) -> None:
    assert 0 <= derive(seed, one) < 2**63
    assert (derive(seed, one) == derive(seed, other)) == (one == other)
