"""Cached hidden states at one block: the training input of the upper blocks when the blocks below are frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lasttoken.infer.batches import in_batches, pack
from lasttoken.infer.disk_cache import cached_array, digest
from lasttoken.journal import Journal
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import quantised_layers
from lasttoken.text.tokenizer import Encoded


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of N texts, concatenated on disk; a `Source` for packing, like token ids."""

    array: np.ndarray  # (sum of lengths, H), float32, or bfloat16 as its bits
    starts: np.ndarray  # (N,) int64
    encoded: Encoded  # their tokens
    seconds: float  # time that computing them took, now or when they were cached

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, (N,) int64."""
        return self.encoded.lengths

    def segments(self, rows: np.ndarray) -> list[int]:
        """Lengths of the chosen rows' texts, or of their windows."""
        return self.encoded.segments(rows)

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Number of windows of each chosen row; None without windows."""
        return self.encoded.counts(rows)

    def joined(self, rows: np.ndarray) -> Tensor:
        """Hidden states of the chosen rows, concatenated, (T, H)."""
        places = zip(self.starts[rows].tolist(), self.encoded.lengths_of(rows), strict=True)
        pieces = [self.array[start : start + length] for start, length in places]
        states = torch.from_numpy(np.concatenate(pieces))
        return states.view(torch.bfloat16) if states.dtype == torch.uint16 else states


def trunk_states(
    backbone: Backbone,
    encoded: Encoded,
    block: int,
    *,
    base: Mapping[str, Any],
    texts: Sequence[str],
    budget: int,
    journal: Journal,
) -> States:
    """Inputs of `block` for every token of `encoded`, cached on disk.

    base: identity of the model (name, commit, fingerprint). texts: the rows' texts, part of the cache key.
    """
    kind = "BF16" if backbone.compute == torch.bfloat16 else "F32"
    lengths = encoded.lengths
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)

    def compute(rows: np.ndarray) -> np.ndarray:
        batch = pack(encoded, rows, backbone)
        with backbone.autocast():
            states = backbone.hidden_at([block], batch.inputs, batch.layout)[0].to(backbone.compute).cpu()
        return states.view(torch.uint16).numpy() if kind == "BF16" else states.float().numpy()

    def fill(array: np.ndarray) -> None:
        progress = journal.task("frozen blocks")
        for rows, values in in_batches(lengths, compute, backbone, budget=budget, note=journal.note, progress=progress):
            for i, piece in zip(rows, np.split(values, np.cumsum(lengths[rows])[:-1]), strict=True):
                array[starts[i] : starts[i] + lengths[i]] = piece

    values = {"base": base, "block": block, "limit": encoded.limit, "kind": kind, "device": backbone.device.type}
    tokens = b"".join(ids.tobytes() for ids in encoded.ids) + repr(encoded.windows).encode()
    values["tokens"] = hashlib.sha256(tokens).hexdigest()  # depends on truncation and windows
    values["quantised"] = quantised_layers(backbone.module)[0]
    key = digest(values, texts)
    found = cached_array(key, (int(lengths.sum()), backbone.width), kind, fill, what="trunk")
    if found.origin:
        journal.note(found.origin)
    return States(found.array, starts, encoded, found.seconds)
