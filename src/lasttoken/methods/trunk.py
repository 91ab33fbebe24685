"""Hidden states of texts at one block, computed once: what the blocks above are trained on when those below are frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lasttoken.journal import Journal
from lasttoken.methods.packed import in_batches, pack
from lasttoken.methods.store import digest, stored
from lasttoken.model.backbone import Backbone, quantised_layers
from lasttoken.model.depth import tapped
from lasttoken.text.tokenizer import Encoded


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of N texts, one after the other on disk; packed as token ids are."""

    array: np.ndarray  # (sum of lengths, H), float32, or bfloat16 as its bits
    starts: np.ndarray  # (N,) int64
    encoded: Encoded  # the tokens that they are of
    seconds: float  # that computing them took, now or when they were put into the cache

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, (N,) int64."""
        return self.encoded.lengths

    def segments(self, rows: np.ndarray) -> list[int]:
        """Tokens of each stretch of the chosen rows that attends to itself alone."""
        return self.encoded.segments(rows)

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Windows of each of the chosen rows; None where texts have none."""
        return self.encoded.counts(rows)

    def joined(self, rows: np.ndarray) -> Tensor:
        """The states of the chosen rows one after the other, (T, H)."""
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
    """What enters `block` for every token of `encoded`, from the cache where it holds that already.

    base: what tells the model apart (its name, commit, fingerprint). texts: of the rows; part of the digest.
    """
    kind = "BF16" if backbone.compute == torch.bfloat16 else "F32"
    lengths = encoded.lengths
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)

    def fill(array: np.ndarray) -> None:
        done = 0
        with tapped(backbone, [block]) as run:

            def compute(rows: np.ndarray) -> np.ndarray:
                batch = pack(encoded, rows, backbone)
                with backbone.autocast():
                    states = run(batch.inputs, batch.layout)[0].to(backbone.compute).cpu()
                return states.view(torch.uint16).numpy() if kind == "BF16" else states.float().numpy()

            for rows, values in in_batches(lengths, compute, budget=budget, device=backbone.device, note=journal.note):
                for i, piece in zip(rows, np.split(values, np.cumsum(lengths[rows])[:-1]), strict=True):
                    array[starts[i] : starts[i] + lengths[i]] = piece
                done += len(rows)
                journal.progress("frozen trunk", done, len(encoded))

    values = {"base": base, "block": block, "limit": encoded.limit, "kind": kind, "device": backbone.device.type}
    tokens = b"".join(ids.tobytes() for ids in encoded.ids) + repr(encoded.windows).encode()
    values["tokens"] = hashlib.sha256(tokens).hexdigest()  # which end of a long text, or which windows
    values["quantised"] = quantised_layers(backbone.module)[0]
    key = digest(values, texts)
    found = stored(key, (int(lengths.sum()), backbone.width), kind, fill, what="trunk")
    if found.origin:
        journal.note(found.origin)
    return States(found.array, starts, encoded, found.seconds)
