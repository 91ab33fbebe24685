"""Whether a fit has room on a device and how long it takes: the phases' bytes and the passes' seconds put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from lasttoken.config import Embedding, Encoder, Instruction, Probe
from lasttoken.errors import ConfigError
from lasttoken.model.depth import depth_of
from lasttoken.plan.batches import Work, packed
from lasttoken.plan.cards import Card, cards_of
from lasttoken.plan.phases import Learning, Predicting, Scene, alone_bytes, learning, predicting, resident
from lasttoken.plan.rehearsal import Rehearsed, trunk_of
from lasttoken.plan.rows import Rows
from lasttoken.plan.skeleton import Method, build

UTILISATION = 0.35  # of a device's peak that this work reaches: an assumption until measured on the device
LAUNCH = 6e-6  # seconds that an operation takes at least, however small: another assumption


@dataclass(frozen=True)
class Forecast:
    """What a fit would take. Memory in bytes, time in seconds; None where the device's rate is not known."""

    model: str
    method: str
    quantize: str
    dtype: str  # that it computes in
    device: str
    kind: str  # cuda, cpu or mps
    memory: float  # that the device has
    free: float  # that a fit may take of it
    fits: bool
    parameters: int
    trainable: int
    parts: dict[str, int]  # of training; not all of them are there at the same time
    phases: dict[str, int]  # the peak of each
    peak: int
    budget: int  # tokens that a micro-batch may hold, as training would settle it
    micro_tokens: int  # that the fullest one holds
    lengths_known: bool  # of the rows; else the fullest one is of rows that fill max_length
    checkpointing: bool
    rows: int  # to train on
    epoch_tokens: int
    counted: str  # how tokens were counted
    epochs: float  # at most
    epoch_seconds: float | None  # validation included
    seconds: float | None  # all epochs, and the predictions after them
    cards: dict[str, float]  # the same of the fastest and the slowest card, where only an amount of memory is known
    rate: float | None  # FLOP/s that the device is assumed to reach
    share: float  # of its peak
    disk: int  # bytes of the frozen trunk's states


def forecast(config: Method, model: PretrainedConfig, tokenizer: Any, rows: Rows, card: Card, *, seed: int) -> Forecast:
    """The forecast of one method on one device. Raises ConfigError or ModelError where it could not even begin."""
    trains = not isinstance(config, Probe) and not (isinstance(config, Instruction) and not config.train_model)
    if isinstance(config, Instruction) and trains and not config.lora.r:
        raise ConfigError(["lora.r: 0 leaves nothing to train; set a rank, or train_model = false for zero-shot"])
    skeleton = build(config, model, tokenizer, classes=len(rows.labels), dtype=card.dtype)
    texts = packed(config, skeleton.backbone, rows, seed)
    scene = Scene(skeleton, texts, card, seed)
    settings = None if isinstance(config, Probe) else config.train
    learnt = learning(scene, settings) if trains and settings else None
    budget = budget_of(config)
    asked = predicting(scene, "valid" if learnt else "train", budget, learnt.states if learnt else 0)
    works = {part: texts.predicting(part, budget) for part in ("train", "valid", "test")}
    epoch, seconds = spent(Clock(card, skeleton.loaded), scene, learnt, asked, works)
    alike = cards_of(card.memory) if card.rate is None and card.kind == "cuda" else []
    others = {one.name: spent(Clock(one, skeleton.loaded), scene, learnt, asked, works)[1] or 0.0 for one in alike}
    by_time = sorted(others, key=others.__getitem__)
    parts, phases = bytes_of(scene, learnt, asked)
    peak = max(phases.values())
    free = card.free + (parts.get("Python and libraries", 0) if card.kind != "cuda" else 0)
    held = learnt.work.fullest if learnt else asked.work.fullest
    return Forecast(
        model=config.model,
        method=config.method,
        quantize="none" if isinstance(config, Encoder) else config.quantize,
        dtype=str(skeleton.backbone.compute).removeprefix("torch."),
        device=card.name,
        kind=card.kind,
        memory=card.memory,
        free=free,
        fits=peak <= free,
        parameters=skeleton.parameters,
        trainable=sum(skeleton.trainable),
        parts=parts,
        phases=phases,
        peak=peak,
        budget=learnt.budget if learnt else budget,
        micro_tokens=held.tokens,
        lengths_known=rows.data is not None,
        checkpointing=bool(learnt and learnt.checkpointing),
        rows=len(rows.train),
        epoch_tokens=round(learnt.work.tokens if learnt else asked.work.tokens),
        counted=rows.origin,
        epochs=settings.epochs if learnt and settings else 1.0,
        epoch_seconds=epoch,
        seconds=seconds,
        cards={name: others[name] for name in (*by_time[:1], *by_time[-1:])},
        rate=None if card.rate is None else UTILISATION * card.rate,
        share=UTILISATION,
        disk=round(trunk_bytes(scene) if trunk_of(config) else 0),
    )


