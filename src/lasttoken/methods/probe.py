"""Probe: logistic regression on the pooled hidden states of one layer of a frozen model.

One forward pass computes the features of every layer. They are cached on disk under a digest of all they depend on, so
choosing a layer, or fitting again on the same texts, needs no further pass. The last layer of a sentence encoder is
read as its embedding: pooled and normalised as the files beside the model say.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lasttoken.config.methods import Probe
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.fitting.layer_choice import best_layer
from lasttoken.fitting.regression import Regression, best_strength, fold_of, held_out_losses, solve
from lasttoken.infer.batches import in_batches, pack
from lasttoken.infer.differentiable import Differentiable, copies, flat, spans
from lasttoken.infer.disk_cache import cached_array, digest
from lasttoken.infer.portable import Portable, portable
from lasttoken.infer.reading import read_texts
from lasttoken.journal import LOGGER, Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.model.adapter import parameter_bytes, total_parameters
from lasttoken.model.backbone import Backbone
from lasttoken.model.base_model import describe_base, in_precision, on_base, tell_if_slower
from lasttoken.model.device import choose_device
from lasttoken.model.load import Source, quantisation
from lasttoken.model.load import load as load_backbone
from lasttoken.model.pooling import Pool, Pooling
from lasttoken.model.sentence import SentenceEncoder, sentence_encoder
from lasttoken.model.shared import Shared
from lasttoken.model.static import is_static, load_static, static_encoder
from lasttoken.record.artifact import read_settings, read_tensors, write_settings, write_tensors
from lasttoken.seed import generator
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.outcome import Cost
from lasttoken.train.state import TrainState

FOLDS = 3  # of the comparison of layers
COMPARED = 3000  # training rows that layers are compared on, at most
CLEAR = 3.0  # standard errors by which a layer must beat the encoder's own embedding; high, as the best of several is compared


@dataclass(frozen=True, eq=False)
class Reader:
    """A frozen model, and how texts become vectors at its layers."""

    config: Probe  # its pooling and max_length are those that are used
    backbone: Backbone
    encoder: SentenceEncoder | None  # how the model's own files make an embedding; None: they do not say

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts."""
        prompt = "" if self.encoder is None else self.encoder.prompt
        return read_texts(self.backbone, self.config, [prompt + text for text in texts] if prompt else texts)

    def own(self, layer: int) -> bool:
        """Whether that layer is read as the encoder's own embedding."""
        return self.encoder is not None and layer == self.backbone.depth

    def vectors(self, pooled: np.ndarray, layer: int) -> np.ndarray:
        """What the regression reads (N, H') of pooled hidden states (N, H)."""
        pooled = np.array(pooled)  # memory-mapped so far
        return self.encoder.finish(pooled) if self.encoder is not None and self.own(layer) else pooled


