"""The bytes of every phase of a fit, and the micro-batches that training would settle on in the memory it finds.

Training makes these choices itself, from the model it has loaded (methods/memory.py, model/lora.py, train/loop.py);
here they are made again, from rehearsals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lasttoken.config import Embedding, Instruction, Training
from lasttoken.methods.memory import is_short, recomputed, tokens_in
from lasttoken.methods.start import HISTORY
from lasttoken.model.blocks import in_full
from lasttoken.model.lora import SHARE as MERGED_SHARE
from lasttoken.model.lora import merged_sizes, unmerged
from lasttoken.plan.batches import Texts, Work
from lasttoken.plan.cards import Card
from lasttoken.plan.rehearsal import Rehearsed, rehearse
from lasttoken.plan.skeleton import Skeleton

EIGHT_BIT_FROM = 4096  # numbers in a tensor from which on 8-bit AdamW keeps its states in 8 bits (bitsandbytes)
PAGED_FROM = 100_000  # numbers in a tensor from which on paged states may leave the GPU (bitsandbytes)


@dataclass(frozen=True)
class Scene:
    """What is rehearsed: a method, its rows, and the device that it is to run on."""

    skeleton: Skeleton
    texts: Texts
    card: Card
    seed: int

    def run(self, work: Work, **how: Any) -> Rehearsed:
        """The fullest micro-batch of `work` on this device."""
        multi = self.texts.rows.labels.multi
        return rehearse(self.skeleton, work.fullest, kind=self.card.kind, multi=multi, **how)


@dataclass(frozen=True)
class Learning:
    """How training would run."""

    work: Work  # of an epoch
    seen: Rehearsed  # its fullest micro-batch
    budget: int
    checkpointing: bool
    states: int  # bytes of the optimiser that stay on the device
    paged: int  # bytes of the optimiser that may leave it
    step: int  # bytes that the optimiser's step takes beside all that


@dataclass(frozen=True)
class Predicting:
    """How rows would be predicted during and after training."""

    work: Work
    seen: Rehearsed
    side_by_side: int  # batches at once
    merged: int  # bytes of weights with the adapter merged into them, kept beside the others
    replaced: int  # bytes by which the weights grow when it is merged for good
    merging: int  # bytes that merging takes for a moment


def learning(scene: Scene, settings: Training) -> Learning:
    """Training on the micro-batches that it would choose on this device."""
    skeleton, card = scene.skeleton, scene.card
    budget, checkpointing = settled(scene, settings)
    resident, paged = state_bytes(settings.optimizer, skeleton.trainable, card.kind)
    step = skeleton.trained if card.kind != "cuda" or settings.optimizer == "adamw" else 0  # torch's own copies once
    while True:
        work = scene.texts.training(settings, budget, scene.seed)
        seen = scene.run(work, again=work.several, checkpointing=checkpointing)
        over = skeleton.loaded + resident + seen.peak > card.free
        if not over or card.kind != "cuda" or len(work.fullest.lengths) == 1:  # only CUDA says that it is full
            return Learning(work, seen, budget, checkpointing, resident, paged, step)
        budget = work.fullest.counted // 2


def settled(scene: Scene, settings: Training) -> tuple[int, bool]:
    """(tokens a micro-batch, whether activations are recomputed) by the rule of methods/memory.py."""
    skeleton, checkpointing = scene.skeleton, settings.checkpointing == "on"
    if scene.card.kind == "mps":  # does not tell what it has free
        return settings.budget, checkpointing
    alone = scene.texts.longest()
    tokens = alone.counted
    multi = scene.texts.rows.labels.multi
    with in_full():
        seen = rehearse(skeleton, alone, kind=scene.card.kind, multi=multi, checkpointing=checkpointing)
    room = scene.card.free - skeleton.loaded
    per_token = max(1.0, seen.kept / tokens)
    fitting = tokens_in(room, per_token)
    if settings.checkpointing == "auto" and is_short(fitting, settings.budget, tokens):
        checkpointing = True
        fitting = tokens_in(room, recomputed(skeleton.backbone.whole, per_token))
    return max(1, min(settings.budget, fitting)), checkpointing


def state_bytes(optimizer: str, trainable: tuple[int, ...], kind: str) -> tuple[int, int]:
    """Bytes of the optimiser's two states: (that stay on the device, that may leave it). trainable: numbers in each tensor."""
    if kind != "cuda" or optimizer == "adamw":
        return 8 * sum(trainable), 0
    if optimizer == "adamw8bit":  # a byte each, and a float32 scale for every 256
        return sum(2 * n + 8 * -(-n // 256) if n >= EIGHT_BIT_FROM else 8 * n for n in trainable), 0
    paged = 8 * sum(n for n in trainable if n >= PAGED_FROM)
    return 8 * sum(trainable) - paged, paged


def predicting(scene: Scene, part: str, budget: int, beside: int = 0) -> Predicting:
    """Prediction of a part, `beside` bytes of the device being taken by the optimiser."""
    skeleton, card = scene.skeleton, scene.card
    merged, replaced, merging = merged_bytes(skeleton, card)
    threads = torch.get_num_threads() if card.kind == "cpu" else 1
    budget = max(1, budget // threads)
    while True:
        work = scene.texts.predicting(part, budget)
        seen = scene.run(work, train=False)
        over = skeleton.loaded + beside + merged + seen.peak > card.free
        if not over or card.kind != "cuda" or len(work.fullest.lengths) == 1:
            break
        budget = work.fullest.counted // 2
    at_once = threads if work.count >= 2 * threads else 1
    return Predicting(work, seen, at_once, merged, replaced, merging)


def merged_bytes(skeleton: Skeleton, card: Card) -> tuple[int, int, int]:
    """(bytes of merged weights that stand beside the others, growth when merged for good, bytes of the largest sum).

    Zero where the rule of model/lora.py finds no room.
    """
    config: Any = skeleton.config
    layers = unmerged(skeleton.backbone.whole) if isinstance(config, Embedding | Instruction) else []
    if not layers or config.merge == "off":
        return 0, 0, 0
    now, dense, given_up = merged_sizes(skeleton.backbone.whole, layers)
    room = MERGED_SHARE * card.memory
    beside = dense if now + dense <= room else 0
    growth = dense - given_up if now + dense - given_up <= room else 0
    largest = max(layer.in_features * layer.out_features for layer in layers)
    return beside, growth, 3 * 4 * largest if beside or growth else 0  # W, B A and their sum, float32


def alone_bytes(scene: Scene, asked: Predicting) -> int:
    """Bytes of fitting the head alone (methods/start.py), beside the weights: every text's vector, and reading or solving."""
    rows, width = scene.texts.rows, scene.skeleton.backbone.width
    vectors = 4 * width * (len(rows.train) + len(rows.valid))
    logits = 3 * 4 * len(rows.train) * len(rows.labels)  # what they become, and their gradient
    steps = 2 * HISTORY * 4 * width * len(rows.labels)
    return vectors + max(asked.side_by_side * asked.seen.peak, logits + steps)


def resident() -> int:
    """Bytes that this process holds by now, Python and libraries; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0
