"""The baseline of the paper: a BERT-style encoder with a head, every weight of it trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lasttoken.config.methods import Encoder
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError
from lasttoken.fitting.head import fit_head
from lasttoken.infer.differentiable import Differentiable
from lasttoken.infer.head import differentiable_head, head_probs, load_head, save_head
from lasttoken.infer.portable import Portable, portable
from lasttoken.infer.reading import read_texts
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.model.backbone import Backbone
from lasttoken.model.base_model import in_precision, tell_if_slower
from lasttoken.model.device import choose_device
from lasttoken.model.load import Source
from lasttoken.model.load import load as load_backbone
from lasttoken.model.pooling import Head
from lasttoken.model.quiet import quiet
from lasttoken.record.artifact import read_settings, write_settings
from lasttoken.seed import derive
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.state import TrainState

NAMES = {"config.json": "encoder.json", "model.safetensors": "encoder.safetensors"}  # transformers' and ours


@dataclass(frozen=True, eq=False)
class EncoderModel:
    """A trained encoder and its head: texts -> probabilities."""

    config: Encoder
    labels: LabelSpace
    backbone: Backbone
    head: Head

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64, row order kept."""
        return self.predict_encoded(self.encode(texts), progress)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts, as the model reads them."""
        return read_texts(self.backbone, self.config, texts)

    def predict_encoded(self, encoded: Encoded, progress: Progress = unheard) -> Said:
        """`predict_proba` of encoded texts."""
        budget = self.config.train.budget
        probs = head_probs(self.backbone, self.head, encoded, self.labels, budget=budget, progress=progress)
        return Said.of(probs, encoded)

    @property
    def on_accelerator(self) -> bool:
        """Whether the model runs beside the CPU."""
        return self.backbone.device.type != "cpu"

    @property
    def has_gradients(self) -> bool:
        """Whether the tokenizer gives the character offsets of its tokens."""
        return bool(self.backbone.tokenizer.is_fast)

    def differentiable(self, text: str) -> Differentiable:
        """The logits of one text as a function of its embeddings."""
        encoded = read_texts(self.backbone, self.config, [text])
        return differentiable_head(self.backbone, self.head, encoded, text, self.config.long)

    def portable(self) -> Portable:
        """The merged model and the head as plain torch."""
        pool = self.head.pool
        return portable(self.backbone, self.config, self.head.layers, pooling=pool.kind, query=pool.query)

    def save(self, folder: Path) -> None:
        """method.json, head.safetensors, and encoder/ with weights, config and tokenizer.

        Weights and config have names of our own: under those of transformers, it would load the encoder as a classifier with a
        head drawn at random. `lasttoken export --to hf` writes what it may load.
        """
        write_settings(folder, self.config.model_copy(update={"precision": self.backbone.precision}), self.labels)
        save_head(self.head, folder)
        with quiet():
            self.backbone.whole.save_pretrained(folder / "encoder", max_shard_size="1TB")
        self.backbone.tokenizer.save_pretrained(folder / "encoder")
        for theirs, ours in NAMES.items():
            (folder / "encoder" / theirs).rename(folder / "encoder" / ours)


def fit(
    config: Encoder,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int,
    device: str,
    journal: Journal,
    state: TrainState | None = None,
) -> Fitted:
    """The encoder trained on `train`, with the weights that were best on `valid`."""
    if config.train.shard:
        raise ConfigError(["train.shard: splits frozen weights, and encoder trains every weight; leave it out"])
    backbone, head = build(config, config.model, train.labels, choose_device(device), seed)
    for note in backbone.notes:
        journal.note(note)
    backbone.whole.requires_grad_(True)
    trained = fit_head(backbone, head, (train, valid), config, seed=seed, journal=journal, state=state)
    return Fitted(EncoderModel(config, train.labels, backbone, head), trained.cost, trained.steps, trained.end)


def load(folder: Path, *, device: str, precision: str | None = None) -> EncoderModel:
    """The model that `save` wrote."""
    config, labels, _ = read_settings(folder)
    place = choose_device(device)
    config = in_precision(config, precision, place)
    with readable(folder / "encoder") as encoder:
        backbone, head = build(config, str(encoder), labels, place, seed=0)
    tell_if_slower(backbone, precision)
    load_head(head, folder)
    return EncoderModel(config, labels, backbone, head)


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """A folder of links, by the names that transformers knows, to what `save` wrote; the folder itself of runs of before."""
    if not (folder / NAMES["config.json"]).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        theirs = {ours: name for name, ours in NAMES.items()}
        for path in folder.iterdir():
            (Path(place) / theirs.get(path.name, path.name)).symlink_to(path.absolute())
        yield Path(place)


def build(config: Encoder, model: str, labels: LabelSpace, device: torch.device, seed: int) -> tuple[Backbone, Head]:
    """The encoder, weights in float32 (a sum of many small updates is lost in bfloat16), and a fresh head."""
    revision = config.revision if model == config.model else None
    backbone = load_backbone(
        Source(model, revision, config.trust_remote_code),
        kind="encoder",
        device=device,
        precision=config.precision,
        weights=torch.float32,
    )
    torch.manual_seed(derive(seed, "head"))
    return backbone, Head(backbone.width, len(labels), pooling=config.pooling, windows=config.long.combine).to(
        device
    ).eval()
