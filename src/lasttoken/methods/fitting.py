"""What every trained method does around its loss: plan the updates, score validation, keep the best weights, keep the books."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.config import Training, learning_rate
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, Diverged
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.wording import figure
from lasttoken.journal import Journal
from lasttoken.methods.memory import fit_into_memory, halving, recomputing_until_done
from lasttoken.model.adapter import parameter_bytes, total_parameters, trainable_parameters
from lasttoken.model.compiled import compiled_training
from lasttoken.model.lora import POOL
from lasttoken.seed import derive, generator
from lasttoken.text.batch import epochs
from lasttoken.train.loop import Step, keep_best, train
from lasttoken.train.optimizer import make_optimizer
from lasttoken.train.schedule import schedule
from lasttoken.train.world import World


def fit_weights(
    modules: Sequence[nn.Module],
    loss_and_count: Callable[[np.ndarray], tuple[Tensor, float]],
    lengths: np.ndarray,
    valid: Dataset,
    predict: Callable[[], np.ndarray],
    *,
    settings: Training,
    width: int,
    seed: int,
    world: World,
    journal: Journal,
    from_start: bool = False,
) -> None:
    """Train `modules` in place on rows of `lengths` (N,) tokens and leave them with their best weights on `valid`.

    The first of them is the model, the others what stands on it. from_start: the weights before the first update may
    be the best.
    loss_and_count takes the rows (B,) of a micro-batch. predict gives the probabilities of `valid`, (M, C).
    Raises Diverged, or KeyboardInterrupt, where it came before the first score.
    """
    metric = validation_metric(settings.metric, valid)
    per_epoch = math.ceil(len(lengths) / settings.batch)
    count = max(1, math.ceil(settings.epochs * per_epoch))
    every = max(1, per_epoch // settings.evaluations)
    rate = learning_rate(settings.lr, width)
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(settings.optimizer, weights, lr=rate, weight_decay=settings.weight_decay)
    rows = generator(seed, "order of the training rows")
    POOL.clear()
    budget = fit_into_memory(
        modules[0],
        loss_and_count,
        lengths,
        budget=settings.budget,
        checkpointing=settings.checkpointing,
        journal=journal,
    )
    updates = epochs(lengths, batch=settings.batch, budget=budget, rng=rows, share=world.share)
    several = "" if settings.epochs == 1 else "s"
    journal.note(
        f"training: {len(lengths)} rows, {settings.epochs:g} epoch{several} at most, {count} updates of {settings.batch} rows by "
        f"{type(optimizer).__name__}, peak learning rate {rate:g} ({settings.schedule}), best validation {METRICS[metric].words} kept"
    )
    journal.facts |= {
        "trainable_parameters": sum(map(trainable_parameters, modules)),
        "total_parameters": sum(map(total_parameters, modules)),
        "model_bytes": sum(map(parameter_bytes, modules)),
        "learning_rate": rate,
    }

    def score() -> float:
        probs = predict()
        if not np.isfinite(probs).all():
            raise Diverged(f"update {len(journal.steps) + 1}: predictions are not finite; lower the learning rate")
        return float(METRICS[metric](valid.targets, probs))

    torch.manual_seed(derive(seed, f"dropout of process {world.rank}"))
    began = time.perf_counter()
    multiplier = schedule(settings.schedule, warmup=settings.warmup)
    steps = train(
        loss_and_count,
        updates,
        optimizer,
        count=count,
        multiplier=multiplier,
        clip=settings.clip,
        world=world,
        smaller=halving(budget, lengths, journal),
    )
    first = score() if from_start else None
    if first is not None:
        journal.note(f"before the first update: validation {METRICS[metric].words} {figure(first)}")
    with recomputing_until_done(modules[0]), as_asked(settings, modules[0], journal):
        best = keep_best(
            modules,
            in_mode(modules, steps),
            score,
            every=every,
            last=count,
            patience=settings.patience,
            log=recorder(journal, metric, batch=settings.batch, rows=len(lengths), count=count),
            first=first,
        )
    journal.failure = best.failure
    journal.note(
        f"training {best.end}; best validation {METRICS[metric].words} {figure(best.score)} "
        + (f"after update {best.update}" if best.update else "before the first update")
    )
    journal.facts |= {
        "train_seconds": time.perf_counter() - began,
        "train_rows": sum(step["rows"] for step in journal.steps),
        "train_rows_per_second": steady_rate(journal.steps),
    }


def recorder(
    journal: Journal, metric: str, *, batch: int, rows: int, count: int
) -> Callable[[Step, float | None], None]:
    """What writes each of `count` updates, of `batch` of the `rows` each, and its score if there is one into the journal."""
    per_epoch, told = math.ceil(rows / batch), "training"

    def log(step: Step, current: float | None) -> None:
        nonlocal told
        if current is not None:
            told = f"training, validation {METRICS[metric].words} {figure(current)}"
        journal.steps.append(
            {
                "update": step.number,
                "loss": step.loss,
                "lr": step.lr,
                "grad_norm": step.grad_norm,
                "rows": min(batch, rows - (step.number - 1) % per_epoch * batch),
                "seconds": step.seconds,
                "valid": None if current is None else {metric: current},
            }
        )
        journal.progress(told, step.number, count)

    return log


def in_mode(modules: Sequence[nn.Module], steps: Iterator[Step]) -> Iterator[Step]:
    """`steps`, each taken with the modules in training mode and handed out with them in evaluation mode."""
    while True:
        for module in modules:
            module.train()
        try:
            step = next(steps, None)
        finally:  # also where training diverges: the weights that are kept then predict without dropout
            for module in modules:
                module.eval()
        if step is None:
            return
        yield step


@contextmanager
def as_asked(settings: Training, model: nn.Module, journal: Journal) -> Iterator[None]:
    """Training inside runs compiled where that is asked for and can be; what it took, or why not, is noted."""
    if not settings.compile:
        yield
    elif getattr(model, "is_activation_checkpointing", False):
        journal.note("train.compile has no effect: activations are recomputed, which torch does not compile")
        yield
    else:
        with compiled_training(model):
            yield
        journal.note(f"compiling took about {compiling(journal.steps):.0f} s, which is in the time of training")


def compiling(steps: Sequence[dict[str, Any]]) -> float:
    """Seconds that the first tenth of the updates took beyond what as many later ones take: what compiling cost."""
    seconds = [step["seconds"] for step in steps]
    first = max(1, len(seconds) // 10)
    return max(0.0, sum(seconds[:first]) - first * float(np.median(seconds)))


def steady_rate(steps: Sequence[dict[str, Any]]) -> float | None:
    """Rows really trained on a second, over the updates themselves; the first tenth is left out as warm-up.

    None where there are too few updates to tell.
    """
    counted = steps[max(1, len(steps) // 10) :]
    seconds = sum(step["seconds"] for step in counted)
    return sum(step["rows"] for step in counted) / seconds if seconds > 0 else None


def validation_metric(name: str, valid: Dataset) -> str:
    """`name`, shown to be a metric of this kind of problem where higher is better. Raises ConfigError."""
    good = [
        "micro_f1",
        "macro_f1",
        "weighted_f1",
        *(["samples_f1", "subset_accuracy"] if valid.labels.multi else ["accuracy", "mcc"]),
    ]
    if name not in good:
        raise ConfigError([f"train.metric: {name!r} cannot decide early stopping; known are {', '.join(good)}"])
    return name


def no_training(modules: Sequence[nn.Module], journal: Journal) -> None:
    """The books of a fit that trains nothing."""
    journal.note("nothing was trained (zero-shot)")
    journal.facts |= {
        "trainable_parameters": 0,
        "total_parameters": sum(map(total_parameters, modules)),
        "model_bytes": sum(map(parameter_bytes, modules)),
        "train_seconds": 0.0,
        "train_rows": 0,
        "train_rows_per_second": None,
    }