@dataclass(frozen=True, eq=False)
class ProbeModel:
    """A frozen model, the layer it is read at, and the regression on top: texts -> probabilities."""

    config: Probe
    labels: LabelSpace
    backbone: Backbone
    encoder: SentenceEncoder | None
    layer: int
    mean: np.ndarray  # (H',) float32, of the training features
    scale: np.ndarray  # (H',) float32, their standard deviation
    regression: Regression

    @property
    def reader(self) -> Reader:
        """How it reads texts."""
        return Reader(self.config, self.backbone, self.encoder)

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64, row order kept."""
        return self.predict_encoded(self.encode(texts), progress)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts, as the model reads them."""
        return self.reader.encode(texts)

    def predict_encoded(self, encoded: Encoded, progress: Progress = unheard) -> Said:
        """`predict_proba` of encoded texts."""
        features = np.zeros((1, len(encoded), self.backbone.width), dtype=np.float32)
        watched = Journal(LOGGER.warning, lambda _, *seen: progress(*seen))
        fill_pooled(features, self.backbone, encoded, self.config, [self.layer], watched)
        vectors = self.reader.vectors(features[0], self.layer)
        return Said.of(self.regression((vectors - self.mean) / self.scale), encoded)

    @property
    def on_accelerator(self) -> bool:
        """Whether the model runs beside the CPU."""
        return self.backbone.device.type != "cpu"

    @property
    def has_gradients(self) -> bool:
        """Whether every token that is read has a place in the text: none of a prompt, and none left out."""
        prompt = self.encoder is not None and self.encoder.prompt
        return bool(self.backbone.tokenizer.is_fast) and not prompt and self.backbone.depth > 0

    def differentiable(self, text: str) -> Differentiable:
        """The logits of one text as a function of its embeddings, through the backbone and the regression."""
        backbone, config = self.backbone, self.config
        encoder = self.encoder if self.reader.own(self.layer) else None
        finish = torch.nn.Identity() if encoder is None else encoder.layers_on(backbone.device)
        encoded = self.reader.encode([text])
        pool, windows = Pool(named(config), backbone.width), Pool(config.long.combine, backbone.width)
        mean, scale, weight, bias = (
            torch.from_numpy(np.asarray(part, dtype=np.float32)).to(backbone.device)
            for part in (self.mean, self.scale, self.regression.weight, self.regression.bias)
        )

        def forward(embeddings: Tensor) -> Tensor:
            causal = backbone.causal and not config.bidirectional
            layout, last = copies(backbone, encoded, len(embeddings), causal=causal)
            with backbone.autocast():
                states = backbone.hidden_at([self.layer], flat(embeddings, backbone), layout)[0]
            vectors = pool(states, layout.ends)
            vectors = finish(vectors if last is None else windows(vectors, last))
            return (vectors - mean) / scale @ weight.T + bias

        characters = spans(backbone, text, encoded, keep=config.long.keep, overlap=config.long.overlap)
        return Differentiable(backbone, encoded.ids[0], characters, forward, len(encoded.ids[0]))

    def portable(self) -> Portable:
        """The frozen model, and standardisation and regression as one linear layer. Raises ConfigError on a static model."""
        if not self.backbone.depth:
            raise ConfigError(
                [f"{self.config.model} is a table of vectors, which needs no other runtime; use the run itself"]
            )
        if self.config.bidirectional:
            raise ConfigError(
                ["bidirectional: no runtime drops the causal mask of this model; train without it to export"]
            )
        own = self.reader.own(self.layer)
        weight = torch.from_numpy(self.regression.weight / self.scale)  # (C, H')
        final = torch.nn.Linear(weight.shape[1], len(weight))
        with torch.no_grad():
            final.weight.copy_(weight)
            final.bias.copy_(torch.from_numpy(self.regression.bias) - weight @ torch.from_numpy(self.mean))
        finish = self.encoder.layers if own and self.encoder is not None else torch.nn.Identity()
        return portable(
            self.backbone,
            self.config,
            torch.nn.Sequential(finish, final),
            pooling=named(self.config),
            layer=None if self.layer == self.backbone.depth else self.layer,
            prefix="" if self.encoder is None else self.encoder.prompt,
        )

    def save(self, folder: Path) -> None:
        """Write method.json and the regression's tensors; the backbone is referenced by name, not copied."""
        c = self.config.model_copy(update={"precision": self.backbone.precision})
        base = describe_base(c.model, c.revision, c.trust_remote_code)
        encoder = None if self.encoder is None else self.encoder.digest
        write_settings(folder, c, self.labels, base=base, layer=self.layer, encoder=encoder)
        moments = {"mean": self.mean, "scale": self.scale}
        write_tensors(folder / "head.safetensors", {**self.regression.tensors(), **moments})


def fit(
    config: Probe,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int,
    device: str,
    journal: Journal,
    state: TrainState | None = None,
) -> Fitted:
    """The regression on layer `config.layer`, or on that of `choose_layer`. `valid` and `state` are unused."""
    config, encoder = settle(config)
    place = config.layer if isinstance(config.layer, int) else None
    reader = Reader(config, build(config, device, blocks=None if place is None else place + 1), encoder)
    if config.bidirectional and reader.backbone.padded:
        raise ConfigError(
            [f"bidirectional: {config.model} cannot be packed, and its own attention is causal; leave it off"]
        )
    for note in reader.backbone.notes:
        journal.note(note)
    if config.quantize == "nf4":
        journal.note(quantisation(reader.backbone))
    known = check_layer(config, reader.backbone)
    layers = known if config.layer == "auto" else [known[-1] if place is None else place]
    features, spent = cached("train", reader, train.texts, layers, journal)  # (layers, N, H)
    began = time.perf_counter()
    model = fit_layers(reader, layers, features, train, seed, journal)
    cost = Cost(
        model.regression.weight.size + model.regression.bias.size,
        total_parameters(reader.backbone.module),
        parameter_bytes(reader.backbone.module),
        spent + time.perf_counter() - began,
    )
    journal.note(f"{told(reader, model.layer)}, {reader.config.pooling} pooling, the backbone not trained")
    return Fitted(model, cost)


