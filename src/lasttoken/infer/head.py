"""Predictions of a classification head, and its file in a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.config.settings import Long
from lasttoken.errors import ArtifactError
from lasttoken.infer.batches import Source, in_batches, pack
from lasttoken.infer.differentiable import Differentiable, copies, flat, spans
from lasttoken.journal import Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.record.artifact import read_tensors, write_tensors
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.distributed import ALONE, World


def head_probs(
    backbone: Backbone,
    head: Head,
    source: Source,
    labels: LabelSpace,
    *,
    budget: int,
    world: World = ALONE,
    progress: Progress = unheard,
) -> np.ndarray:
    """Probabilities (N, C) float64 in the order of `source`, the same in every process."""
    logits = torch.zeros(len(source), len(labels), dtype=torch.float64)

    def compute(rows: np.ndarray) -> Tensor:
        batch = pack(source, rows, backbone)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return head(hidden, batch.layout.ends, batch.last).cpu().double()

    for rows, found in in_batches(source.lengths, compute, backbone, budget=budget, world=world, progress=progress):
        logits[torch.from_numpy(rows)] = found
    world.add([logits])
    return probabilities(logits, labels.multi)


def probabilities(logits: Tensor, multi: bool) -> np.ndarray:
    """Probabilities (N, C) of logits (N, C), in their dtype: sigmoid if `multi`, else softmax."""
    return (logits.sigmoid() if multi else logits.softmax(dim=1)).numpy()


def save_head(module: nn.Module, folder: Path) -> None:
    """Write the head's weights to head.safetensors."""
    write_tensors(
        folder / "head.safetensors",
        {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()},
    )


def load_head(module: nn.Module, folder: Path) -> None:
    """Load head.safetensors into a head. Raises ArtifactError if it does not fit."""
    path = folder / "head.safetensors"
    try:
        module.load_state_dict({name: torch.from_numpy(value) for name, value in read_tensors(path).items()})
    except RuntimeError as error:
        raise ArtifactError(f"{path}: damaged, or not of this run ({str(error).splitlines()[0]}); fit again") from error


def differentiable_head(backbone: Backbone, head: Head, encoded: Encoded, text: str, long: Long) -> Differentiable:
    """One text, tokenised as `encoded`, through backbone and head. long: how long texts were truncated."""

    def forward(embeddings: Tensor) -> Tensor:
        layout, last = copies(backbone, encoded, len(embeddings), causal=backbone.causal)
        with backbone.autocast():
            hidden = backbone.hidden(flat(embeddings, backbone), layout)
        return head(hidden, layout.ends, last)

    characters = spans(backbone, text, encoded, keep=long.keep, overlap=long.overlap)
    return Differentiable(backbone, encoded.ids[0], characters, forward, len(encoded.ids[0]))
