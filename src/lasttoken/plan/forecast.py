"""Whether a fit fits into the memory of a device, and how long it takes.

The forecast makes the choices that training makes (micro-batch size, checkpointing), and sums the bytes of each phase.
For a fit that needs too much, `advise` looks for settings that save memory, cheapest first, else for a larger card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lasttoken.config.footprint import Footprint
from lasttoken.config.methods import MethodConfig
from lasttoken.config.parse import override, parse
from lasttoken.config.settings import epochs_of
from lasttoken.errors import ConfigError, ModelError
from lasttoken.plan.cards import Card, known_cards
from lasttoken.plan.memory import Fit, Work, merged_bytes, moment_bytes, training_step
from lasttoken.plan.model_shape import ModelShape
from lasttoken.plan.rows import Rows, a_pass, as_read

SHARE = 0.8  # of the free memory that activations may take; SHARE and FULL as in fitting/memory.py
FULL = 1024  # tokens per micro-batch that keep a device busy
UTILISATION = 0.35  # share of the peak FLOP/s that is reached: an assumption, not measured
LAUNCH = 6e-6  # seconds per operation at least, however small: also an assumption
OPERATIONS = 70, 280  # per block: forward; forward and backward with LoRA (counted on a Llama)


@dataclass(frozen=True)
class Forecast:
    """Memory and time of a fit, in bytes and seconds; times are None if the device's FLOP/s are not known."""

    fits: bool
    peak: int
    parameters: int
    trainable: int
    parts: dict[str, int]  # of training; they are not all held at the same time
    phases: dict[str, int]  # peak of each
    micro_tokens: int  # of the largest micro-batch
    checkpointing: bool
    epoch_tokens: int
    epoch_seconds: float | None  # validation included
    seconds: float | None  # all epochs and the final predictions


def forecast(config: MethodConfig, shape: ModelShape, rows: Rows, card: Card, *, seed: int) -> Forecast:
    """The forecast of one method on one device. Raises ConfigError or ModelError if the model cannot be used."""
    plan = config.footprint()
    refuse(plan, shape)
    fit, rows = Fit(shape, plan, card, len(rows.labels)), as_read(rows, plan, shape.window)
    parts, work, checkpointing = {"weights": fit.loaded - (0 if fit.whole else 4 * fit.trained)}, None, False
    if plan.trains == "nothing":
        held = a_pass(rows, "train", plan.budget)
        parts["activations"] = moment_bytes(fit, held)
        phases = {"prediction": fit.loaded + parts["activations"]}
    else:
        work, checkpointing = training(fit, rows, seed)
        held = work
        kept, moment, peak = training_step(fit, work, checkpointing=checkpointing)
        phases = phases_of(fit, rows, peak)
        parts |= {} if fit.whole else {"adapters and head": 4 * fit.trained}
        parts |= {"gradients": 4 * fit.trained, "optimiser": fit.states, "activations": kept, "temporaries": moment}
    peak, spent = max(phases.values()), seconds_of(fit, rows, work, checkpointing=checkpointing) if card.rate else None
    memory = (peak <= card.free, peak, fit.frozen + fit.trained, fit.trained, parts, phases)
    return Forecast(*memory, held.tokens, checkpointing, held.total, *(spent or (None, None)))


def refuse(plan: Footprint, shape: ModelShape) -> None:
    """Raises ModelError on a model of the wrong kind, ConfigError if `trunk` or `layer` exceeds its blocks."""
    encoder, depth = "encoder" in shape.values, shape.depth
    if plan.reads == "encoder" and not encoder:
        raise ModelError(f"model {plan.model!r} is a causal language model, not an encoder; use --method embedding")
    if plan.reads == "decoder" and encoder:
        raise ModelError(f"model {plan.model!r} is an encoder (its tokens see both ways); use --method encoder")
    for name, value, most in (("trunk", plan.frozen_blocks, depth - 1), ("layer", plan.layer or 0, depth)):
        if value > most:
            raise ConfigError([f"{name}: {value} asked for, but {plan.model} has {depth} blocks; use 0 to {most}"])


def phases_of(fit: Fit, rows: Rows, step: int) -> dict[str, int]:
    """Peak bytes of each phase of training. step: bytes of a micro-batch, beside the loaded model and the optimiser."""
    plan, trained, on_cpu = fit.footprint, 4 * fit.trained, fit.card.kind != "cuda"
    always = fit.loaded + fit.states + trained * on_cpu  # a copy of the best weights, in main memory
    reading, train = moment_bytes(fit, a_pass(rows, "valid", plan.budget)), len(rows.parts["train"])
    phases = {"training": always + step, "step": always + trained, "validation": always + merged_bytes(fit) + reading}
    if plan.head_first:  # a vector per text, and a forward pass or the logits and gradients of L-BFGS
        vectors = 4 * fit.shape.width * (train + len(rows.parts["valid"]))
        phases["head"] = fit.loaded + vectors + max(reading, 3 * 4 * train * fit.classes)
    return phases


