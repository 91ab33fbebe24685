"""A linear head alone, on the frozen model's vectors: what is left of a method when only its loss can differ.

The vectors are those that a head of `embedding` reads, from the cache that `probe` fills, so that a second loss costs
seconds. L-BFGS finds the best head of each loss: there is no order of rows and no seed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from lasttoken.config.methods import Probe
from lasttoken.config.parse import parse
from lasttoken.data.dataset import Splits
from lasttoken.fitting.warm_start import fit_heads
from lasttoken.infer.head import probabilities
from lasttoken.journal import Journal
from lasttoken.methods.probe import Reader, build, cached
from lasttoken.train.loss import make_loss

OF_THE_LOSS = ("loss", "class_weights", "gamma")


def fit_and_predict(
    settings: dict[str, Any], splits: Splits, journal: Journal
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(probabilities of validation and of test, seconds of fitting, of predicting: of the vectors and the head alone)."""
    of_loss = {name: settings[name] for name in OF_THE_LOSS if name in settings}
    rest = {name: value for name, value in settings.items() if name not in OF_THE_LOSS}
    config = parse(Probe, {**rest, "method": "probe"})
    reader = Reader(config, build(config, "auto"), None)
    layers = list(range(reader.backbone.depth + 1))  # all, as `probe` with layer = auto asks for: one cache for both
    parts, seconds = {}, {}
    for name, part in (("train", splits.train), ("valid", splits.valid), ("test", splits.test)):
        found, seconds[name] = cached(name, reader, part.texts, layers, journal)
        parts[name] = torch.from_numpy(np.array(found[-1]))  # (N, H)
    began = time.perf_counter()
    loss = make_loss(
        of_loss.get("loss", "cross_entropy"),
        splits.train.targets,
        len(splits.labels),
        gamma=of_loss.get("gamma", 2.0),
        balanced=of_loss.get("class_weights") == "balanced",
        smoothing=0.0,
        device=torch.device("cpu"),
    )
    asked, tested = parts["valid"].clone(), parts["test"]
    head, _ = fit_heads(parts["train"], parts["valid"], (splits.train, splits.valid), loss)
    spent = time.perf_counter() - began + seconds["train"] + seconds["valid"]
    said = [(vectors @ head.weight.T + head.bias).double() for vectors in (asked, tested)]
    valid, test = (probabilities(logits, splits.labels.multi) for logits in said)
    return valid, test, spent, max(seconds["test"], 1e-9)
