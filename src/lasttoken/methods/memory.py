"""A training made to fit the device before it begins: how many tokens a micro-batch may hold, and whether activations are recomputed.

What autograd keeps for one row is counted on that row itself, not guessed from a formula. Of the two ways to need less
memory, smaller micro-batches cost nothing while they hold a thousand tokens or more; recomputing costs a third more time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError
from lasttoken.journal import Journal
from lasttoken.model.blocks import blocks_of, in_full
from lasttoken.model.device import free_memory
from lasttoken.model.lora import POOL
from lasttoken.text.batch import Budget

SHARE = 0.8  # of the free memory that activations may take
FULL = 1024  # tokens a micro-batch that keep a device busy
Loss = Callable[[np.ndarray], tuple[Tensor, float]]


def fit_into_memory(
    model: Any, loss_and_count: Loss, lengths: np.ndarray, *, budget: int, checkpointing: str, journal: Journal
) -> Budget:
    """The budget to train with, at most `budget` tokens; activation checkpointing is switched on in `model` where it is needed.

    model: the PreTrainedModel that learns. checkpointing: on, off or auto.
    """
    if checkpointing == "on":
        recompute(model)
    room = free_memory(next(model.parameters()).device)
    if room is None:
        return Budget(budget)
    longest = int(np.argmax(lengths))
    tokens = int(lengths[longest])
    try:
        per_token = max(1.0, kept_bytes(model, loss_and_count, np.array([longest])) / tokens)
    except torch.OutOfMemoryError as error:
        if checkpointing != "auto":
            raise too_much(tokens) from error
        per_token = math.inf  # a row alone is too much; recomputed it may not be
        torch.cuda.empty_cache()
    fitting = tokens_in(room, per_token)
    if checkpointing == "auto" and is_short(fitting, budget, tokens):
        recompute(model)
        if per_token == math.inf:
            journal.note(
                f"activation checkpointing is on: without it memory has no room for a row of {tokens:,} tokens"
            )
            return fit_into_memory(model, loss_and_count, lengths, budget=budget, checkpointing="off", journal=journal)
        journal.note(
            f"activation checkpointing is on: {per_token / 2**20:.1f} MiB a token leave room for {fitting:,} tokens of "
            f"{room / 2**30:.1f} GiB"
        )
        fitting = tokens_in(room, recomputed(model, per_token))
    if fitting >= budget:
        return Budget(budget)
    journal.note(f"a micro-batch holds {fitting:,} tokens in place of {budget:,}, which is what memory has room for")
    return Budget(max(1, fitting))


def tokens_in(room: float, per_token: float) -> int:
    """Tokens whose activations `room` bytes hold, of which they may take a SHARE."""
    return int(SHARE * room / per_token)


def is_short(fitting: int, budget: int, longest: int) -> bool:
    """Whether so few tokens fit that recomputing costs less: below the budget, a row's own tokens or FULL."""
    return fitting < min(budget, max(longest, FULL))


def recomputed(model: Any, per_token: float) -> float:
    """Bytes a token once activations are recomputed: those of one block, and what enters each."""
    depth = len(blocks_of(model)[1])
    return per_token / depth + depth * model.config.get_text_config().hidden_size * model.dtype.itemsize


def halving(
    budget: Budget, lengths: np.ndarray, journal: Journal
) -> Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]:
    """What cuts an update into smaller micro-batches where memory ran out, for this and all later updates.

    It raises ConfigError where a single row is too much.
    """

    def smaller(update: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        halved = budget.halve(update, lengths)
        if halved is None:
            raise too_much(int(max(lengths[rows].max() for rows in update)))
        journal.note(f"out of memory: a micro-batch now holds {budget.tokens} tokens; the update is done again")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return halved

    return smaller


def too_much(tokens: int) -> ConfigError:
    """The error where memory has no room for one row."""
    remedy = "set train.checkpointing=on, lower max_length, or use --quantize nf4 or a smaller model"
    return ConfigError([f"the device ran out of memory on a single row of {tokens} tokens; {remedy}"])


def recompute(model: Any) -> None:
    """Switch activation checkpointing on. Raises ConfigError where the model does not know it."""
    try:
        model.activation_checkpointing_enable()
    except ValueError as error:
        raise ConfigError([f"train.checkpointing: {error}; use off"]) from error


@contextmanager
def recomputing_until_done(model: Any) -> Iterator[None]:
    """Activation checkpointing, where it is on, ends with what runs inside, and embeddings no longer ask for gradients."""
    try:
        yield
    finally:
        if getattr(model, "is_activation_checkpointing", False):
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()


def kept_bytes(model: nn.Module, loss_and_count: Loss, rows: np.ndarray) -> int:
    """Bytes that autograd keeps from the forward of a micro-batch to its backward, weights not counted.

    Every block runs in full: of a micro-batch of short rows more tokens are read than of a long one, and more is kept.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    own |= {draws.untyped_storage().data_ptr() for draws in POOL.draws.values()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation's own output, handed back as it is, would hold on to the graph for ever

    training = model.training
    model.train()
    with in_full(), torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss, _ = loss_and_count(rows)
    del loss
    model.train(training)
    own |= {draws.untyped_storage().data_ptr() for draws in POOL.draws.values()}  # the pool may have grown
    return sum(size for place, size in kept.items() if place not in own)