def training(fit: Fit, rows: Rows, seed: int) -> tuple[Work, bool]:
    """(micro-batches of an epoch, whether to checkpoint), the largest that fit, by the rule of fitting/memory.py."""
    plan, room = fit.footprint, fit.card.free - fit.loaded
    work, again = Work(rows.parts["train"][:1]), False
    for again in {"on": (True,), "off": (False,)}.get(str(plan.checkpointing), (False, True)):
        for halvings in range(30):
            batch = -(-plan.batch // fit.card.count)  # of this process
            work = a_pass(rows, "train", plan.budget >> halvings, batch=batch, seed=seed)
            kept, _, peak = training_step(fit, work, checkpointing=again)
            if kept <= SHARE * room and fit.states + peak <= room:
                return work, again
            if len(work.lengths) <= 1 or (work.tokens <= FULL and plan.checkpointing == "auto" and not again):
                break
    return work, again


def seconds_of(fit: Fit, rows: Rows, work: Work | None, *, checkpointing: bool) -> tuple[float, float]:
    """(seconds of an epoch and its validation, seconds in total). work: an epoch of training; None without one."""
    plan, depth = fit.footprint, fit.depth
    train, valid, test = (seconds(fit, a_pass(rows, part, plan.budget), 1) for part in ("train", "valid", "test"))
    if work is None:  # the processes share training alone
        return train, train + valid + test
    # gradients of activations, and of weights, take as long as a forward pass each
    passes = (3 if fit.whole else 2) + checkpointing if fit.learning else 1
    learning = (fit.learning / depth or 1) * seconds(fit, work, passes)
    epoch = (learning + plan.evaluations * valid) / fit.card.count
    # one pass over training and validation rows: through the frozen blocks, and the others for a warm-started head
    before = (plan.frozen_blocks / (depth - plan.frozen_blocks) + plan.head_first) * (train + valid)
    epochs = epochs_of(plan.epochs, plan.batch, len(rows.parts["train"]))
    return epoch, epoch * epochs + valid + test + before


def seconds(fit: Fit, work: Work, passes: int) -> float:
    """Seconds of `passes` forward passes: 2 FLOP per weight and token, plus attention; at least the launch time."""
    shape, lengths = fit.shape, work.lengths
    keys = float((lengths * (lengths + work.prefix)).sum() / max(1, lengths.sum()))  # per query, mean
    flops = passes * work.total * fit.depth * (2 * shape.matrices + 4 * shape.queries * keys)
    launching = work.batches * OPERATIONS[passes > 1] * fit.depth * LAUNCH
    return max(flops / (UTILISATION * (fit.card.rate or np.inf)), launching)


class Advice(NamedTuple):
    """Settings with which a fit fits; if there are none, cards on which it fits unchanged."""

    settings: dict[str, str | int]  # dotted name in [method] -> value
    peak: int | None  # bytes, with these settings
    cards: list[str]  # the smallest on which it fits unchanged


def advise(config: MethodConfig, card: Card, foresee: Callable[[MethodConfig, Card], Forecast]) -> Advice:
    """The cheapest changes with which `config` fits on `card`; else the smallest cards on which it fits unchanged."""

    def changed(settings: dict[str, str | int]) -> Forecast:
        values = override(config.model_dump(), [f"{name}={value}" for name, value in settings.items()])
        return foresee(parse(type(config), values), card)

    settings: dict[str, str | int] = {}
    for name, value in ladder(config.footprint(), card):
        settings[name] = value
        if changed(settings).fits:
            for early in list(settings)[-2::-1]:  # drop a change that a later, stronger one made unnecessary
                fewer = {k: v for k, v in settings.items() if k != early}
                settings = fewer if changed(fewer).fits else settings
            return Advice(settings, changed(settings).peak, [])
    larger = [other for other in known_cards(count=card.count) if other.memory > card.memory and other.itemsize == 2]
    enough = next((other.memory for other in larger if foresee(config, other).fits), None)
    return Advice({}, None, [other.name for other in larger if other.memory == enough])


def ladder(plan: Footprint, card: Card) -> Iterator[tuple[str, str | int]]:
    """Changes to try, each on top of those before: free ones first, then at the cost of time, precision, quality."""
    if plan.checkpointing == "off":
        yield "train.checkpointing", "auto"
    if plan.merge:
        yield "merge", "off"
    if plan.quantize == "none" and card.kind != "mps":
        yield "quantize", "nf4"
    if card.count > 1 and plan.trains == "adapter" and not plan.shard:
        yield "train.shard", "true"
    for name, value, lowest in (("max_length", plan.max_length, 128), ("lora.r", plan.rank, 4)):
        while (value := value // 2) >= lowest:
            yield name, value
