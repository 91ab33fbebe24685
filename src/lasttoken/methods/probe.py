"""A frozen model, read at one layer: pooled hidden states under logistic regression.

Features of every layer are computed in one pass and kept in a cache by the digest of what they depend on, so that
choosing the layer, and every later fit on the same texts, costs no second pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lasttoken.config import Probe
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.journal import LOGGER, Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import read_settings, read_tensors, write_settings, write_tensors
from lasttoken.methods.packed import in_batches, pack
from lasttoken.methods.pretrained import describe_base, on_base
from lasttoken.methods.reading import read_texts
from lasttoken.methods.regression import Regression, fit_regression
from lasttoken.methods.store import digest, stored
from lasttoken.model.adapter import parameter_bytes, total_parameters
from lasttoken.model.backbone import Backbone, quantisation
from lasttoken.model.backbone import load as load_backbone
from lasttoken.model.depth import depth_of, tapped
from lasttoken.model.device import choose_device
from lasttoken.model.pooling import Pool
from lasttoken.text.tokenizer import Encoded


@dataclass(frozen=True, eq=False)
class ProbeModel:
    """A frozen backbone, the layer it is read at, and the regression on top: texts -> probabilities."""

    config: Probe
    labels: LabelSpace
    backbone: Backbone
    layer: int
    mean: np.ndarray  # (H,) float32, of the training features
    scale: np.ndarray  # (H,) float32, their standard deviation
    regression: Regression

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept."""
        features = pooled(self.backbone, texts, self.config, [self.layer], journal)[0]
        return self.regression((features - self.mean) / self.scale)

    def save(self, folder: Path) -> None:
        """method.json and the tensors of the regression; the backbone is named, not copied."""
        c = self.config
        base = describe_base(c.model, c.revision, c.trust_remote_code)
        write_settings(folder, c, self.labels, base=base, layer=self.layer)
        moments = {"mean": torch.from_numpy(self.mean), "scale": torch.from_numpy(self.scale)}
        write_tensors(folder / "head.safetensors", {**self.regression.tensors(), **moments})


def fit(config: Probe, train: Dataset, valid: Dataset, *, seed: int, device: str, journal: Journal) -> ProbeModel:
    """The regression on the layer that is asked for, or with `auto` on the one with the best macro-F1 on `valid`."""
    backbone = build(config, device, blocks=None if config.layer == "auto" else config.layer + 1)
    if config.quantize == "nf4":
        journal.note(quantisation(backbone))
    depth = check_layer(config, backbone)
    layers = list(range(depth + 1)) if config.layer == "auto" else [config.layer]
    seen, spent = cached("train", backbone, train.texts, config, layers, journal)  # (layers, N, H)
    asked, _ = cached("valid", backbone, valid.texts, config, layers, journal)
    began = time.perf_counter()
    model = choose_layer(config, backbone, layers, (seen, asked), (train, valid), seed, journal)
    journal.facts |= {
        "trainable_parameters": model.regression.weight.size + model.regression.bias.size,
        "total_parameters": total_parameters(backbone.module),
        "model_bytes": parameter_bytes(backbone.module),
        "train_seconds": spent + time.perf_counter() - began,
        "train_rows": len(train),
        "train_rows_per_second": None,
    }
    place = f"layer {model.layer} of {depth}" if config.layer == "auto" else f"layer {model.layer}"
    journal.note(f"{place}, {config.pooling} pooling, the backbone not trained")
    return model


def check_layer(config: Probe, backbone: Backbone) -> int:
    """The blocks that are loaded. Raises ConfigError where the layer that is asked for is not among them."""
    depth = depth_of(backbone)  # no fewer than there are, or than the layer needs
    if config.layer != "auto" and config.layer > depth:
        raise ConfigError([f"layer: {config.layer} asked for, but {config.model} has layers 0 to {depth}"])
    return depth


