"""Training: how fast, in what memory, what takes the time, and what one change at a time does to it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from models import LORA
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gpu_steps.place import NEEDS_CUDA, Place
from gpu_steps.trainee import LABELS, Measured, Trainee, measure, trainee
from lasttoken.labels import LabelSpace
from lasttoken.model import dropout
from lasttoken.model.device import describe_device, device_memory
from lasttoken.model.lora import lora_layers
from lasttoken.model.shared_input import Siblings
from lasttoken.plan.cards import Card
from lasttoken.plan.forecast import forecast
from lasttoken.plan.model_shape import ModelShape
from lasttoken.plan.rows import Rows

LONG, SHORT, MIX = "512", "70", "mix"
TOY_LONG = "48"
AIM_8B = "40 % of the peak in under 12 GB"


def train8b(place: Place) -> None:
    """8B in NF4 with LoRA, 8 rows of 512 tokens an update; then one change at a time."""
    kind, few = (TOY_LONG, 2) if place.toy else (LONG, 5)
    model = trainee("8B", "embedding", place, quantize=place.quantize)
    found = measure(model, kind, place, updates=3 if place.toy else 10, profiled=2)
    place.note("NF4, r 8, all linear layers", found.figures(model, place), AIM_8B)
    place.note("plan's forecast", planned(model, found, place), "within 15 % of the allocated memory")
    place.note("time by group, ms", found.profile.figures() if found.profile else NEEDS_CUDA)

    def changed(name: str, other: Trainee) -> None:
        with noted(name, place):
            one = measure(other, kind, place, updates=few)
            place.note(name, {**one.figures(other, place), "ratio": found.seconds / one.seconds}, "1 is as before")

    with dropout_off(model):
        changed("dropout 0", model)
    with patch.object(dropout, "works", lambda _: False):
        changed("dropout's mask stored", model)
    with patch.object(Siblings, "output", lambda *_: None):
        changed("q, k and v each by itself", model)
    changed("AdamW in float32, fused", model.but(optimizer="adamw"))
    with fused_norms():
        changed("torch's rms_norm", model)
    del model
    empty()
    with noted("bfloat16 in place of NF4", place):
        changed("bfloat16 in place of NF4", trainee("8B", "embedding", place))


def instruct1b(place: Place) -> None:
    """Instruction training of 1B on mixed lengths, 32 rows an update, with cuDNN's attention and without."""
    model = trainee("1B", "instruction", place, batch=4 if place.toy else 32)
    for name, on in {"cuDNN attention on": True, "cuDNN attention off": False}.items():
        if not place.cuda and not on:
            place.note(name, NEEDS_CUDA)
            continue
        before = torch.backends.cuda.cudnn_sdp_enabled()
        torch.backends.cuda.enable_cudnn_sdp(on)
        found = measure(model, MIX, place, updates=2 if place.toy else 12, profiled=2)
        torch.backends.cuda.enable_cudnn_sdp(before)
        place.note(name, found.figures(model, place))
        place.note(f"time by group, {name}, ms", found.profile.figures() if found.profile else NEEDS_CUDA)


def short1b(place: Place) -> None:
    """Embedding training of 1B on 8 rows of 70 tokens: what launching costs."""
    model = trainee("1B", "embedding", place)
    found = measure(model, SHORT, place, updates=3 if place.toy else 40, profiled=5)
    place.note("8 rows of 70 tokens", found.figures(model, place))
    place.note("time by group, ms", found.profile.figures() if found.profile else NEEDS_CUDA)
    place.note("busy share of the card", found.profile.busy if found.profile else NEEDS_CUDA)


def reserve(place: Place) -> None:
    """Memory that torch reserves beside what is allocated, over updates of mixed lengths."""
    model, updates, seen = trainee("1B", "embedding", place), 4 if place.toy else 58, []

    def look(update: int) -> None:
        if place.cuda and update % 10 == 0:
            peak = torch.cuda.max_memory_allocated(place.device)
            seen.append([update, peak / 1e9, torch.cuda.memory_reserved(place.device) / 1e9])

    found = measure(model, MIX, place, updates=updates, each=look)
    place.note("60 mixed updates", found.figures(model, place))
    if not place.cuda:
        place.note("reserved to allocated", NEEDS_CUDA)
        return
    place.note("reserved to allocated", (found.peak.reserved or 0) / found.peak.bytes)
    place.note("after updates: peak allocated and reserved, GB", seen)
    place.note("retries and out-of-memory events", retries(place))


def compiled8b(place: Place) -> None:
    """The 8B step with torch.compile; the first updates compile, and are told apart."""
    model = trainee("8B", "embedding", place, quantize=place.quantize)
    kind = TOY_LONG if place.toy else LONG
    before = measure(model, kind, place, updates=4)
    place.note("not compiled", before.figures(model, place))
    compiled = model.but(compile=True)
    found = measure(compiled, kind, place, updates=6, each=lambda update: print(f"update {update}", flush=True))
    place.note("compiled", {**found.figures(compiled, place), "ratio": before.seconds / found.seconds})
    place.note("seconds of the first updates", [step.seconds for step in found.trained.steps[:3]])


def planned(model: Trainee, found: Measured, place: Place) -> dict[str, Any]:
    """The peak that `plan` forecasts for this training against the measured one."""
    shape = ModelShape(model.backbone.name, model.backbone.whole.config.to_dict())
    parts = {"train": found.lengths, "valid": found.lengths[:1], "test": found.lengths[:1]}
    memory, itemsize = device_memory(place.device), model.backbone.compute.itemsize
    card = Card(describe_device(place.device), place.device.type, memory, 0.95 * memory, itemsize, place.peak)
    said = forecast(model.config, shape, Rows(parts, LabelSpace(LABELS), True, "drawn"), card, seed=0)
    peak = max(said.phases["training"], said.phases["step"])
    return {
        "forecast GB": peak / 1e9,
        f"{found.peak.kind} GB": found.peak.bytes / 1e9,
        "error": peak / found.peak.bytes - 1,
        "forecast seconds of an update": (said.epoch_seconds or 0.0) * found.batch / len(found.lengths),
        "parts GB": {name: size / 1e9 for name, size in said.parts.items()},
    }


@contextmanager
def noted(name: str, place: Place) -> Iterator[None]:
    """Work whose running out of memory is a figure like any other."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        place.note(name, {"out of memory": str(error).splitlines()[0]})
        empty()


@contextmanager
def dropout_off(model: Trainee) -> Iterator[None]:
    """LoRA without dropout."""
    layers = [m for one in lora_layers(model.backbone.whole) for m in one.lora_dropout.values()]
    layers = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer in layers:
            layer.p = LORA.dropout


@contextmanager
def fused_norms() -> Iterator[None]:
    """Llama's norms by torch's own function."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        found = F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
        return found.to(hidden_states.dtype)

    with patch.object(LlamaRMSNorm, "forward", forward):
        yield


def retries(place: Place) -> dict[str, int]:
    """How often torch had to free reserved memory to go on, and how often that was not enough."""
    stats = torch.cuda.memory_stats(place.device)
    return {"retries": int(stats["num_alloc_retries"]), "out of memory": int(stats["num_ooms"])}


def empty() -> None:
    """Give back the memory of models that are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
