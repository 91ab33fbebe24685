"""Training shared by all methods: plan the updates, score the validation set, keep the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.config.settings import Training, epochs_of, learning_rate, patience_of
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, Diverged
from lasttoken.evaluation.metrics import METRICS
from lasttoken.fitting.estimate import estimated
from lasttoken.fitting.memory import (
    fit_into_memory,
    halving,
    is_recomputing,
    recompute,
    recomputing_until_done,
    too_large,
)
from lasttoken.journal import Journal
from lasttoken.model.adapter import parameter_bytes, total_parameters, trainable_parameters
from lasttoken.model.compiled import compiled_training
from lasttoken.seed import derive
from lasttoken.text.batch import Budget, MicroBatch, updates
from lasttoken.train.distributed import World
from lasttoken.train.loop import keep_best, train
from lasttoken.train.optimizer import make_optimizer
from lasttoken.train.outcome import Cost, End, Step
from lasttoken.train.schedule import schedule
from lasttoken.train.state import Best, TrainState
from lasttoken.wording import figure


@dataclass(frozen=True, eq=False)
class Learner:
    """What to train: modules, loss, training row lengths, and predictions on the validation set."""

    modules: Sequence[nn.Module]  # the model, then its head if there is one
    loss_and_count: Callable[[MicroBatch], tuple[Tensor, float]]  # (sum of the losses, their number) of a micro-batch
    lengths: np.ndarray  # (N,) tokens of each training row
    valid: Dataset  # (M,)
    predict: Callable[[], np.ndarray]  # probabilities (M, C) of `valid`
    width: int  # H of the model
    scored_first: bool = False  # the initial weights compete for the best score too
    begin: Callable[[], None] | None = None  # puts in the weights that training begins with, after that score
    sharded: bool = False  # all processes must run equally many forward passes


@dataclass(frozen=True)
class Trained:
    """The outcome of a training. The modules hold its best weights."""

    steps: tuple[Step, ...]
    cost: Cost
    end: End


@dataclass(frozen=True)
class Length:
    """How long a training is at most, and when it is validated."""

    epochs: float
    updates: int
    every: int  # updates between validations
    patience: int  # validations without a gain before it stops


def length_of(settings: Training, rows: int) -> Length:
    """The length of a training on that many rows."""
    per_epoch = math.ceil(rows / settings.batch)
    epochs = epochs_of(settings.epochs, settings.batch, rows)
    count, every = max(1, math.ceil(epochs * per_epoch)), math.ceil(per_epoch / settings.evaluations)
    return Length(epochs, count, every, patience_of(settings.patience, count / every))


def fit_weights(
    learner: Learner, settings: Training, *, seed: int, world: World, journal: Journal, state: TrainState | None = None
) -> Trained:
    """Train the learner's modules in place; they end with the weights that scored best on the validation set.

    state: of a training to resume; None starts afresh. Updated in place; it can be saved whenever progress of `training` is told.
    Raises Diverged or KeyboardInterrupt if either came before the first validation score.
    """
    state = TrainState() if state is None else state
    metric, modules, lengths = validation_metric(settings.metric, learner.valid), learner.modules, learner.lengths
    length = length_of(settings, len(lengths))
    rate = learning_rate(settings.lr, learner.width)
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(settings.optimizer, weights, lr=rate, weight_decay=settings.weight_decay)
    state.attach(modules, optimizer)
    journal.progress("preparing training", 0, 0)
    budget = budget_of(state, learner, settings, journal)
    journal.note(
        f"training: {len(lengths)} rows, {length.epochs:g} epoch{'' if length.epochs == 1 else 's'} at most, {length.updates} "
        f"updates of {settings.batch} rows by {type(optimizer).__name__}, peak learning rate {rate:g} ({settings.schedule}), "
        f"best validation {METRICS[metric].words} kept"
        + (f"; resumes after update {state.update}" * bool(state.update))
    )
    scoring: list[float] = []  # seconds of each validation
    score = timed(scorer(learner, metric, state), scoring)
    began, before, done = time.perf_counter(), state.seconds, len(state.steps)

    def log(step: Step) -> None:
        state.seconds = before + time.perf_counter() - began
        latest = next((s.score for s in reversed(state.steps) if s.score is not None), None)
        told = "" if latest is None else f", validation {METRICS[metric].words} {figure(latest)}"
        journal.progress(f"training{told}", step.number, length.updates)
        journal.step(step)
        rows, valid = len(lengths), len(learner.valid)
        slowest = max(scoring, default=None)
        if said := estimated(
            state.steps[done:], settings, rows=rows, valid=valid, count=length.updates, scoring=slowest
        ):
            journal.note(said)

    if learner.scored_first and not state.update:
        state.best = Best(score(), 0, state.copied())
        journal.note(f"before the first update: validation {METRICS[metric].words} {figure(state.best.score)}")
        if learner.begin is not None:
            learner.begin()
    journal.progress("training", state.update, length.updates)
    steps = train(
        seeded(learner.loss_and_count, seed, world),
        updates(
            lengths,
            batch=settings.batch,
            budget=budget,
            seed=seed,
            share=world.share,
            done=state.update,
            even=learner.sharded,
        ),
        optimizer,
        numbers=range(state.update + 1, length.updates + 1),
        multiplier=schedule(settings.schedule, warmup=settings.warmup),
        clip=settings.clip,
        world=world,
        smaller=too_large if learner.sharded else halving(budget, lengths, state, journal),
    )
    keeper = state.keeper
    with (
        training(modules),
        recomputing_until_done(modules[0]),
        compiling(settings, modules[0], journal),
        nullcontext() if keeper is None else keeper.watching(),
    ):
        end = keep_best(
            state,
            with_rows(steps, settings.batch, len(lengths)),
            evaluating(score, modules),
            every=length.every,
            last=length.updates,
            patience=length.patience,
            log=log,
            ended=lambda: keeper is not None and keeper.after(state),
        )
    end = replace(end, told=sentence(end, metric))
    journal.note(end.told)
    cost = replace(cost_of(modules), seconds=state.seconds, rows_per_second=steady_rate(state.steps))
    return Trained(tuple(state.steps), cost, end)


def budget_of(state: TrainState, learner: Learner, settings: Training, journal: Journal) -> Budget:
    """Tokens per micro-batch, by memory or from the resumed state; switches activation checkpointing on where needed."""
    model = learner.modules[0]
    if state.budget is not None:
        if state.recompute:
            recompute(model)
        return Budget(state.budget)
    if learner.sharded:  # processes that measure could decide differently, and then wait for each other
        if settings.checkpointing == "on":
            recompute(model)
        budget = Budget(settings.budget)
    else:
        budget = fit_into_memory(
            model,
            learner.loss_and_count,
            learner.lengths,
            budget=settings.budget,
            checkpointing=settings.checkpointing,
            journal=journal,
        )
    state.budget, state.recompute = budget.tokens, is_recomputing(model)
    return budget


def scorer(learner: Learner, metric: str, state: TrainState) -> Callable[[], float]:
    """A function that scores the current weights on the validation set; raises Diverged on non-finite predictions."""

    def score() -> float:
        probs = learner.predict()
        if not np.isfinite(probs).all():
            raise Diverged(
                f"update {state.update + 1}: predictions are not finite; lower the learning rate, or set --precision float32"
            )
        return float(METRICS[metric](learner.valid.targets, probs))

    return score


def timed(score: Callable[[], float], seconds: list[float]) -> Callable[[], float]:
    """`score`; the seconds of every call are added to a list."""

    def compute() -> float:
        began = time.perf_counter()
        found = score()
        seconds.append(time.perf_counter() - began)
        return found

    return compute


def seeded(
    loss_and_count: Callable[[MicroBatch], tuple[Tensor, float]], seed: int, world: World
) -> Callable[[MicroBatch], tuple[Tensor, float]]:
    """`loss_and_count` with dropout seeded by update, micro-batch and process."""

    def compute(micro: MicroBatch) -> tuple[Tensor, float]:
        place = f"dropout of update {micro.update}, micro-batch {micro.number}, process {world.rank}"
        torch.manual_seed(derive(seed, place))
        loss, items = loss_and_count(micro)
        return (loss * 0.0, 0.0) if micro.idle else (loss, items)

    return compute


def with_rows(steps: Iterator[Step], batch: int, rows: int) -> Iterator[Step]:
    """`steps` with the number of rows each trained on: `batch`, or the rest of the epoch."""
    per_epoch = math.ceil(rows / batch)
    for step in steps:
        yield replace(step, rows=min(batch, rows - (step.number - 1) % per_epoch * batch))


@contextmanager
def training(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules in training mode; in evaluation mode at the end, also after divergence, so that kept weights predict."""
    switch(modules, on=True)
    try:
        yield
    finally:
        switch(modules, on=False)


