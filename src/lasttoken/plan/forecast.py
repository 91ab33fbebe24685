"""Whether a fit has room on a device and how long it takes: the choices that training makes, and the bytes of its phases.

Where it has none, `advise` looks for settings that make room, in the order of what they cost, else for a larger card.
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

SHARE = 0.8  # of the free memory that activations may take (fitting/memory.py, as the next)
FULL = 1024  # tokens a micro-batch that keep a device busy
UTILISATION = 0.35  # of a device's peak that this work reaches: an assumption until measured on the device
LAUNCH = 6e-6  # seconds that an operation takes at least, however small: another assumption
OPERATIONS = 70, 280  # of a block: forward, and forward and backward with LoRA (counted on a Llama)


@dataclass(frozen=True)
class Forecast:
    """What a fit would take. Memory in bytes, time in seconds; None where the device's rate is not known."""

    fits: bool
    peak: int
    parameters: int
    trainable: int
    parts: dict[str, int]  # of training; not all of them are there at the same time
    phases: dict[str, int]  # the peak of each
    micro_tokens: int  # that the fullest micro-batch holds
    checkpointing: bool
    epoch_tokens: int
    epoch_seconds: float | None  # validation included
    seconds: float | None  # all epochs, and the predictions after them


def forecast(config: MethodConfig, shape: ModelShape, rows: Rows, card: Card, *, seed: int) -> Forecast:
    """The forecast of one method on one device. Raises ConfigError or ModelError where it could not even begin."""
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
    """Raises ModelError on a model of the wrong kind, ConfigError on a layer or a cut that it does not have."""
    encoder, depth = "encoder" in shape.values, shape.depth
    if plan.reads == "encoder" and not encoder:
        raise ModelError(f"model {plan.model!r} is a causal language model, not an encoder; use --method embedding")
    if plan.reads == "decoder" and encoder:
        raise ModelError(f"model {plan.model!r} is an encoder (its tokens see both ways); use --method encoder")
    for name, value, most in (("trunk", plan.frozen_blocks, depth - 1), ("layer", plan.layer or 0, depth)):
        if value > most:
            raise ConfigError([f"{name}: {value} asked for, but {plan.model} has {depth} blocks; use 0 to {most}"])


def phases_of(fit: Fit, rows: Rows, step: int) -> dict[str, int]:
    """The peak of each phase of a training. step: of a micro-batch, beside what is loaded and the optimiser."""
    plan, trained, on_cpu = fit.footprint, 4 * fit.trained, fit.card.kind != "cuda"
    always = fit.loaded + fit.states + trained * on_cpu  # a copy of the best weights, in main memory
    reading, train = moment_bytes(fit, a_pass(rows, "valid", plan.budget)), len(rows.parts["train"])
    phases = {"training": always + step, "step": always + trained, "validation": always + merged_bytes(fit) + reading}
    if plan.head_first:  # every text's vector, while the model reads or L-BFGS has logits and their gradients
        vectors = 4 * fit.shape.width * (train + len(rows.parts["valid"]))
        phases["head"] = fit.loaded + vectors + max(reading, 3 * 4 * train * fit.classes)
    return phases


def training(fit: Fit, rows: Rows, seed: int) -> tuple[Work, bool]:
    """(an epoch, whether activations are recomputed): micro-batches as large as fit, by the rule of fitting/memory.py."""
    plan, room = fit.footprint, fit.card.free - fit.loaded
    work, again = Work(rows.parts["train"][:1]), False
    for again in {"on": (True,), "off": (False,)}.get(str(plan.checkpointing), (False, True)):
        for halvings in range(30):
            work = a_pass(rows, "train", plan.budget >> halvings, batch=plan.batch, seed=seed)
            kept, _, peak = training_step(fit, work, checkpointing=again)
            if kept <= SHARE * room and fit.states + peak <= room:
                return work, again
            if len(work.lengths) <= 1 or (work.tokens <= FULL and plan.checkpointing == "auto" and not again):
                break
    return work, again


def seconds_of(fit: Fit, rows: Rows, work: Work | None, *, checkpointing: bool) -> tuple[float, float]:
    """Seconds of (an epoch with its validation, everything). work: an epoch of training, if any."""
    plan, depth = fit.footprint, fit.depth
    train, valid, test = (seconds(fit, a_pass(rows, part, plan.budget), 1) for part in ("train", "valid", "test"))
    if work is None:
        return train, train + valid + test
    passes = (3 if fit.whole else 2) + checkpointing if fit.learning else 1  # gradients take a forward pass's time each
    epoch = (fit.learning / depth or 1) * seconds(fit, work, passes) + plan.evaluations * valid
    # once over rows to train on and to validate with: the frozen blocks, and for a head fitted alone the others
    before = (plan.frozen_blocks / (depth - plan.frozen_blocks) + plan.head_first) * (train + valid)
    epochs = epochs_of(plan.epochs, plan.batch, len(rows.parts["train"]))
    return epoch, epoch * epochs + valid + test + before


def seconds(fit: Fit, work: Work, passes: int) -> float:
    """Seconds of as many forward passes: two operations a weight and token, and attention; at least those of launching."""
    shape, lengths = fit.shape, work.lengths
    seen = float((lengths * (lengths + work.prefix)).sum() / max(1, lengths.sum()))  # keys of a query
    flops = passes * work.total * fit.depth * (2 * shape.matrices + 4 * shape.queries * seen)
    launching = work.batches * OPERATIONS[passes > 1] * fit.depth * LAUNCH
    return max(flops / (UTILISATION * (fit.card.rate or np.inf)), launching)


class Advice(NamedTuple):
    """Changes that give room; or none, and the cards that have it."""

    settings: dict[str, str | int]  # dotted name in [method] -> value
    peak: int | None  # with them
    cards: list[str]  # the smallest on which it fits as it is


def advise(config: MethodConfig, card: Card, foresee: Callable[[MethodConfig, Card], Forecast]) -> Advice:
    """The first changes that make `config` fit on `card`; where none does, the smallest cards that take it unchanged."""

    def changed(settings: dict[str, str | int]) -> Forecast:
        values = override(config.model_dump(), [f"{name}={value}" for name, value in settings.items()])
        return foresee(parse(type(config), values), card)

    settings: dict[str, str | int] = {}
    for name, value in ladder(config.footprint(), card.kind):
        settings[name] = value
        if changed(settings).fits:
            for early in list(settings)[-2::-1]:  # what a later and stronger change made needless
                fewer = {k: v for k, v in settings.items() if k != early}
                settings = fewer if changed(fewer).fits else settings
            return Advice(settings, changed(settings).peak, [])
    larger = [other for other in known_cards() if other.memory > card.memory and other.itemsize == 2]
    enough = next((other.memory for other in larger if foresee(config, other).fits), None)
    return Advice({}, None, [other.name for other in larger if other.memory == enough])


def ladder(plan: Footprint, kind: str) -> Iterator[tuple[str, str | int]]:
    """Changes, each on top of those before it: first what costs nothing, then time, then precision, then quality."""
    if plan.checkpointing == "off":
        yield "train.checkpointing", "auto"
    if plan.merge:
        yield "merge", "off"
    if plan.quantize == "none" and kind != "mps":
        yield "quantize", "nf4"
    for name, value, lowest in (("max_length", plan.max_length, 128), ("lora.r", plan.rank, 4)):
        while (value := value // 2) >= lowest:
            yield name, value
