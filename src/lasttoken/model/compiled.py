"""A model's blocks compiled by torch: what they do element by element becomes one loop, after some seconds of waiting.

Norms, rotations and gates of a block take as long on a CPU as its matrix products; torch.compile fuses them. Packed
attention stays as it is, and so does the last block, which runs in full for few tokens only where few are read
(model/blocks.py).
Training is compiled by `compiled_training`. Prediction is by `compile_blocks`, on a CPU only what runs on one thread, as
`in_batches` runs it: compiled code holds for one number of threads.
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
from lasttoken.model.backbone import Backbone, close, to_tensor
from lasttoken.model.blocks import blocks_of, is_shortened

VARIANTS = 64  # of a block (with gradient, merged, of another model) that torch keeps compiled; its own limit is 8
SIZES = ((40, 9), (150, 30, 3))  # tokens of made-up texts: two rows of different size, so that sizes are left open


@contextmanager
def compiled_training(model: nn.Module) -> Iterator[None]:
    """Whatever runs with gradients inside runs through compiled blocks; outside, all is as it was.

    Raises ConfigError where torch finds no C++ compiler, ModelError where a block cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second to import

    blocks = compiled_ones(model)
    plain = swap(blocks, lambda states: torch.is_grad_enabled())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # torch's own doing
            yield
    except TorchDynamoException as error:
        raise why(error, "train.compile = false") from error
    finally:
        restore(blocks, plain)


def compile_blocks(backbone: Backbone) -> float:
    """Seconds that it took to have the blocks of the backbone compiled, in place, and the whole shown to give what it gave.

    Raises ConfigError where torch finds no C++ compiler, ModelError where a block cannot be compiled or changes its results.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second to import

    before = on_one_thread(backbone)
    blocks = compiled_ones(backbone.module)
    began = time.perf_counter()
    plain = swap(blocks, predicts)
    try:
        after = on_one_thread(backbone)
        if not all(close(a, b) for a, b in zip(after, before, strict=True)):
            raise ModelError(
                f"model {backbone.name!r} gives other results once it is compiled; predict without --compile"
            )
    except BaseException as error:
        restore(blocks, plain)
        if isinstance(error, TorchDynamoException):
            raise why(error, "predict without --compile") from error
        raise
    return time.perf_counter() - began


def compiled_ones(module: nn.Module) -> list[nn.Module]:
    """The blocks to compile. Raises ConfigError where there is none."""
    found = [block for block in blocks_of(module)[1] if not is_shortened(block)]
    if not found:
        raise ConfigError(["compile: this model runs one block at most, which is not compiled; leave it out"])
    return found


def predicts(states: Tensor) -> bool:
    """Whether what runs now is a prediction that `compile_blocks` is for."""
    return not torch.is_grad_enabled() and (states.device.type != "cpu" or torch.get_num_threads() == 1)


def compiled_where(forward: Callable[..., Any], serves: Callable[[Tensor], bool]) -> Callable[..., Any]:
    """`forward`, compiled for packed rows (not for `generate`) where `serves` says so by the hidden states that enter."""
    compiled = torch.compile(forward, dynamic=True)

    def run(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        chosen = compiled if kwargs.get("layout") is not None and serves(states) else forward
        return chosen(*args, **kwargs)

    return run


def swap(blocks: Sequence[nn.Module], serves: Callable[[Tensor], bool]) -> list[Any]:
    """Compile the forward of every block where `serves` says so; what a block had in the place of its class's, or None.

    The attention function is left out of what is compiled, here and from now on, which changes nothing it does.
    """
    from torch._dynamo import config

    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    config.recompile_limit = max(VARIANTS, config.recompile_limit)
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = compiled_where(block.forward, serves)
    return own


def restore(blocks: Sequence[nn.Module], own: Sequence[Any]) -> None:
    """Undo what `swap` did to the blocks."""
    for block, forward in zip(blocks, own, strict=True):
        del block.forward
        if forward is not None:
            block.forward = forward


def on_one_thread(backbone: Backbone) -> list[Tensor]:
    """Hidden states of made-up rows, run as `in_batches` runs rows side by side."""
    rng, threads = np.random.default_rng(0), torch.get_num_threads()
    most, size = backbone.window, int(backbone.config.vocab_size)
    rows = [[rng.integers(0, size, min(n, most)) for n in sizes] for sizes in SIZES]

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


def why(error: Exception, instead: str) -> ConfigError | ModelError:
    """What a failure to compile means for the user. instead: how to do without."""
    if "InvalidCxxCompiler" in repr(error):
        return ConfigError([f"compile: torch finds no C++ compiler; install g++ or clang++, or {instead}"])
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return ModelError(f"the model cannot be compiled: {' ... '.join(dict.fromkeys((lines[0], lines[-1])))}; {instead}")


def backbone_of(classifier: object) -> Backbone:
    """The backbone of a classifier that has one. Raises ConfigError."""
    backbone = getattr(classifier, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(["compile: this run has no language model to compile; predict without --compile"])
    return backbone