def settle(config: Probe) -> tuple[Probe, SentenceEncoder | None]:
    """(the config with the pooling and the limit that are used; the model's own way to an embedding, if it has one).

    The model's files are asked where the pooling is left to them. Raises ModelError if they say what is not supported.
    """
    if config.pooling != "auto":
        return config, None
    source = source_of(config)
    encoder = static_encoder(source) if is_static(source) else sentence_encoder(source)
    if encoder is None or config.bidirectional:
        return config.model_copy(update={"pooling": "mean"}), None
    limit = min(config.max_length, encoder.limit or config.max_length)
    return config.model_copy(update={"pooling": encoder.pooling, "max_length": limit}), encoder


def check_layer(config: Probe, backbone: Backbone) -> list[int]:
    """The layers that can be read. Raises ConfigError where `config.layer` is none of them."""
    known = backbone.layers
    if isinstance(config.layer, int) and config.layer not in known:
        several = known == list(range(len(known))) and len(known) > 1
        named = f"0 to {known[-1]}" if several else ", ".join(map(str, known))
        raise ConfigError([f"layer: {config.layer} was chosen, but {config.model} has layers {named}"])
    return known


def told(reader: Reader, layer: int) -> str:
    """The layer in words."""
    depth = reader.backbone.depth
    if reader.own(layer):
        return "the encoder's own embedding"
    return f"layer {layer}" if isinstance(reader.config.layer, int) else f"layer {layer} of {depth}"


def fit_layers(
    reader: Reader, layers: Sequence[int], features: np.ndarray, train: Dataset, seed: int, journal: Journal
) -> ProbeModel:
    """The model on the best of `layers`, its C chosen by cross-validation. features: (layers, N, H)."""
    classes, balanced = len(train.labels), reader.config.class_weights == "balanced"

    def tuned(place: int) -> float:
        vectors = standardised(reader.vectors(features[place], layers[place]))[0]
        return best_strength(
            vectors,
            train.targets,
            classes,
            strengths=reader.config.regularisation,
            balanced=balanced,
            seed=seed,
            journal=journal,
        )

    best = last = len(layers) - 1
    strength = tuned(last)
    if len(layers) > 1:
        best = choose_layer(reader, layers, features, train, strength, seed, journal)
        strength = strength if best == last else tuned(best)
    vectors, mean, scale = standardised(reader.vectors(features[best], layers[best]))
    regression = solve(vectors, train.targets, classes, strength, balanced, seed)
    return ProbeModel(
        reader.config, train.labels, reader.backbone, reader.encoder, layers[best], mean, scale, regression
    )


def choose_layer(
    reader: Reader,
    layers: Sequence[int],
    features: np.ndarray,
    train: Dataset,
    strength: float,
    seed: int,
    journal: Journal,
) -> int:
    """The place in `layers` of the lowest cross-validated log-loss, at the C that is best for the last of them.

    Not every layer of a deep model is tried, and many rows are a sample (fitting/layer_choice.py).
    An encoder's own embedding is left only for a layer that is better by more than CLEAR standard errors of the rows'
    differences: it is what the model was trained for.
    """
    rows = np.sort(generator(seed, "rows that layers are compared on").permutation(len(train))[:COMPARED])
    targets, balanced = train.targets[rows], reader.config.class_weights == "balanced"
    parts, last, tried = fold_of(targets, FOLDS, seed), len(layers) - 1, itertools.count(1)

    def losses_of(place: int) -> np.ndarray:
        journal.progress("trying layers", next(tried), 0)
        vectors = standardised(reader.vectors(features[place][rows], layers[place]))[0]
        return held_out_losses(vectors, targets, len(train.labels), parts, strength, balanced, seed)

    best, losses = best_layer(len(layers), losses_of)
    gain = losses[last] - losses[best]  # (N,)
    if reader.own(layers[last]) and gain.mean() <= CLEAR * gain.std() / len(gain) ** 0.5:
        best = last
    of_rows = f" on {len(rows)} of {len(train)} rows" if len(rows) < len(train) else ""
    found = ", ".join(f"{layers[place]}: {loss.mean():.3f}" for place, loss in losses.items())
    journal.note(f"{FOLDS}-fold log-loss by layer{of_rows} {found}")
    return best


