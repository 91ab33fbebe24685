"""Warm start of the head: its linear layer is first fitted on the frozen backbone's hidden states, by the training loss.

Fine-tuning from a fitted head distorts the pretrained features less than from a random one (Kumar 2022,
arXiv:2202.10054). It costs one forward pass over the texts. Two heads are fitted: the one of least validation loss is
kept in case training does not improve on it. Training starts from one that is held back by a larger L2 penalty: the better
one has next to no training loss left, and LoRA would learn noise (docs/lab.md).

With few training rows, the better head may be initialised from the vocabulary head: each label starts as the mean row of
the tokens in its name, and the fit learns the difference from it. The one to start from is not: LoRA ends lower then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

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
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
LEFT = 0.8  # of the ratio of training to validation loss at the largest penalty: what a head to start from keeps
SHARES = (0.0, 1.0, 2.0)  # factors on the label names' rows; validation loss chooses
FEW = 32  # training rows per label, from which on the label names' rows gain nothing (docs/lab.md)
CONSTANT = 10.0  # length of the mean vector among features of deviation 1, where it takes the place of a bias


@dataclass(frozen=True, eq=False)
class HeadOnly:
    """A linear layer fitted on a frozen backbone."""

    weight: Tensor  # (C, H) float32
    bias: Tensor | None  # (C,); None for a layer without one
    loss: float  # mean over the validation rows
    penalty: float  # the L2 penalty, one of PENALTIES
    share: float = 0.0  # factor on the label names' rows, one of SHARES


def start_head(
    head: Head,
    backbone: Backbone,
    parts: tuple[tuple[Source, Dataset], tuple[Source, Dataset]],
    loss: Loss,
    *,
    names: Tensor | None = None,
    budget: int,
    world: World,
    journal: Journal,
) -> tuple[float, Callable[[], None]]:
    """Fit the linear layer of `head` on the frozen backbone by `loss`, in place: (seconds, what holds it back for training).

    parts: what is read and its targets, of the training and the validation rows. names: (C, H), the label names' rows of
    the vocabulary head. The second result puts in the head that LoRA starts from, once the better one has been scored.
    Where the device runs out of memory the head stays as it was drawn, which is said; one of several processes then
    raises ConfigError.
    """
    began, data = time.perf_counter(), (parts[0][1], parts[1][1])
    try:
        train_vectors, valid_vectors = (
            vectors(backbone, head, source, budget=budget, world=world, journal=journal) for source, _ in parts
        )
        best, start = fit_heads(
            train_vectors,
            valid_vectors,
            data,
            loss,
            bias=head.linear.bias is not None,
            names=names,
            progress=journal.task("fitting the head"),
        )
    except torch.OutOfMemoryError as error:
        told = f"the device ran out of memory fitting the head alone on {len(data[0])} vectors"
        if world.size > 1:  # the other processes wait for its head
            raise ConfigError([f"{told}; set head_init = random, or use fewer training rows"]) from error
        journal.note(f"head: begins at random, since {told}")
        return time.perf_counter() - began, lambda: None
    del train_vectors, valid_vectors
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()  # the micro-batch size is chosen from the free memory
    put_in(head, best, world)
    seconds = time.perf_counter() - began
    names_used = f", from {best.share:g} times the label names' rows of the vocabulary head" if best.share else ""
    journal.note(
        f"head: fitted alone on the frozen model, validation loss {best.loss:.4g} (L2 penalty {best.penalty:g}{names_used}, "
        f"{seconds:.0f} s)"
    )

    def begin() -> None:
        """Put in the head that LoRA starts from, and say so where it is not the one that was scored."""
        put_in(head, start, world)
        if (start.penalty, start.loss) != (best.penalty, best.loss):
            journal.note(
                f"head: training begins from a more regularised one (L2 penalty {start.penalty:g}, validation loss "
                f"{start.loss:.4g}), which leaves LoRA something to learn"
            )

    return seconds, begin


@torch.no_grad()
def put_in(head: Head, found: HeadOnly, world: World) -> None:
    """Give the head's linear layer the fitted weights; every process those of the first."""
    for ours, fitted in ((head.linear.weight, found.weight), (head.linear.bias, found.bias)):
        if fitted is not None:
            ours.copy_(fitted)
            if world.rank:
                ours.zero_()
            world.add([ours])


def vectors(backbone: Backbone, head: Head, source: Source, *, budget: int, world: World, journal: Journal) -> Tensor:
    """Inputs of the head's linear layer for each text, from the frozen backbone: (N, H) float32, in every process."""
    progress = journal.task("features of the frozen model")
    features = torch.zeros(len(source), backbone.width, device=backbone.device)  # (N, H)

    def compute(rows: np.ndarray) -> Tensor:
        batch = pack(source, rows, backbone)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return head.vectors(hidden, batch.layout.ends, batch.last)

    for rows, part in in_batches(
        source.lengths, compute, backbone, budget=budget, world=world, note=journal.note, progress=progress
    ):
        features[torch.from_numpy(rows).to(features.device)] = part
    world.add([features])
    return features


