"""Training of a backbone with a classification head, shared by `embedding` and `encoder`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from lasttoken.config.methods import Embedding, Encoder
from lasttoken.data.dataset import Dataset
from lasttoken.fitting.fit import Learner, Trained, fit_weights, validation_metric
from lasttoken.fitting.warm_start import FEW, start_head
from lasttoken.infer.batches import Source, pack
from lasttoken.infer.frozen_blocks import trunk_states
from lasttoken.infer.head import head_probs
from lasttoken.infer.reading import read_texts
from lasttoken.journal import Journal
from lasttoken.model.backbone import Backbone
from lasttoken.model.base_model import describe_base
from lasttoken.model.device import put
from lasttoken.model.lora import merged
from lasttoken.model.pooling import Head
from lasttoken.model.upper_blocks import above
from lasttoken.model.vocabulary import name_rows
from lasttoken.text.batch import MicroBatch
from lasttoken.train.distributed import join
from lasttoken.train.loss import make_loss
from lasttoken.train.state import TrainState


def fit_head(
    backbone: Backbone,
    head: Head,
    data: tuple[Dataset, Dataset],
    config: Embedding | Encoder,
    *,
    seed: int,
    journal: Journal,
    state: TrainState | None = None,
) -> Trained:
    """Train the trainable weights of backbone and head, in place, with the loss in `config`.

    data: (train, validation). state: that of a training to resume.
    """
    (train, valid), settings, world = data, config.train, join(backbone.device)
    validation_metric(settings.metric, valid)  # fail before the texts are tokenised
    learner, (train_source, valid_source), before = sources(backbone, data, config, journal)
    loss = make_loss(
        config.loss,
        train.targets,
        len(train.labels),
        gamma=config.gamma,
        balanced=config.class_weights == "balanced",
        smoothing=config.label_smoothing,
        device=backbone.device,
    )
    warm, begin = config.head_start == "probe", None
    if warm and (state is None or not state.update):
        few = (config.head_init, config.pooling) == ("auto", "last") and len(train) < FEW * len(train.labels)
        seconds, begin = start_head(
            head,
            learner,
            ((train_source, train), (valid_source, valid)),
            loss,
            names=name_rows(backbone, config.revision, train.labels.names) if few else None,
            budget=settings.budget,
            world=world,
            journal=journal,
        )
        before += seconds
        if config.footprint().trains == "head":  # nothing below it is to learn
            begin = None

    def loss_and_count(micro: MicroBatch) -> tuple[Tensor, float]:
        batch = pack(train_source, micro.rows, learner)
        with learner.autocast():
            hidden = learner.hidden(batch.inputs, batch.layout)
        targets = put(train.targets[micro.rows], backbone.device)
        return loss(head(hidden, batch.layout.ends, batch.last), targets)

    def predict() -> np.ndarray:
        with merged(backbone.whole, config.merge):
            return head_probs(
                learner,
                head,
                valid_source,
                train.labels,
                budget=settings.budget,
                world=world,
                progress=journal.task("validating"),
            )

    trained = fit_weights(
        Learner(
            [backbone.whole, head],
            loss_and_count,
            train_source.lengths,
            valid,
            predict,
            backbone.width,
            scored_first=warm,
            begin=begin,
            sharded=backbone.sharded,
        ),
        settings,
        seed=seed,
        world=world,
        journal=journal,
        state=state,
    )
    return replace(trained, cost=replace(trained.cost, seconds=trained.cost.seconds + before))


def sources(
    backbone: Backbone, data: tuple[Dataset, Dataset], config: Embedding | Encoder, journal: Journal
) -> tuple[Backbone, tuple[Source, Source], float]:
    """(backbone to train, its (train, validation) inputs, seconds spent in the frozen blocks).

    With `config.trunk` frozen blocks, the backbone is the blocks above them and its inputs are cached hidden states.
    """
    journal.progress("reading the texts", 0, 0)
    read = tuple(read_texts(backbone, config, part.texts) for part in data)
    if cut := read[0].truncation():
        journal.note(f"train: {cut}")
    if not config.trunk:
        return backbone, (read[0], read[1]), 0.0
    base = describe_base(config.model, config.revision, config.trust_remote_code)
    learner = above(backbone, config.trunk)
    kept = [
        trunk_states(
            backbone, encoded, config.trunk, base=base, texts=part.texts, budget=config.train.budget, journal=journal
        )
        for encoded, part in zip(read, data, strict=True)
    ]
    return learner, (kept[0], kept[1]), sum(states.seconds for states in kept)
