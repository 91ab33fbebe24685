"""What a method loads, trains and runs, in plain numbers: all that a plan needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Footprint:
    """A method's demands on a device. Its config makes it (`footprint()`), so that nothing else has to know the method."""

    model: str
    reads: Literal["decoder", "encoder", "any"]  # the kinds of model it takes
    trains: Literal["adapter", "everything", "head", "nothing"]
    max_length: int  # tokens
    budget: int  # tokens of a micro-batch, and of a batch to predict
    revision: str | None = None
    quantize: str | None = None  # nf4 or none; None: has no such setting
    precision: str = "auto"  # of the arithmetic
    merge: bool | None = None  # the adapter into the weights to predict; None: has no such setting
    rank: int = 0  # of LoRA
    targets: str | tuple[str, ...] = "all-linear"  # layers that LoRA adapts
    lora_dropout: float = 0.0
    dora: bool = False
    frozen_blocks: int = 0  # at the bottom, without adapter; their output is computed once and kept on disk
    layer: int | None = None  # the last hidden state that is read; blocks above are not loaded. None: all are
    head: Literal["none", "linear", "mlp"] = "none"
    head_bias: bool = True  # of a linear head
    head_first: bool = False  # the head is fitted alone before training
    windows: tuple[float, int] | None = None  # of long texts: the share that overlaps, and how many at most
    prompt: str | None = None  # around every text; empty: the default of text/prompt.py; None: there is none
    questions: int = 0  # labels asked about per row in training, where a row may have several
    epochs: float | Literal["auto"] = 1.0
    batch: int = 1  # rows an update
    evaluations: int = 0  # of the validation rows, an epoch
    optimizer: str = "adamw"
    shard: bool = False  # the frozen weights are split over the processes
    checkpointing: str | None = None  # on, off or auto; None: has no such setting
