"""Prediction with the adapter merged: from texts to probabilities."""

from __future__ import annotations

from statistics import median
from typing import Any

from memory_models import LABELS, random_rows
from models import flops

from gpu_steps.place import Place, seconds_of
from gpu_steps.trainee import trainee
from gpu_steps.training import empty, noted
from lasttoken.labels import LabelSpace
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.model.device import peak_memory, reset_peak
from lasttoken.model.lora import merge

ROWS = {"512": 96, "128": 256, "mix": 256}


def predict(place: Place) -> None:
    """8B, trained in NF4 and merged into bfloat16, then 3B."""
    for size in ("8B",) if place.toy else ("8B", "3B"):
        with noted(f"{size}, merged", place):
            of_size(size, place)
        empty()


def of_size(size: str, place: Place) -> None:
    """One model on rows of each kind."""
    model = trainee(size, "embedding", place, quantize=place.quantize)
    assert model.head is not None
    done = merge(model.backbone.whole, "auto")
    config: Any = model.config
    ours = EmbeddingModel(config, LabelSpace(LABELS), model.backbone, model.adapter, model.head)
    for kind, rows in {"24": 8, "mix": 8}.items() if place.toy else ROWS.items():
        data, lengths = random_rows(kind, rows, model.backbone.tokenizer)
        reset_peak(place.device)
        ours.predict_proba(data.texts)  # warms up
        seconds = median(seconds_of(lambda: ours.predict_proba(data.texts), place.device) for _ in range(3))  # noqa: B023
        needed, peak = flops(model.backbone.config, lengths, training=False), peak_memory(place.device)
        place.note(
            f"{size}, merged, rows of {kind}" if done else f"{size}, not merged, rows of {kind}",
            {
                "rows/s": rows / seconds,
                "tokens/s": float(lengths.sum()) / seconds,
                "share of peak": needed / seconds / place.peak,
                f"{peak.kind} GB": peak.bytes / 1e9,
            },
            "60 % of the peak",
        )
