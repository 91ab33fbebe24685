"""The training loop: one generator, no callbacks.

`train` runs updates (forward, backward, clip, step) and nothing else. Its caller decides what to print and when to
stop; all trained methods use `keep_best` for that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError, Diverged
from lasttoken.train.distributed import ALONE, World
from lasttoken.train.outcome import End, How, Step
from lasttoken.train.state import Best, TrainState

Batch = TypeVar("Batch")


def train(
    loss_and_count: Callable[[Batch], tuple[Tensor, float]],
    updates: Iterable[Sequence[Batch]],
    optimizer: torch.optim.Optimizer,
    *,
    numbers: range,
    multiplier: Callable[[float], float],
    clip: float = 1.0,
    world: World = ALONE,
    smaller: Callable[[Sequence[Batch]], Sequence[Batch]] | None = None,
) -> Iterator[Step]:
    """Yield one Step per update until those of `numbers` are done or `updates` ends.

    numbers: of the updates, from 1; a resumed training starts later.

    An update is a list of micro-batches. `loss_and_count(batch)` returns the SUM of the losses and the number of items
    in it. Gradients are divided once, by the items of the whole update in all processes: an accumulated or distributed
    update equals one large batch even if micro-batches have unequal sizes (transformers #34191 is that bug).
    `multiplier` maps progress in [0, 1) to a factor on each group's lr. `smaller` splits an update into smaller
    micro-batches when the device runs out of memory; the update is then repeated from its start.

    Raises Diverged if loss or gradient is not finite; the weights are then those before the update. Raises ConfigError
    if the optimiser's step runs out of memory.
    """
    groups = optimizer.param_groups
    base = [group["lr"] for group in groups]
    weights = [p for group in groups for p in group["params"]]
    count = numbers.stop - 1
    for number, update in zip(numbers, updates, strict=False):
        began = time.perf_counter()
        for group, lr in zip(groups, base, strict=True):
            group["lr"] = lr * multiplier((number - 1) / count)

        while (sums := accumulate(loss_and_count, update, raises=smaller is None)) is None:
            optimizer.zero_grad(set_to_none=True)
            assert smaller is not None
            update = smaller(update)
        for p in weights:  # a process without rows still takes part in the sum
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        grads = [p.grad for p in weights if p.grad is not None]
        world.add([*grads, sums])
        loss_sum, items_sum = sums.tolist()

        torch._foreach_div_(grads, max(items_sum, 1e-12))
        norm = nn.utils.clip_grad_norm_(weights, clip).item()
        if not math.isfinite(norm) or not math.isfinite(loss_sum):
            optimizer.zero_grad(set_to_none=True)
            raise Diverged(
                f"update {number}: loss {loss_sum / max(items_sum, 1e-12):g}, gradient norm {norm:g}; lower the learning rate"
            )
        try:
            optimizer.step()
        except torch.OutOfMemoryError as error:  # some weights may have changed already: no retry
            raise ConfigError(
                [
                    "the device ran out of memory in the optimiser's step; set train.optimizer = paged_adamw32bit, use a "
                    "smaller model, or end other processes on it"
                ]
            ) from error
        optimizer.zero_grad(set_to_none=True)
        yield Step(
            number, loss_sum / max(items_sum, 1e-12), groups[0]["lr"], norm, items_sum, time.perf_counter() - began
        )


def accumulate(
    loss_and_count: Callable[[Batch], tuple[Tensor, float]], update: Sequence[Batch], *, raises: bool
) -> Tensor | None:
    """(sum of losses, items) float64 of an update's micro-batches, gradients accumulated; None if memory ran out."""
    losses, count = [], 0.0
    try:
        for batch in update:
            loss, items = loss_and_count(batch)
            loss.backward()
            losses.append(loss.detach())
            count += items
        total = sum(torch.stack(losses).tolist()) if losses else 0.0  # the GPU is waited for once an update
    except torch.OutOfMemoryError:
        if raises:
            raise
        return None
    return torch.tensor([total, count], dtype=torch.float64)


def keep_best(
    state: TrainState,
    steps: Iterator[Step],
    score: Callable[[], float],
    *,
    every: int,
    last: int,
    patience: int,
    log: Callable[[Step], None],
    ended: Callable[[], bool] = lambda: False,
) -> End:
    """Run `steps` with early stopping, and restore the weights with the best validation score.

    score: evaluated every `every` updates and after update `last`; higher is better. patience: scores without a gain
    before training stops. Only trainable weights are copied, to main memory. log: called once per update, when `state`
    is complete and can be saved as a checkpoint. ended: asked after that; True ends training as Ctrl-C does.
    Training ends after the update in which state.deadline passes; that update is scored.
    After the first score, divergence or Ctrl-C ends training with the best weights. Before it, divergence keeps the
    weights of the last good update and scores them; Ctrl-C, and divergence in the first update, are raised.
    """
    how: How = "finished"
    why = "finished"
    try:
        while state.update < last and state.stale < patience:
            step = next(steps, None)
            if step is None:
                break
            late = time.monotonic() >= state.deadline
            due = late or step.number % every == 0 or step.number == last
            step = replace(step, score=score() if due else None)
            state.advance(step)
            log(step)
            if ended():
                raise KeyboardInterrupt
            if late and state.update < last:
                how, why = "early", f"ended at update {state.update} of {last}, when its time was up"
                break
        if how == "finished" and state.stale >= patience and state.update < last:
            how, why = "early", f"stopped early at update {state.update}: no gain in {patience} scores"
    except (Diverged, KeyboardInterrupt) as error:
        if state.best is None and (not state.update or isinstance(error, KeyboardInterrupt)):
            raise
        if state.best is None:
            try:
                state.best = Best(score(), state.update, state.copied())
            except Diverged:  # these weights give no finite score either
                raise error from None
        ctrl_c = isinstance(error, KeyboardInterrupt)
        how, why = ("interrupted", "stopped by Ctrl-C") if ctrl_c else ("diverged", f"diverged at {error}")
        at = f"of update {state.best.update}" if state.best.update else "before the first update"
        why = f"{why}; the weights {at} are kept"
    if state.best is None:
        return End(how, state.update, None, why)
    state.put(state.best.weights)
    return End(how, state.best.update, state.best.score, why)
