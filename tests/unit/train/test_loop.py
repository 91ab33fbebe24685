"""The training loop: what a step reports, how it ends, and which weights stay."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError, Diverged
from lasttoken.train.loop import keep_best, train
from lasttoken.train.outcome import End, Step
from lasttoken.train.state import Best, TrainState


def model_and_optimizer(lr: float = 0.5) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def squared(model: nn.Module):
    def loss_and_count(pair: tuple[float, int]) -> tuple[Tensor, float]:
        value, items = pair
        return items * (model.weight.sum() - value) ** 2, items

    return loss_and_count


def constant(progress: float) -> float:
    return 1.0


def test_a_step_tells_what_it_did() -> None:
    model, optimizer = model_and_optimizer(lr=0.1)
    steps = train(
        squared(model), [[(3.0, 1), (1.0, 3)]], optimizer, numbers=range(1, 2), multiplier=lambda p: 0.5, clip=100
    )
    step = next(steps)
    assert (step.number, step.items) == (1, 4)
    assert step.loss == pytest.approx((9 + 3) / 4)
    assert step.grad_norm == pytest.approx(abs(-6 - 6) / 4)  # derivatives -2 * 3 * 1 and -2 * 1 * 3
    assert step.lr == 0.05
    assert model.weight.item() == pytest.approx(0.05 * 3)
    assert step.seconds >= 0
    assert list(steps) == []


def test_the_gradient_is_clipped_after_it_is_reported() -> None:
    model, optimizer = model_and_optimizer(lr=1.0)
    step = next(train(squared(model), [[(3.0, 1)]], optimizer, numbers=range(1, 2), multiplier=constant, clip=0.5))
    assert step.grad_norm == pytest.approx(6.0)
    assert model.weight.item() == pytest.approx(0.5, rel=1e-5)  # clip_grad_norm_ adds 1e-6 to the norm


def test_progress_begins_at_zero_and_stays_below_one() -> None:
    model, optimizer = model_and_optimizer()
    seen: list[float] = []
    list(
        train(
            squared(model), [[(1.0, 1)]] * 9, optimizer, numbers=range(1, 5), multiplier=lambda p: seen.append(p) or 1.0
        )
    )
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_an_update_without_batches_moves_nothing() -> None:
    model, optimizer = model_and_optimizer()
    step = next(train(squared(model), [[]], optimizer, numbers=range(1, 2), multiplier=constant))
    assert (step.loss, step.items, step.grad_norm) == (0.0, 0.0, 0.0)
    assert model.weight.item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_raises_and_keeps_the_weights_of_the_step_before(bad: float) -> None:
    model, optimizer = model_and_optimizer(lr=0.1)
    steps = train(
        squared(model), [[(3.0, 1)], [(bad, 1)]], optimizer, numbers=range(1, 3), multiplier=constant, clip=100
    )
    next(steps)
    before = model.weight.item()
    with pytest.raises(Diverged, match=r"^update 2: loss (nan|inf), gradient norm (nan|inf); lower the learning rate$"):
        next(steps)
    assert model.weight.item() == before
    assert model.weight.grad is None


def scripted(model: nn.Linear, values: list[float], error: BaseException | None = None) -> Iterator[Step]:
    """Steps that set the weight to their own number."""
    for number, _ in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.fill_(number)
        yield Step(number, 0.0, 0.0, 0.0, 1.0, 0.0)
    if error is not None:
        raise error


def run(
    values: list[float],
    *,
    every: int = 1,
    last: int = 0,
    patience: int = 2,
    error: BaseException | None = None,
    first: float | None = None,
    deadline: float = math.inf,
) -> tuple[float, End, list[tuple[int, float | None]]]:
    """(the weight that stays, how it ended, what was logged), update i scoring values[i - 1]."""
    model, told = nn.Linear(1, 1, bias=False), []
    nn.init.zeros_(model.weight)
    state = TrainState(weights=[model.weight], deadline=deadline)
    if first is not None:
        state.best = Best(first, 0, state.copied())
    end = keep_best(
        state,
        scripted(model, values, error),
        lambda: values[int(model.weight.item()) - 1],
        every=every,
        last=last or len(values),
        patience=patience,
        log=lambda step: told.append((step.number, step.score)),
    )
    return model.weight.item(), end, told


def test_the_best_weights_stay_and_training_stops_without_a_gain() -> None:
    weight, best, told = run([0.1, 0.5, 0.5, 0.4, 0.9])
    assert weight == 2.0
    assert best == End("early", 2, 0.5, "stopped early at update 4: no gain in 2 scores")
    assert told == [(1, 0.1), (2, 0.5), (3, 0.5), (4, 0.4)]


def test_training_ends_after_the_update_in_which_its_time_is_up() -> None:
    """That update is scored, so that it may be the best."""
    weight, end, told = run([0.5, 0.6, 0.7], every=3, deadline=0.0)
    assert told == [(1, 0.5)]
    assert weight == 1.0
    assert end == End("early", 1, 0.5, "ended at update 1 of 3, when its time was up")
    assert run([0.5], deadline=0.0)[1] == End("finished", 1, 0.5, "finished")  # it was the last anyway


def test_where_the_time_is_up_the_best_weights_stay() -> None:
    weight, end, _ = run([0.5, 0.6], first=0.9, deadline=0.0)
    assert weight == 0.0
    assert end == End("early", 0, 0.9, "ended at update 1 of 2, when its time was up")


def test_the_weights_before_the_first_update_may_be_the_best() -> None:
    assert run([0.4, 0.1, 0.2], first=0.5)[:2] == (0.0, End("finished", 0, 0.5, "finished"))
    assert run([0.1, 0.6], first=0.5)[:2] == (2.0, End("finished", 2, 0.6, "finished"))
    assert run([0.1, 0.2, 0.3, 0.6], first=0.5)[:2] == (
        4.0,
        End("finished", 4, 0.6, "finished"),
    )  # it gains, though below the start


def test_divergence_below_the_start_keeps_the_start() -> None:
    weight, best, _ = run([0.1], first=0.5, last=9, error=Diverged("update 2: loss nan"))
    assert weight == 0.0
    assert best.told == "diverged at update 2: loss nan; the weights before the first update are kept"


def test_training_that_ends_without_a_gain_has_not_stopped_early() -> None:
    assert run([0.5, 0.4, 0.3])[1] == End("finished", 1, 0.5, "finished")
    assert run([0.5, 0.4, 0.3, 0.2])[1].told == "stopped early at update 3: no gain in 2 scores"


def test_a_gain_begins_the_count_anew() -> None:
    weight, best, _ = run([0.5, 0.4, 0.6, 0.5, 0.7, 0.1])
    assert weight == 5.0
    assert best == End("finished", 5, 0.7, "finished")


def test_between_scores_nothing_is_kept() -> None:
    weight, best, told = run([0.9, 0.1, 0.8, 0.2], every=2)
    assert weight == 4.0
    assert best.update == 4
    assert told == [(1, None), (2, 0.1), (3, None), (4, 0.2)]


def test_ctrl_c_and_divergence_keep_the_best_weights() -> None:
    for error, how, told in (
        (KeyboardInterrupt(), "interrupted", "stopped by Ctrl-C; the weights of update 1 are kept"),
        (
            Diverged("update 3: loss nan"),
            "diverged",
            "diverged at update 3: loss nan; the weights of update 1 are kept",
        ),
    ):
        weight, best, _ = run([0.5, 0.4], patience=9, last=9, error=error)
        assert weight == 1.0
        assert (best.update, best.told, best.how) == (1, told, how)


def test_divergence_before_the_first_score_keeps_the_last_good_weights() -> None:
    weight, best, told = run([0.3, 0.5], every=9, last=9, error=Diverged("update 3: loss nan"))
    assert weight == 2.0
    assert (best.score, best.update) == (0.5, 2)
    assert best.told == "diverged at update 3: loss nan; the weights of update 2 are kept"
    assert told == [(1, None), (2, None)]


def test_with_nothing_to_keep_they_are_raised() -> None:
    with pytest.raises(Diverged, match="too early"):
        run([], last=9, error=Diverged("too early"))
    with pytest.raises(KeyboardInterrupt):
        run([0.5], every=2, last=9, error=KeyboardInterrupt())


def test_weights_that_do_not_train_are_left_alone() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)

    def steps() -> Iterator[Step]:
        for number in (1, 2):
            with torch.no_grad():
                model.weight.fill_(number)
                model.bias.fill_(number)
            yield Step(number, 0.0, 0.0, 0.0, 1.0, 0.0)

    state = TrainState(weights=[model.weight])
    keep_best(state, steps(), lambda: -model.weight.item(), every=1, last=9, patience=5, log=lambda step: None)
    assert (model.weight.item(), model.bias.item()) == (1.0, 2.0)


def test_running_out_of_memory_costs_nothing_of_the_update() -> None:
    """The same weights as with memory enough, although the second half of a micro-batch never fitted."""
    x = torch.arange(12.0).view(6, 2)
    ends = []
    for room in (6, 2):
        torch.manual_seed(0)
        model, asked = nn.Linear(2, 1), []

        def loss_and_count(rows: list[int], room: int = room, model: nn.Module = model) -> tuple[Tensor, float]:
            if len(rows) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return model(x[rows]).square().sum(), len(rows)

        def smaller(update: list[list[int]], asked: list = asked) -> list[list[int]]:
            asked.append(update)
            return [rows[:2] for rows in update] + [rows[2:] for rows in update if rows[2:]]

        updates = [[[0, 1], [2, 3, 4, 5]], [[0, 1, 2, 3]]]
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        steps = list(
            train(
                loss_and_count,
                updates,
                optimizer,
                numbers=range(1, 3),
                multiplier=lambda progress: 1.0,
                smaller=smaller,
            )
        )
        assert [step.items for step in steps] == [6, 4]
        ends.append(model.weight.detach().clone())
        assert len(asked) == (0 if room == 6 else 2)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-6)


def test_an_optimiser_without_memory_says_what_to_do() -> None:
    class Full(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = nn.Linear(1, 1)
    steps = train(
        lambda rows: (model(torch.ones(rows, 1)).sum(), rows),
        [[1]],
        Full(model.parameters(), lr=1.0),
        numbers=range(1, 2),
        multiplier=lambda p: 1.0,
    )
    with pytest.raises(ConfigError, match=r"memory in the optimiser's step; set train.optimizer = paged_adamw32bit"):
        next(steps)


def test_without_a_smaller_way_the_lack_of_memory_is_raised() -> None:
    def loss_and_count(rows: int) -> tuple[Tensor, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = nn.Linear(1, 1)
    steps = train(
        loss_and_count,
        [[1]],
        torch.optim.SGD(model.parameters(), lr=1.0),
        numbers=range(1, 2),
        multiplier=lambda p: 1.0,
    )
    with pytest.raises(torch.OutOfMemoryError):
        next(steps)


def test_the_device_is_waited_for_once_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """`item` of every micro-batch's loss would wait for a GPU each time."""
    waits: list[str] = []
    for name in ("item", "tolist"):
        inner = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, n=name, f=inner: (waits.append(n), f(self))[1])
    model, optimizer = model_and_optimizer()
    update = [(3.0, 1), (1.0, 3), (2.0, 2)]
    list(train(squared(model), [update], optimizer, numbers=range(1, 2), multiplier=constant))
    assert waits == ["tolist", "tolist", "item"]  # the losses, their sum over processes, the gradient's norm
