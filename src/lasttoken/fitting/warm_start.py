"""Warm start of the head: its linear layer is first fitted on the frozen backbone's hidden states, by the training loss.

Fine-tuning from a fitted head distorts the pretrained features less than from a random one (Kumar 2022,
arXiv:2202.10054). It costs one forward pass over the texts.

With few rows, the pretrained vocabulary head knows more about the label names than the rows do: the layer may then begin
as the label names' rows of that head, and the difference from them is fitted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, Diverged
from lasttoken.infer.batches import Source, in_batches, pack
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.train.distributed import World
from lasttoken.train.loss import Loss

HISTORY = 10  # steps that L-BFGS remembers
# L2 penalties to try; each fit starts from the weights of the one before
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SHARES = (0.0, 1.0, 2.0)  # of the label names' rows in the layer; validation loss chooses
FEW = 32  # training rows a label; from there on the names' rows gain nothing (docs/lab.md)


@dataclass(frozen=True, eq=False)
class HeadOnly:
    """A linear layer fitted on a frozen backbone."""

    weight: Tensor  # (C, H) float32
    bias: Tensor  # (C,)
    loss: float  # mean over the validation rows
    penalty: float  # the L2 penalty, one of PENALTIES
    share: float = 0.0  # of the label names' rows, one of SHARES


def start_head(
    head: Head,
    backbone: Backbone,
    sources: tuple[Source, Source],
    data: tuple[Dataset, Dataset],
    loss: Loss,
    *,
    names: Tensor | None = None,
    budget: int,
    world: World,
    journal: Journal,
) -> float:
    """Fit the linear layer of `head` on the frozen backbone by `loss`, in place; returns the seconds it took.

    sources, data: (train, validation). names: (C, H), the label names' rows of the vocabulary head.
    Raises ConfigError where the device runs out of memory.
    """
    began = time.perf_counter()
    try:
        seen, asked = (
            vectors(backbone, head, source, budget=budget, world=world, journal=journal) for source in sources
        )
        found = fit_head_only(seen, asked, data, loss, names=names, progress=journal.task("fitting the head"))
    except torch.OutOfMemoryError as error:
        told = f"the device ran out of memory fitting the head alone on {len(data[0])} vectors"
        raise ConfigError([f"{told}; set head_init = random, or use fewer training rows"]) from error
    del seen, asked
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()  # the micro-batch size is chosen from the free memory
    final = head.linear
    with torch.no_grad():
        final.weight.copy_(found.weight)
        final.bias.copy_(found.bias)
        if world.rank:  # every process starts from the weights of the first
            final.weight.zero_()
            final.bias.zero_()
        world.add([final.weight, final.bias])
    seconds = time.perf_counter() - began
    journal.note(
        f"head: fitted alone on the frozen model, validation loss {found.loss:.4g} "
        f"(L2 penalty {found.penalty:g}, {seconds:.0f} s)"
        + (f"; it began as {found.share:g} times the label names' rows of the vocabulary head" * bool(found.share))
    )
    return seconds


def vectors(backbone: Backbone, head: Head, source: Source, *, budget: int, world: World, journal: Journal) -> Tensor:
    """Inputs of the head's linear layer for each text, from the frozen backbone: (N, H) float32, in every process."""
    progress = journal.task("features of the frozen model")
    found = torch.zeros(len(source), backbone.width, device=backbone.device)

    def compute(rows: np.ndarray) -> Tensor:
        batch = pack(source, rows, backbone)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return head.vectors(hidden, batch.layout.ends, batch.last)

    for rows, part in in_batches(
        source.lengths, compute, backbone, budget=budget, world=world, note=journal.note, progress=progress
    ):
        found[torch.from_numpy(rows).to(found.device)] = part
    world.add([found])
    return found


def fit_head_only(
    seen: Tensor,
    asked: Tensor,
    data: tuple[Dataset, Dataset],
    loss: Loss,
    *,
    names: Tensor | None = None,
    progress: Progress = unheard,
) -> HeadOnly:
    """The linear layer with the least `loss` on the training vectors (N, H), under an L2 penalty; overwrites both arrays.

    asked: validation vectors (M, H). Penalties are tried from the largest down until validation loss stops falling.
    names: rows (C, H) that the layer may begin as; the penalty is then on the difference from them.
    Full-batch L-BFGS on standardised vectors; the returned layer applies to vectors that are not standardised.
    Raises Diverged where vectors are not finite.
    """
    if not (torch.isfinite(seen).all() and torch.isfinite(asked).all()):
        raise Diverged(
            "the frozen model's vectors are not finite; use --precision float32, --quantize none, or another model"
        )
    mean, scale = seen.mean(dim=0), seen.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-4 * mean.abs() + 1e-6, scale, 1.0)  # near-constant dimensions are not scaled up
    classes, shares = len(data[0].labels), (0.0,) if names is None else SHARES
    # (N, C), (M, C): logits of the names alone
    named = [0.0 if names is None else (part @ names.T - mean @ names.T) for part in (seen, asked)]
    for vectors_of_part in (seen, asked):
        vectors_of_part.sub_(mean).div_(scale)
    wanted = [torch.from_numpy(part.targets).to(seen.device) for part in data]
    weight, bias = seen.new_zeros(classes, seen.shape[1]), seen.new_zeros(classes)
    best, tried = HeadOnly(weight, bias, float("inf"), PENALTIES[0]), 0
    for share in shares:
        weight, bias, before = torch.zeros_like(weight), torch.zeros_like(bias), float("inf")
        for number, penalty in enumerate(PENALTIES):
            progress(tried + number, len(shares) * len(PENALTIES))
            weight, bias = solve(seen, wanted[0], loss, penalty, weight, bias, share * named[0])
            total, count = loss(asked @ weight.T + bias + share * named[1], wanted[1])
            value = total.item() / count
            if value < best.loss:
                best = HeadOnly(weight, bias, value, penalty, share)
            if not value < before:
                break
            before = value
        tried += len(PENALTIES)
    weight = best.weight / scale + (0.0 if names is None else best.share * names)
    return HeadOnly(weight, best.bias - weight @ mean, best.loss, best.penalty, best.share)


def solve(
    features: Tensor,
    targets: Tensor,
    loss: Loss,
    penalty: float,
    weight: Tensor,
    bias: Tensor,
    offset: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(weight (C, H), bias (C,)) that minimise mean loss + penalty / 2 * |weight|^2, starting from the given ones.

    offset: logits (N, C) that are added to those of the layer.
    """
    weight, bias = (x.detach().clone().requires_grad_() for x in (weight, bias))
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=100,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,  # torch's defaults are stricter without a better validation loss (docs/lab.md)
        tolerance_change=1e-7,
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total, count = loss(features @ weight.T + bias + offset, targets)
        value = total / count + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(closure)  # pyright: ignore[reportArgumentType] - its stub wants a float, its code a tensor
    return weight.detach(), bias.detach()