def evaluating(score: Callable[[], float], modules: Sequence[nn.Module]) -> Callable[[], float]:
    """`score` of modules that are in evaluation mode meanwhile, and in training mode before and after."""

    def compute() -> float:
        switch(modules, on=False)
        try:
            return score()
        finally:
            switch(modules, on=True)

    return compute


def switch(modules: Sequence[nn.Module], *, on: bool) -> None:
    """Set training mode on or off."""
    for module in modules:
        module.train(on)


def compiling(settings: Training, model: nn.Module, journal: Journal) -> AbstractContextManager[None]:
    """A context that compiles the model if settings.compile is set and activations are not recomputed."""
    if settings.compile and is_recomputing(model):
        journal.note("train.compile has no effect: activations are recomputed, which torch does not compile")
        return nullcontext()
    return compiled_training(model, next(model.parameters()).device) if settings.compile else nullcontext()


def sentence(end: End, metric: str) -> str:
    """How training ended, for its user."""
    if end.score is None:
        return f"training {end.told}"
    at = (
        f"after update {end.update}"
        if end.update
        else "before the first update: the frozen model with a fitted head is kept"
    )
    return f"training {end.told}; best validation {METRICS[metric].words} {figure(end.score)} {at}"


def cost_of(modules: Sequence[nn.Module]) -> Cost:
    """Parameter counts and bytes of the modules, with no time spent."""
    trainable, total, size = (sum(map(of, modules)) for of in (trainable_parameters, total_parameters, parameter_bytes))
    return Cost(trainable, total, size)


def steady_rate(steps: Sequence[Step]) -> float | None:
    """Training rows per second, without validation; the first tenth of the updates is left out as warm-up.

    None where there are too few updates.
    """
    counted = steps[max(1, len(steps) // 10) :]
    seconds = sum(step.seconds for step in counted)
    return sum(step.rows for step in counted) / seconds if seconds > 0 else None


def validation_metric(name: str, valid: Dataset) -> str:
    """`name`, if early stopping can maximise it on this kind of problem. Raises ConfigError otherwise."""
    good = [
        "micro_f1",
        "macro_f1",
        "weighted_f1",
        *(["samples_f1", "subset_accuracy"] if valid.labels.multi else ["accuracy", "mcc"]),
    ]
    if name not in good:
        raise ConfigError([f"train.metric: {name!r} cannot decide early stopping; known are {', '.join(good)}"])
    return name