def fit_heads(
    train_vectors: Tensor,
    valid_vectors: Tensor,
    data: tuple[Dataset, Dataset],
    loss: Loss,
    *,
    bias: bool = True,
    names: Tensor | None = None,
    progress: Progress = unheard,
) -> tuple[HeadOnly, HeadOnly]:
    """Two linear layers fitted by `loss` and an L2 penalty: (that of least validation loss, that which LoRA starts from).

    train_vectors (N, H), valid_vectors (M, H): overwritten. Penalties are tried from the largest down until the
    validation loss stops falling. LoRA starts from the least validation loss at which training over validation loss is
    at least LEFT times what it is at the largest penalty. bias: whether the layers have one. names: (C, H) weights
    that the first may start from, with the penalty on the difference from them.
    Full-batch L-BFGS on standardised vectors; the layers apply to vectors that are not standardised.
    Raises Diverged if a vector is not finite.
    """
    if not (torch.isfinite(train_vectors).all() and torch.isfinite(valid_vectors).all()):
        raise Diverged(
            "the frozen model's vectors are not finite; use --precision float32, --quantize none, or another model"
        )
    space = Standardised.of(train_vectors, bias=bias)
    classes, shares = len(data[0].labels), (0.0,) if names is None else SHARES
    parts = (train_vectors, valid_vectors)
    names = None if names is None else space.expressible(names)
    name_logits = [0.0 if names is None else (part - space.mean) @ names.T for part in parts]  # (N, C), (M, C)
    for part in parts:
        space.apply_(part)
    targets = [torch.from_numpy(part.targets).to(train_vectors.device) for part in data]
    zeros = train_vectors.new_zeros(classes, train_vectors.shape[1]), train_vectors.new_zeros(classes)
    untrained = zeros[0], zeros[1] if bias else None
    best = start = HeadOnly(*untrained, float("inf"), PENALTIES[0])
    for tried, share in enumerate(shares):
        (weight, shift), before, first = untrained, float("inf"), None
        for number, penalty in enumerate(PENALTIES):
            progress(tried * len(PENALTIES) + number, len(shares) * len(PENALTIES))
            weight, shift = solve(train_vectors, targets[0], loss, penalty, weight, shift, share * name_logits[0])
            learnt, value = (
                total.item() / count
                for total, count in (
                    loss(logits_of(part, weight, shift) + share * known, truth)
                    for part, known, truth in zip(parts, name_logits, targets, strict=True)
                )
            )
            first = learnt / value if first is None and value else first or 0.0
            found = HeadOnly(weight, shift, value, penalty, share)
            if value < best.loss:
                best = found
            if not share and value < start.loss and learnt >= LEFT * first * value:
                start = found
            if not value < before:
                break
            before = value

    def back(found: HeadOnly) -> HeadOnly:
        weight, shift = space.back(found.weight, found.bias, 0.0 if names is None else found.share * names)
        return replace(found, weight=weight, bias=shift)

    return back(best), back(start)


@dataclass(frozen=True, eq=False)
class Standardised:
    """Vectors (N, H) as a linear layer is fitted on them, and its weights for the vectors as they are.

    With a bias: of mean 0 and deviation 1. Without one the mean stays, for it is what every vector has in common and so
    stands in for the bias; it is brought to length CONSTANT, which keeps the fit well conditioned.
    """

    mean: Tensor  # (H,)
    scale: Tensor  # (H,)
    bias: bool

    @classmethod
    def of(cls, vectors: Tensor, *, bias: bool) -> Standardised:
        """By mean and deviation of the training vectors."""
        mean, scale = vectors.mean(dim=0), vectors.std(dim=0, correction=0)
        scale = torch.where(scale > 1e-4 * mean.abs() + 1e-6, scale, 1.0)  # near-constant dimensions are not scaled up
        return cls(mean, scale, bias)

    def shrunk(self, rows: Tensor) -> Tensor:
        """Rows (N, H) with the mean's direction shrunk to CONSTANT."""
        length = (self.mean / self.scale).norm()
        if length <= CONSTANT:
            return rows
        direction = self.mean / self.scale / length
        return rows - (1 - CONSTANT / length) * (rows @ direction)[:, None] * direction

    def apply_(self, vectors: Tensor) -> None:
        """Standardise the vectors in place."""
        if self.bias:
            vectors.sub_(self.mean).div_(self.scale)
        else:
            vectors.copy_(self.shrunk(vectors.div_(self.scale)))

    def expressible(self, weight: Tensor) -> Tensor:
        """A weight (C, H) whose logits, less those of the mean vector, the layer can have: without a bias these must be 0."""
        along = weight @ self.mean / self.mean.square().sum().clamp(min=1e-12)
        return weight if self.bias else weight - along[:, None] * self.mean

    def back(self, weight: Tensor, bias: Tensor | None, more: Tensor | float) -> tuple[Tensor, Tensor | None]:
        """The layer for vectors as they are. more: (C, H), an `expressible` weight to add."""
        weight = (weight if self.bias else self.shrunk(weight)) / self.scale + more
        return weight, None if bias is None else bias - weight @ self.mean


def logits_of(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits (N, C) of features (N, H)."""
    logits = features @ weight.T
    return logits if bias is None else logits + bias


def solve(
    features: Tensor,
    targets: Tensor,
    loss: Loss,
    penalty: float,
    weight: Tensor,
    bias: Tensor | None,
    offset: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """(weight (C, H), bias (C,)) that minimise mean loss + penalty / 2 * |weight|^2, starting from the given ones.

    bias: None for a layer without one. offset: (N, C), added to the logits of the layer.
    """
    weight = weight.detach().clone().requires_grad_()
    bias = None if bias is None else bias.detach().clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight] if bias is None else [weight, bias],
        max_iter=100,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,  # torch's defaults are stricter without a better validation loss (docs/lab.md)
        tolerance_change=1e-7,
    )

    def closure() -> Tensor:
        solver.zero_grad()
        total, count = loss(logits_of(features, weight, bias) + offset, targets)
        value = total / count + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(closure)  # pyright: ignore[reportArgumentType] - the stub asks for a float, the code for a tensor
    return weight.detach(), None if bias is None else bias.detach()
