"""Fit training into device memory: tokens per micro-batch, and whether activation checkpointing is on.

Activation memory is measured on the longest row, not estimated by a formula. Smaller micro-batches cost no time down to
about a thousand tokens; activation checkpointing costs a third more time, so it comes second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError
from lasttoken.journal import Journal
from lasttoken.model.device import free_memory
from lasttoken.model.layer_taps import blocks_of
from lasttoken.text.batch import Budget, MicroBatch
from lasttoken.train.state import TrainState

SHARE = 0.8  # share of the free memory that activations may take
FULL = 1024  # tokens per micro-batch that keep a device busy
Loss = Callable[[MicroBatch], tuple[Tensor, float]]


def fit_into_memory(
    model: Any, loss_and_count: Loss, lengths: np.ndarray, *, budget: int, checkpointing: str, journal: Journal
) -> Budget:
    """Tokens per micro-batch, at most `budget`; switches activation checkpointing on in `model` where needed.

    model: the PreTrainedModel in training. checkpointing: on, off or auto. Raises ConfigError where one row is too long.
    """
    if checkpointing == "on":
        recompute(model)
    room = free_memory(next(model.parameters()).device)
    if room is None:
        return Budget(budget)
    longest = int(np.argmax(lengths))
    tokens = int(lengths[longest])
    try:
        per_token = max(1.0, kept_bytes(model, loss_and_count, MicroBatch(np.array([longest]), 0, 0)) / tokens)
    except torch.OutOfMemoryError as error:
        if checkpointing != "auto":
            raise too_much(tokens) from error
        per_token = math.inf  # a single row may still fit with checkpointing
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
    """Tokens whose activations fit into SHARE of `room` bytes."""
    return int(SHARE * room / per_token)


def is_short(fitting: int, budget: int, longest: int) -> bool:
    """Whether checkpointing pays: fewer tokens fit than the budget, and fewer than the longest row or FULL."""
    return fitting < min(budget, max(longest, FULL))


def recomputed(model: Any, per_token: float) -> float:
    """Bytes per token with activation checkpointing: one block's activations and the input of every block."""
    depth = len(blocks_of(model)[1])
    return per_token / depth + depth * model.config.get_text_config().hidden_size * model.dtype.itemsize


def halving(
    budget: Budget, lengths: np.ndarray, state: TrainState, journal: Journal
) -> Callable[[Sequence[MicroBatch]], Sequence[MicroBatch]]:
    """A function that halves the micro-batches after an out-of-memory error, for this and all later updates.

    It raises ConfigError where a single row does not fit.
    """

    def smaller(update: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        halved = budget.halve(update, lengths)
        if halved is None:
            raise too_much(int(max(lengths[micro.rows].max() for micro in update)))
        state.budget = budget.tokens
        journal.note(f"out of memory: a micro-batch now holds {budget.tokens} tokens; the update is done again")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return halved

    return smaller


def too_large(update: Sequence[MicroBatch]) -> NoReturn:
    """Raises ConfigError: a model that is split over processes cannot repeat an update in one of them."""
    rows = max(len(micro.rows) for micro in update)
    remedy = "lower train.budget or max_length, or set train.checkpointing=on"
    raise ConfigError([f"the device ran out of memory on a micro-batch of {rows} rows; {remedy}"])


def too_much(tokens: int) -> ConfigError:
    """The error for a single row that does not fit into memory."""
    remedy = "set train.checkpointing=on, lower max_length, or use --quantize nf4 or a smaller model"
    return ConfigError([f"the device ran out of memory on a single row of {tokens} tokens; {remedy}"])


def recompute(model: Any) -> None:
    """Switch activation checkpointing on. Raises ConfigError where the model does not support it."""
    try:
        checkpointing_method(model, "enable")()
    except ValueError as error:
        raise ConfigError([f"train.checkpointing: {error}; use off"]) from error


def is_recomputing(model: Any) -> bool:
    """Whether activation checkpointing is on."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def checkpointing_method(model: Any, ending: str) -> Callable[[], None]:
    """`activation_checkpointing_enable` or `_disable` of a model, under their older name before transformers 5.23."""
    found = getattr(model, f"activation_checkpointing_{ending}", None)
    return getattr(model, f"gradient_checkpointing_{ending}") if found is None else found


@contextmanager
def recomputing_until_done(model: Any) -> Iterator[None]:
    """On exit, switch off activation checkpointing and the gradients of the input embeddings that it needs."""
    try:
        yield
    finally:
        if is_recomputing(model):
            checkpointing_method(model, "disable")()
            model.disable_input_require_grads()


def kept_bytes(model: nn.Module, loss_and_count: Loss, micro: MicroBatch) -> int:
    """Bytes that autograd saves for the backward pass of a micro-batch, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # returning an operation's own output as it is would keep the graph alive

    training, device = model.training, next(model.parameters()).device
    cards = [device] if device.type == "cuda" else []  # by default fork_rng starts every card that is visible
    model.train()
    try:
        with (
            torch.random.fork_rng(devices=cards),
            torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        ):
            loss, _ = loss_and_count(micro)
        del loss
    finally:
        model.train(training)
    return sum(size for place, size in kept.items() if place not in own)
