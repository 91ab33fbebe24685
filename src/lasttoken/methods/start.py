"""A head that begins where a probe ends: fitted alone, on what the frozen model says, by the loss that will train it.

Then the model moves from a head that can already read it, and less of what it knows is unlearnt for the sake of a
head drawn at random (Kumar 2022, arXiv:2202.10054). One pass over the texts pays for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, Diverged
from lasttoken.journal import Journal
from lasttoken.methods.packed import Source, in_batches, pack
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.train.loss import Loss
from lasttoken.train.world import World

HISTORY = 10  # steps that L-BFGS remembers
# factors of half the squared weights; each fit goes on from the one before
PULLS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, eq=False)
class Alone:
    """A linear layer fitted by itself."""

    weight: Tensor  # (C, H) float32
    bias: Tensor  # (C,)
    loss: float  # of validation, a row
    pull: float  # of PULLS


def start_head(
    head: Head,
    backbone: Backbone,
    sources: tuple[Source, Source],
    data: tuple[Dataset, Dataset],
    loss: Loss,
    *,
    budget: int,
    world: World,
    journal: Journal,
) -> float:
    """Set the linear layer of `head` to the best by `loss` on the frozen backbone's vectors; returns the seconds it took.

    sources, data: of train and of validation. Raises ConfigError where the device has no room for it.
    """
    began = time.perf_counter()
    try:
        seen, asked = (
            vectors(backbone, head, source, budget=budget, world=world, journal=journal) for source in sources
        )
        found = fit_alone(seen, asked, data, loss)
    except torch.OutOfMemoryError as error:
        told = f"the device ran out of memory fitting the head alone on {len(data[0])} vectors"
        raise ConfigError([f"{told}; set head_init = random, or use fewer training rows"]) from error
    del seen, asked
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()  # what training may take is judged by what is free
    final = head.linear
    with torch.no_grad():
        final.weight.copy_(found.weight)
        final.bias.copy_(found.bias)
        if world.rank:  # all begin with what the first process found
            final.weight.zero_()
            final.bias.zero_()
        world.add([final.weight, final.bias])
    seconds = time.perf_counter() - began
    journal.note(
        f"head: fitted alone on the frozen model, validation loss {found.loss:.4g} "
        f"(pull {found.pull:g} on its weights, {seconds:.0f} s)"
    )
    return seconds


def vectors(backbone: Backbone, head: Head, source: Source, *, budget: int, world: World, journal: Journal) -> Tensor:
    """What the frozen model hands the head's linear layer for each text, (N, H) float32, in every process."""
    done = 0
    found = torch.zeros(len(source), backbone.width, device=backbone.device)

    def compute(rows: np.ndarray) -> Tensor:
        batch = pack(source, rows, backbone, pooling=head.pool.kind)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return head.vectors(hidden, batch.layout.ends, batch.last)

    for rows, part in in_batches(
        source.lengths, compute, budget=budget, device=backbone.device, world=world, note=journal.note
    ):
        found[torch.from_numpy(rows).to(found.device)] = part
        done += len(rows)
        journal.progress("head, alone", done, -(-len(source) // world.size))
    world.add([found])
    return found


def fit_alone(seen: Tensor, asked: Tensor, data: tuple[Dataset, Dataset], loss: Loss) -> Alone:
    """The linear layer that is best by `loss` on vectors of train (N, H), pulled towards 0; both arrays are overwritten.

    asked: vectors of validation, (M, H). PULLS are tried from the strongest on until validation loss no longer falls.
    The solver is L-BFGS on all rows at once, on standardised vectors; the layer is for vectors in their own units.
    Raises Diverged where vectors are not finite.
    """
    if not (torch.isfinite(seen).all() and torch.isfinite(asked).all()):
        raise Diverged("the frozen model's vectors are not finite; use another model, or --quantize none")
    mean, scale = seen.mean(dim=0), seen.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-4 * mean.abs() + 1e-6, scale, 1.0)  # what hardly moves is not blown up
    for vectors_of_part in (seen, asked):
        vectors_of_part.sub_(mean).div_(scale)
    classes = len(data[0].labels)
    weight, bias = seen.new_zeros(classes, seen.shape[1]), seen.new_zeros(classes)
    wanted = [torch.from_numpy(part.targets).to(seen.device) for part in data]
    best = Alone(weight, bias, float("inf"), PULLS[0])
    for pull in PULLS:
        weight, bias = solve(seen, wanted[0], loss, pull, weight, bias)
        total, count = loss(asked @ weight.T + bias, wanted[1])
        if not total.item() / count < best.loss:
            break
        best = Alone(weight, bias, total.item() / count, pull)
    return Alone(best.weight / scale, best.bias - (best.weight / scale) @ mean, best.loss, best.pull)


def solve(
    features: Tensor, targets: Tensor, loss: Loss, pull: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """(weight (C, H), bias (C,)) that minimise the mean loss + pull / 2 * |weight|^2, from where the given ones stand."""
    weight, bias = (x.detach().clone().requires_grad_() for x in (weight, bias))
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=100,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,  # torch's own are stricter, and found no better validation loss (docs/lab.md)
        tolerance_change=1e-7,
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total, count = loss(features @ weight.T + bias, targets)
        value = total / count + pull / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(closure)  # pyright: ignore[reportArgumentType] - its stub wants a float, its code a tensor
    return weight.detach(), bias.detach()