def bytes_of(scene: Scene, learnt: Learning | None, asked: Predicting) -> tuple[dict[str, int], dict[str, int]]:
    """(bytes of each part of training, the peak of each phase)."""
    skeleton, on_cpu = scene.skeleton, scene.card.kind != "cuda"
    process = {"Python and libraries": resident()} if on_cpu else {}
    always = skeleton.loaded + sum(process.values())
    whole = isinstance(skeleton.config, Encoder)
    parts = {"weights": skeleton.loaded if whole else skeleton.loaded - skeleton.trained}
    prediction = asked.side_by_side * asked.seen.peak + asked.merging
    if learnt is None:
        parts |= {"activations": asked.side_by_side * asked.seen.peak, **process}
        return parts, {"prediction": always + prediction}
    seen = learnt.seen
    if not whole:
        parts["adapters and head"] = skeleton.trained
    parts |= {"gradients": skeleton.trained, "optimiser": learnt.states + learnt.paged}
    parts |= {"activations": seen.kept, "temporaries": max(0, seen.peak - seen.kept), **process}
    best = skeleton.trained if on_cpu else 0  # the best weights so far are kept in main memory
    phases = {"head": always + alone_bytes(scene, asked)} if fits_head_alone(skeleton.config) else {}
    phases |= {
        "training": always + learnt.states + best + seen.peak,
        "step": always + learnt.states + best + skeleton.trained + learnt.step,
        "validation": always + learnt.states + best + seen.pool + asked.merged + prediction,
        "merged": always + best + seen.pool + asked.replaced + asked.merging,
    }
    return parts, phases


def fits_head_alone(config: Method) -> bool:
    """Whether training begins with the head."""
    return isinstance(config, Embedding | Encoder) and config.head_start == "probe"


@dataclass(frozen=True)
class Clock:
    """Seconds of a pass on a device: the longest of its arithmetic, of launching it, and of reading the weights."""

    card: Card
    weights: int  # bytes

    def of(self, seen: Rehearsed, work: Work, reads: int) -> float | None:
        """Of `work`, whose fullest micro-batch was `seen`; the weights are read `reads` times a micro-batch."""
        if self.card.rate is None or not work.count:
            return None if self.card.rate is None else 0.0
        flops = seen.flops / seen.tokens * work.tokens / work.count
        reading = reads * self.weights / self.card.bandwidth if self.card.bandwidth else 0.0
        return work.count * max(flops / (UTILISATION * self.card.rate), seen.operations * LAUNCH, reading)

    def train(self, learnt: Learning) -> float | None:
        """An epoch."""
        return self.of(learnt.seen, learnt.work, 3 if learnt.checkpointing else 2)

    def predict(self, asked: Predicting, work: Work) -> float | None:
        """One pass over the rows of `work`."""
        return self.of(asked.seen, work, 1)


def budget_of(config: Method) -> int:
    """Tokens of a batch that is predicted, at most."""
    return config.budget if isinstance(config, Probe) else config.train.budget


def spent(
    clock: Clock, scene: Scene, learnt: Learning | None, asked: Predicting, works: dict[str, Work]
) -> tuple[float | None, float | None]:
    """Seconds of (an epoch, everything); None where the rate is not known. works: one prediction of each part."""
    config: Any = scene.skeleton.config
    once = plus(clock.predict(asked, works["test"]), clock.predict(asked, works["valid"]))
    if learnt is None:
        epoch = clock.predict(asked, asked.work)
        return epoch, plus(epoch, once)
    validation = clock.predict(asked, asked.work)
    epoch = plus(clock.train(learnt), None if validation is None else validation * config.train.evaluations)
    # once over the rows to train on and to validate with: the blocks below a trunk, and for a head fitted alone the rest
    trunk = trunk_of(config)
    passes = trunk / (depth_of(scene.skeleton.backbone) - trunk) + fits_head_alone(config)
    for part in ("train", "valid") if passes else ():
        reading = clock.predict(asked, works[part])
        once = plus(once, None if reading is None else reading * passes)
    return epoch, plus(None if epoch is None else epoch * config.train.epochs, once)


def plus(a: float | None, b: float | None) -> float | None:
    """The sum; None where one is not known."""
    return None if a is None or b is None else a + b


def trunk_bytes(scene: Scene) -> float:
    """Bytes on disk of the hidden states of rows to train on and to validate with."""
    tokens = sum(scene.texts.lengths(part).sum() for part in ("train", "valid"))
    return float(tokens) * scene.skeleton.backbone.width * scene.skeleton.backbone.compute.itemsize
