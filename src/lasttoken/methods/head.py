"""A head on packed rows: how `embedding` and `encoder` learn and predict once their backbone stands."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lasttoken.config import Embedding, Encoder
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.fitting import fit_weights
from lasttoken.methods.packed import pack, packed_batches
from lasttoken.model.backbone import Backbone
from lasttoken.model.lora import merged
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import Encoded, encode
from lasttoken.train.loss import balanced_weights, class_loss, label_loss
from lasttoken.train.world import ALONE, World


def fit_head(
    backbone: Backbone,
    head: Head,
    train: Dataset,
    valid: Dataset,
    *,
    config: Embedding | Encoder,
    seed: int,
    world: World,
    journal: Journal,
) -> None:
    """Train whatever of backbone and head trains, in place, by cross-entropy (one label a row) or binary cross-entropy."""
    device, settings = backbone.device, config.train
    limit = token_limit(config, backbone)
    rows = encode(backbone.tokenizer, train.texts, limit=limit)
    asked = encode(backbone.tokenizer, valid.texts, limit=limit)
    if cut := rows.truncation():
        journal.note(f"train: {cut}")
    weights = (
        balanced_weights(train.targets, len(train.labels)).to(device) if config.class_weights == "balanced" else None
    )
    loss = label_loss if train.labels.multi else class_loss

    def loss_and_count(chosen: np.ndarray) -> tuple[Tensor, float]:
        batch = pack(rows, chosen, backbone)
        with backbone.autocast():
            hidden = backbone.hidden(batch.tokens, batch.layout)
        targets = torch.from_numpy(train.targets[chosen]).to(device)
        return loss(head(hidden, batch.layout.ends), targets, weights=weights, smoothing=config.label_smoothing)

    how = config.merge if isinstance(config, Embedding) else "off"

    def predict() -> np.ndarray:
        with merged(backbone.whole, how):
            return head_probs(backbone, head, asked, train.labels, budget=settings.budget, world=world)

    fit_weights(
        [backbone.whole, head],
        loss_and_count,
        rows.lengths,
        valid,
        predict,
        settings=settings,
        width=backbone.width,
        seed=seed,
        world=world,
        journal=journal,
    )


def token_limit(config: Embedding | Encoder, backbone: Backbone) -> int:
    """Tokens a text may have: what was asked for, within the model's window."""
    return min(config.max_length, backbone.window)


@torch.inference_mode()
def head_probs(
    backbone: Backbone, head: Head, encoded: Encoded, labels: LabelSpace, *, budget: int, world: World = ALONE
) -> np.ndarray:
    """Probabilities (N, C) float64 in the order of `encoded`, the same in every process."""
    logits = torch.zeros(len(encoded), len(labels), dtype=torch.float64)
    for rows, batch in packed_batches(encoded, backbone, budget=budget, world=world):
        with backbone.autocast():
            hidden = backbone.hidden(batch.tokens, batch.layout)
        logits[torch.from_numpy(rows)] = head(hidden, batch.layout.ends).cpu().double()
    world.add([logits])
    return (logits.sigmoid() if labels.multi else logits.softmax(dim=1)).numpy()
