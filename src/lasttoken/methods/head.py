"""A head on packed rows: how `embedding` and `encoder` learn and predict once their backbone stands."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lasttoken.config import Embedding, Encoder
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.fitting import fit_weights, validation_metric
from lasttoken.methods.packed import Source, in_batches, pack
from lasttoken.methods.pretrained import describe_base
from lasttoken.methods.reading import read_texts
from lasttoken.methods.start import start_head
from lasttoken.methods.trunk import trunk_states
from lasttoken.model.backbone import Backbone
from lasttoken.model.depth import above
from lasttoken.model.lora import Merge, merged
from lasttoken.model.pooling import Head
from lasttoken.train.loss import make_loss
from lasttoken.train.world import ALONE, World


def fit_head(
    backbone: Backbone,
    head: Head,
    train: Dataset,
    valid: Dataset,
    *,
    config: Embedding | Encoder,
    trunk: int = 0,
    merge: Merge = "off",
    seed: int,
    world: World,
    journal: Journal,
) -> None:
    """Train whatever of backbone and head trains, in place, by the loss that the config names.

    trunk: blocks at the bottom that nothing trains, whose output is kept. merge: the adapter, to predict validation.
    """
    device, settings = backbone.device, config.train
    validation_metric(settings.metric, valid)  # a name that will not do is told before the texts are read
    parts = [read_texts(backbone, config, data.texts) for data in (train, valid)]
    if cut := parts[0].truncation():
        journal.note(f"train: {cut}")
    rows, asked = parts
    before = 0.0  # seconds that training takes before its first update
    learner = backbone  # what runs in training: all of the backbone, or the blocks above the frozen trunk
    if trunk:
        learner, budget = above(backbone, trunk), settings.budget
        base = describe_base(config.model, config.revision, config.trust_remote_code)
        kept = [
            trunk_states(backbone, encoded, trunk, base=base, texts=data.texts, budget=budget, journal=journal)
            for encoded, data in zip(parts, (train, valid), strict=True)
        ]
        rows, asked = kept
        before += sum(states.seconds for states in kept)
    loss = make_loss(
        config.loss,
        train.targets,
        len(train.labels),
        gamma=config.gamma,
        balanced=config.class_weights == "balanced",
        smoothing=config.label_smoothing,
        device=device,
    )

    if config.head_start == "probe":
        before += start_head(
            head,
            learner,
            (rows, asked),
            (train, valid),
            loss,
            budget=settings.budget,
            world=world,
            journal=journal,
        )

    def loss_and_count(chosen: np.ndarray) -> tuple[Tensor, float]:
        batch = pack(rows, chosen, learner, pooling=head.pool.kind)
        with learner.autocast():
            hidden = learner.hidden(batch.inputs, batch.layout)
        targets = torch.from_numpy(train.targets[chosen]).to(device)
        return loss(head(hidden, batch.layout.ends, batch.last), targets)

    def predict() -> np.ndarray:
        with merged(backbone.whole, merge):
            return head_probs(learner, head, asked, train.labels, budget=settings.budget, world=world)

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
        from_start=config.head_start == "probe",
    )
    journal.facts["train_seconds"] += before


def head_probs(
    backbone: Backbone, head: Head, source: Source, labels: LabelSpace, *, budget: int, world: World = ALONE
) -> np.ndarray:
    """Probabilities (N, C) float64 in the order of `source`, the same in every process."""
    logits = torch.zeros(len(source), len(labels), dtype=torch.float64)

    def compute(rows: np.ndarray) -> Tensor:
        batch = pack(source, rows, backbone, pooling=head.pool.kind)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return head(hidden, batch.layout.ends, batch.last).cpu().double()

    for rows, found in in_batches(source.lengths, compute, budget=budget, device=backbone.device, world=world):
        logits[torch.from_numpy(rows)] = found
    world.add([logits])
    return probabilities(logits, labels.multi)


def probabilities(logits: Tensor, multi: bool) -> np.ndarray:
    """What a head's logits (N, C) say, (N, C) in their type: of each label by itself with `multi`, else of one of them."""
    return (logits.sigmoid() if multi else logits.softmax(dim=1)).numpy()