def choose_layer(
    config: Probe,
    backbone: Backbone,
    layers: Sequence[int],
    features: tuple[np.ndarray, np.ndarray],
    parts: tuple[Dataset, Dataset],
    seed: int,
    journal: Journal,
) -> ProbeModel:
    """The model on the best of `layers`: each is tried at the middle C, and C is tuned on the best only.

    features: (layers, N, H) of train and of validation.
    """
    (seen, asked), (train, valid) = features, parts
    best = 0
    if len(layers) > 1:
        middle = (sorted(config.regularisation)[len(config.regularisation) // 2],)
        scores = []
        for place, layer in enumerate(layers):
            journal.progress("trying layers", place, len(layers))
            model = fit_layer(config, backbone, seen[place], layer, train, middle, seed, journal)
            probs = model.regression((asked[place] - model.mean) / model.scale)
            scores.append(METRICS["macro_f1"](valid.targets, probs))
        best = int(np.argmax(scores))
        tried = ", ".join(f"{layer}: {score:.3f}" for layer, score in zip(layers, scores, strict=True))
        journal.note(f"macro-F1 of validation by layer {tried}")
    return fit_layer(config, backbone, seen[best], layers[best], train, config.regularisation, seed, journal)


def fit_layer(
    config: Probe,
    backbone: Backbone,
    features: np.ndarray,
    layer: int,
    train: Dataset,
    strengths: Sequence[float],
    seed: int,
    journal: Journal,
) -> ProbeModel:
    """The model on the features (N, H) of one layer, standardised by their own mean and deviation."""
    features = np.array(features)  # from disk
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    regression = fit_regression(
        (features - mean) / scale,
        train.targets,
        len(train.labels),
        strengths=strengths,
        balanced=config.class_weights == "balanced",
        seed=seed,
        journal=journal,
    )
    return ProbeModel(config, train.labels, backbone, layer, mean, scale, regression)


def load(folder: Path, *, device: str, model: str | None = None) -> ProbeModel:
    """The model that `save` wrote, its base model in the folder `model` where that is given."""
    config, labels, rest = read_settings(folder)
    config = on_base(config, folder, rest, model=model)
    tensors = read_tensors(folder / "head.safetensors")
    mean, scale = tensors.pop("mean").numpy(), tensors.pop("scale").numpy()
    return ProbeModel(
        config,
        labels,
        build(config, device, blocks=rest["layer"] + 1),
        rest["layer"],
        mean,
        scale,
        Regression.of(tensors, labels.multi),
    )


def build(config: Probe, device: str, blocks: int | None = None) -> Backbone:
    """The frozen backbone, a decoder or an encoder; of its blocks the lowest `blocks`, or all. What enters a block needs that block."""
    return load_backbone(
        config.model,
        kind="any",
        device=choose_device(device),
        quantize=config.quantize,
        blocks=blocks,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def pooled(
    backbone: Backbone, texts: Sequence[str], config: Probe, layers: Sequence[int], journal: Journal | None = None
) -> np.ndarray:
    """Pooled hidden states (layers, N, H) float32 of each text at `layers`, row order kept."""
    features = np.zeros((len(layers), len(texts), backbone.width), dtype=np.float32)
    fill_pooled(features, backbone, read_texts(backbone, config, texts, journal), config, layers, journal)
    return features


def fill_pooled(
    features: np.ndarray,
    backbone: Backbone,
    encoded: Encoded,
    config: Probe,
    layers: Sequence[int],
    journal: Journal | None,
) -> None:
    """Write the pooled hidden states of each text at `layers` into `features` (layers, N, H)."""
    pool, windows = Pool(config.pooling, backbone.width), Pool(config.long.combine, backbone.width)
    causal = False if config.bidirectional else None
    done = 0

    with tapped(backbone, layers) as run:

        def compute(rows: np.ndarray) -> np.ndarray:
            batch = pack(encoded, rows, backbone, pooling=config.pooling, causal=causal)
            with backbone.autocast():
                found = run(batch.inputs, batch.layout)
            vectors = [pool(states, batch.layout.ends) for states in found]  # (S, H) each
            if batch.last is not None:
                vectors = [windows(of_windows, batch.last) for of_windows in vectors]
            return np.stack([vector.cpu().numpy() for vector in vectors])

        for rows, found in in_batches(
            encoded.lengths,
            compute,
            budget=config.budget,
            device=backbone.device,
            note=LOGGER.warning if journal is None else journal.note,
        ):
            features[:, rows] = found
            done += len(rows)
            if journal is not None:
                journal.progress("features", done, len(encoded))


def cached(
    name: str, backbone: Backbone, texts: Sequence[str], config: Probe, layers: Sequence[int], journal: Journal
) -> tuple[np.ndarray, float]:
    """(`pooled` of the part `name`, the seconds it took): on disk, of which one layer at a time is read."""
    encoded = read_texts(backbone, config, texts)  # what was cut is told of features from the cache too
    if cut := encoded.truncation():
        journal.note(f"{name}: {cut}")
    found = stored(
        feature_digest(backbone, texts, config, layers),
        (len(layers), len(texts), backbone.width),
        "F32",
        lambda features: fill_pooled(features, backbone, encoded, config, layers, journal),
    )
    if found.origin:
        journal.note(found.origin)
    return found.array, found.seconds


def feature_digest(backbone: Backbone, texts: Sequence[str], config: Probe, layers: Sequence[int]) -> str:
    """The name of the features: the model's identity, precision, layers, pooling, limit, and the texts."""
    kept = ("model", "revision", "quantize", "pooling", "bidirectional", "max_length", "budget")
    values = {name: getattr(config, name) for name in kept} | {"long": config.long.model_dump()}
    values |= {"layers": list(layers), "dtype": str(backbone.compute), "device": backbone.device.type}
    values["base"] = describe_base(config.model, config.revision, config.trust_remote_code)
    return digest(values, texts)
