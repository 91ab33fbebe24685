"""A backbone that predicts faster after some seconds of compiling: what a block does element by element becomes one loop.

Norms, rotations and gates of a block take as long on a CPU as its matrix products; torch.compile fuses them. Packed
attention stays as it is. Only prediction is compiled, and on a CPU only what runs on one thread, as `in_batches` runs it:
a compiled block holds for one number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from lasttoken.errors import ConfigError, ModelError
from lasttoken.model.attention import NAME, lay_out, packed_attention
from lasttoken.model.backbone import Backbone, close, first_line, to_tensor
from lasttoken.model.depth import blocks_of

SIZES = ((40, 9), (150, 30, 3))  # tokens of made-up texts: two rows of different size, so that sizes are left open


def compile_blocks(backbone: Backbone) -> float:
    """Seconds that it took to have every block of the backbone compiled, in place, and shown to give what it gave.

    Raises ConfigError where torch finds no C++ compiler, ModelError where a block cannot be compiled or changes its results.
    """
    before = on_one_thread(backbone)
    _, blocks = blocks_of(backbone.module)
    plain: list[Any] = [block.forward for block in blocks]
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    began = time.perf_counter()
    for block in blocks:
        block.forward = predicting(block.forward)
    try:
        after = on_one_thread(backbone)
        if not all(close(a, b) for a, b in zip(after, before, strict=True)):
            raise ModelError(f"model {backbone.name!r} gives other results once it is compiled; predict without")
    except BaseException as error:
        for block, forward in zip(blocks, plain, strict=True):
            block.forward = forward
        if isinstance(error, Exception) and not isinstance(error, ModelError):
            raise why(error, backbone) from error
        raise
    return time.perf_counter() - began


def predicting(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, compiled for whoever predicts with it on one thread of a CPU, or on a GPU."""
    compiled = torch.compile(forward, dynamic=True)

    def run(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        serves = not torch.is_grad_enabled() and (states.device.type != "cpu" or torch.get_num_threads() == 1)
        return (compiled if serves else forward)(*args, **kwargs)

    return run


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


def why(error: Exception, backbone: Backbone) -> ConfigError | ModelError:
    """What a failure to compile means for the user."""
    if "InvalidCxxCompiler" in repr(error):
        return ConfigError(["compile: torch finds no C++ compiler; install g++ or clang++, or predict without"])
    return ModelError(
        f"model {backbone.name!r} ({backbone.config.model_type}) cannot be compiled: {first_line(error)}; predict without"
    )


def backbone_of(classifier: object) -> Backbone:
    """The backbone of a classifier that has one. Raises ConfigError."""
    backbone = getattr(classifier, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(["compile: this run has no language model to compile; predict without"])
    return backbone


