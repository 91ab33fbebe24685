"""A model's blocks compiled by torch: what they do element by element becomes one loop, after some seconds of waiting.

Norms, rotations and gates of a block take as long on a CPU as its matrix products; torch.compile fuses them. Packed
attention stays as it is. Training is compiled by `compiled_training`. Prediction is by `compile_blocks`, on a CPU only what
runs on one thread, as `in_batches` runs it: compiled code holds for one number of threads.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lasttoken.errors import ConfigError, ModelError
from lasttoken.model.attention import NAME, lay_out, packed_attention
from lasttoken.model.backbone import Backbone, close, first_line, to_tensor
from lasttoken.model.depth import blocks_of

SIZES = ((40, 9), (150, 30, 3))  # tokens of made-up texts: two rows of different size, so that sizes are left open


@contextmanager
def compiled_training(model: nn.Module) -> Iterator[None]:
    """Whatever runs with gradients inside runs through compiled blocks; outside, all is as it was.

    Raises ConfigError where torch finds no C++ compiler, ModelError where a block cannot be compiled.
    """
    _, blocks = blocks_of(model)
    plain = swap(blocks, lambda forward: compiled_where(forward, lambda states: torch.is_grad_enabled()))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # torch's own doing
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise why(error) from error
    finally:
        restore(blocks, plain)


def compile_blocks(backbone: Backbone) -> float:
    """Seconds that it took to have every block of the backbone compiled, in place, and shown to give what it gave.

    Raises ConfigError where torch finds no C++ compiler, ModelError where a block cannot be compiled or changes its results.
    """
    before = on_one_thread(backbone)
    _, blocks = blocks_of(backbone.module)
    began = time.perf_counter()
    plain = swap(blocks, lambda forward: compiled_where(forward, predicts))
    try:
        after = on_one_thread(backbone)
        if not all(close(a, b) for a, b in zip(after, before, strict=True)):
            raise ModelError(f"model {backbone.name!r} gives other results once it is compiled; predict without")
    except BaseException as error:
        restore(blocks, plain)
        if isinstance(error, Exception) and not isinstance(error, ModelError):
            raise why(error) from error
        raise
    return time.perf_counter() - began


def predicts(states: Tensor) -> bool:
    """Whether what runs now is a prediction that `compile_blocks` is for."""
    return not torch.is_grad_enabled() and (states.device.type != "cpu" or torch.get_num_threads() == 1)


def compiled_where(forward: Callable[..., Any], serves: Callable[[Tensor], bool]) -> Callable[..., Any]:
    """`forward`, compiled for the calls that `serves` says so of, by the hidden states that enter."""
    compiled = torch.compile(forward, dynamic=True)

    def run(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (compiled if serves(states) else forward)(*args, **kwargs)

    return run


def swap(blocks: Sequence[Any] | nn.ModuleList, change: Callable[..., Any]) -> list[Any]:
    """Put `change(forward)` in the place of every block's forward; what stood there."""
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    plain = [block.forward for block in blocks]
    for block in blocks:
        block.forward = change(block.forward)
    return plain


def restore(blocks: Sequence[Any] | nn.ModuleList, plain: Sequence[Any]) -> None:
    """Undo `swap`."""
    for block, forward in zip(blocks, plain, strict=True):
        block.forward = forward


def on_one_thread(backbone: Backbone) -> list[Tensor]:
    """Hidden states of made-up rows, run as `in_batches` runs rows side by side."""
    rng, threads = np.random.default_rng(0), torch.get_num_threads()
    rows = [[rng.integers(0, int(backbone.config.vocab_size), n) for n in sizes] for sizes in SIZES]

    def run() -> list[Tensor]:
        torch.set_num_threads(1)
        with torch.inference_mode(), backbone.autocast():
            return [
                backbone.hidden(
                    to_tensor(np.concatenate(texts), backbone),
                    lay_out([len(text) for text in texts], causal=backbone.causal, device=backbone.device),
                )
                for texts in rows
            ]

    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(run).result()
        finally:
            torch.set_num_threads(threads)


def why(error: Exception) -> ConfigError | ModelError:
    """What a failure to compile means for the user."""
    if "InvalidCxxCompiler" in repr(error):
        return ConfigError(["compile: torch finds no C++ compiler; install g++ or clang++, or leave compiling out"])
    return ModelError(f"the model cannot be compiled: {first_line(error)}; leave compiling out")


def backbone_of(classifier: object) -> Backbone:
    """The backbone of a classifier that has one. Raises ConfigError."""
    backbone = getattr(classifier, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(["compile: this run has no language model to compile; predict without"])
    return backbone