def standardised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vectors (N, H) of mean 0 and deviation 1 in every column, the mean (H,), the deviation (H,))."""
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    return (vectors - mean) / scale, mean, scale


def load(
    folder: Path,
    *,
    device: str,
    model: str | None = None,
    precision: str | None = None,
    shared: Shared | None = None,
) -> ProbeModel:
    """The model that `save` wrote. model: another folder of its base model. shared: models that other runs have loaded.

    Raises ArtifactError where the files that say how the base model makes an embedding have changed.
    """
    config, labels, rest = read_settings(folder)
    config = in_precision(on_base(config, folder, rest, model=model), precision, choose_device(device))
    encoder = None
    if rest.get("encoder"):
        encoder = settle(config.model_copy(update={"pooling": "auto"}))[1]
        if encoder is None or encoder.digest != rest["encoder"]:
            raise ArtifactError(
                f"{config.model}: its files of sentence-transformers are others than those that {folder} was trained with; "
                "restore them, or fit again"
            )
    tensors = read_tensors(folder / "head.safetensors")
    mean, scale = tensors.pop("mean"), tensors.pop("scale")
    loads = load_backbone if shared is None else shared.load
    backbone = build(config, device, blocks=rest["layer"] + 1, loads=loads)
    regression = Regression.of(tensors, labels.multi)
    if backbone.depth:  # a static model has no products
        tell_if_slower(backbone, precision)
    return ProbeModel(config, labels, backbone, encoder, rest["layer"], mean, scale, regression)


def named(config: Probe) -> Pooling:
    """The pooling of a settled config."""
    return "mean" if config.pooling == "auto" else config.pooling


def source_of(config: Probe) -> Source:
    """Where the model comes from."""
    return Source(config.model, config.revision, config.trust_remote_code)


def build(
    config: Probe, device: str, blocks: int | None = None, loads: Callable[..., Backbone] = load_backbone
) -> Backbone:
    """The frozen backbone: a decoder, an encoder or a static model. What enters a block needs that block.

    blocks: how many of its lowest blocks are loaded; None: all.
    """
    place, source = choose_device(device), source_of(config)
    if is_static(source):
        if config.long.keep == "windows":
            raise ConfigError(["long.keep: a static model reads texts of any length; raise max_length instead"])
        return load_static(source, place)
    return loads(
        replace(source, blocks=blocks),
        kind="any",
        device=place,
        precision=config.precision,
        quantize=config.quantize,
    )


def fill_pooled(
    features: np.ndarray,
    backbone: Backbone,
    encoded: Encoded,
    config: Probe,
    layers: Sequence[int],
    journal: Journal | None = None,
) -> None:
    """Write the pooled hidden states of each text at `layers` into `features` (layers, N, H)."""
    pool, windows = Pool(named(config), backbone.width), Pool(config.long.combine, backbone.width)
    causal = False if config.bidirectional else None
    journal = Journal(LOGGER.warning) if journal is None else journal

    def compute(rows: np.ndarray) -> np.ndarray:
        batch = pack(encoded, rows, backbone, causal=causal)
        with backbone.autocast():
            found = backbone.hidden_at(layers, batch.inputs, batch.layout)
        vectors = [pool(states, batch.layout.ends) for states in found]  # (S, H) each
        if batch.last is not None:
            vectors = [windows(of_windows, batch.last) for of_windows in vectors]
        return np.stack([vector.cpu().numpy() for vector in vectors])

    progress = journal.task("features of the frozen model")
    for rows, found in in_batches(
        encoded.lengths, compute, backbone, budget=config.budget, note=journal.note, progress=progress
    ):
        features[:, rows] = found


def cached(
    name: str, reader: Reader, texts: Sequence[str], layers: Sequence[int], journal: Journal
) -> tuple[np.ndarray, float]:
    """(pooled hidden states (layers, N, H) of the split `name`, memory-mapped from the disk cache; seconds spent)."""
    encoded = reader.encode(texts)  # also for cached features, to report truncation
    if cut := encoded.truncation():
        journal.note(f"{name}: {cut}")
    backbone, config = reader.backbone, reader.config
    found = cached_array(
        feature_digest(reader, texts, layers),
        (len(layers), len(texts), backbone.width),
        "F32",
        lambda features: fill_pooled(features, backbone, encoded, config, layers, journal),
    )
    if found.origin:
        journal.note(found.origin)
    return found.array, found.seconds


def feature_digest(reader: Reader, texts: Sequence[str], layers: Sequence[int]) -> str:
    """The cache key: the model's identity, precision, layers, pooling, limit, prompt, and the texts."""
    backbone, config = reader.backbone, reader.config
    kept = ("model", "revision", "quantize", "pooling", "bidirectional", "max_length", "budget")
    values = {name: getattr(config, name) for name in kept} | {"long": config.long.model_dump()}
    values |= {"layers": list(layers), "dtype": str(backbone.compute), "device": backbone.device.type}
    values |= {"prompt": "" if reader.encoder is None else reader.encoder.prompt}
    values["base"] = describe_base(config.model, config.revision, config.trust_remote_code)
    return digest(values, texts)
