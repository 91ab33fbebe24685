"""The training loop: one generator, no callbacks.

`train` owns the order of an update (forward, backward, clip, step) and nothing else.
Whoever iterates it decides, in plain code, what to print and when to stop;
`keep_best` is the one such caller that all trained methods share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError, Diverged
from lasttoken.train.world import ALONE, World

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser update did."""

    number: int  # 1, 2, ...
    loss: float  # mean over the update's items
    lr: float  # of the first parameter group
    grad_norm: float  # L2, before clipping
    items: float  # what the loss is a mean over: rows, weighted rows, or target tokens
    seconds: float  # wall time, waiting for data included


@dataclass(frozen=True, slots=True)
class Best:
    """How training ended, and which weights were kept."""

    score: float  # of the kept weights; -inf where nothing was scored
    update: int  # after which they were taken
    end: str  # "finished", or why it ended early
    failure: Diverged | KeyboardInterrupt | None = None  # what cut it short


def train(
    loss_and_count: Callable[[Batch], tuple[Tensor, float]],
    updates: Iterable[Sequence[Batch]],
    optimizer: torch.optim.Optimizer,
    *,
    count: int,
    multiplier: Callable[[float], float],
    clip: float = 1.0,
    world: World = ALONE,
    smaller: Callable[[Sequence[Batch]], Sequence[Batch]] | None = None,
) -> Iterator[Step]:
    """Yield one Step per update until `count` are done or `updates` ends.

    An update is a list of micro-batches. `loss_and_count(batch)` returns the SUM of the losses and how many items
    it sums over. Gradients are divided once, by the items of the whole update in all processes, so that an
    accumulated or distributed update equals that of one large batch also where batches hold unequal numbers of
    items (transformers #34191 is the story of getting this wrong). `multiplier` maps progress in [0, 1) to a
    factor on each group's lr. `smaller` is asked to cut an update into smaller micro-batches when the device runs out
    of memory; the update is then done again from its beginning, and nothing of it is lost.

    Raises Diverged when loss or gradient is not finite; the weights are then those of the step before. Raises ConfigError
    where the optimiser's step finds no memory.
    """
    groups = optimizer.param_groups
    base = [group["lr"] for group in groups]
    weights = [p for group in groups for p in group["params"]]
    for number, update in zip(range(1, count + 1), updates, strict=False):
        began = time.perf_counter()
        for group, lr in zip(groups, base, strict=True):
            group["lr"] = lr * multiplier((number - 1) / count)

        while (sums := accumulate(loss_and_count, update, raises=smaller is None)) is None:
            optimizer.zero_grad(set_to_none=True)
            assert smaller is not None
            update = smaller(update)
        for p in weights:  # a process whose share is empty still takes part in the sum
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
        except torch.OutOfMemoryError as error:  # half of the weights may have moved: there is no doing it again
            raise ConfigError(
                [
                    "the device ran out of memory in the optimiser's step; set train.optimizer = paged_adamw32bit, use a "
                    "smaller model, or end what else runs there"
                ]
            ) from error
        optimizer.zero_grad(set_to_none=True)
        yield Step(
            number, loss_sum / max(items_sum, 1e-12), groups[0]["lr"], norm, items_sum, time.perf_counter() - began
        )


def accumulate(
    loss_and_count: Callable[[Batch], tuple[Tensor, float]], update: Sequence[Batch], *, raises: bool
) -> Tensor | None:
    """(sum of losses, items) float64 of an update's micro-batches, their gradients added up; None where memory ran out."""
    sums = torch.zeros(2, dtype=torch.float64)
    try:
        for batch in update:
            loss, items = loss_and_count(batch)
            loss.backward()
            sums += torch.tensor([loss.item(), items], dtype=torch.float64)
    except torch.OutOfMemoryError:
        if raises:
            raise
        return None
    return sums


def keep_best(
    modules: Sequence[nn.Module],
    steps: Iterable[Step],
    score: Callable[[], float],
    *,
    every: int,
    last: int,
    patience: int,
    log: Callable[[Step, float | None], None],
    first: float | None = None,
) -> Best:
    """Run `steps`, score every `every` updates and after update `last`, and leave `modules` with their best-scored trainable weights.

    Stops after `patience` scores without a gain. Higher is better. Only weights that train are copied (to main
    memory): for LoRA that is a few megabytes, whatever the backbone weighs. first: the score of the weights
    before the first update, which are kept where no update betters it. Divergence or Ctrl-C after the first
    score ends training with the best weights restored and is told in `Best.failure`. Before it, divergence keeps the
    weights of the last good update, which are scored then; Ctrl-C, and divergence in the first update, are raised.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    best, at, kept, stale, done = float("-inf"), 0, [], 0, 0
    highest = float("-inf")  # of updates; the start may stand above it and training still gain
    end, failure = "finished", None
    if first is not None:
        best, kept = first, [p.detach().cpu().clone() for p in trained]
    try:
        for step in steps:
            current = score() if step.number % every == 0 or step.number == last else None
            log(step, current)
            done = step.number
            if current is None:
                continue
            stale = 0 if current > highest else stale + 1
            highest = max(highest, current)
            if current > best:
                best, at = current, step.number
                kept = [p.detach().cpu().clone() for p in trained]
            if stale >= patience and step.number != last:
                end = f"stopped early at update {step.number}: no gain in {patience} scores"
                break
    except (Diverged, KeyboardInterrupt) as error:
        if not kept and (not done or isinstance(error, KeyboardInterrupt)):
            raise
        if not kept:
            try:
                best, at, kept = score(), done, [p.detach().cpu().clone() for p in trained]
            except Diverged:  # nor do these weights predict
                raise error from None
        why = "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else f"diverged at {error}"
        end, failure = f"{why}; the weights {f'of update {at}' if at else 'before the first update'} are kept", error
    with torch.no_grad():
        for parameter, value in zip(trained, kept, strict=False):
            parameter.copy_(value)
    return Best(best, at, end, failure)
