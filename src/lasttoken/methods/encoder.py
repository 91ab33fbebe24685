"""The baseline of the paper: a BERT-style encoder with a head, every weight of it trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lasttoken.config import Encoder
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import load_head, read_settings, write_settings, write_tensors
from lasttoken.methods.head import fit_head, head_probs
from lasttoken.methods.reading import read_texts
from lasttoken.model.backbone import Backbone
from lasttoken.model.backbone import load as load_backbone
from lasttoken.model.device import choose_device, choose_dtype
from lasttoken.model.pooling import Head
from lasttoken.seed import derive
from lasttoken.train.world import join


@dataclass(frozen=True, eq=False)
class EncoderModel:
    """A trained encoder and its head: texts -> probabilities."""

    config: Encoder
    labels: LabelSpace
    backbone: Backbone
    head: Head

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept."""
        encoded = read_texts(self.backbone, self.config, texts, journal)
        return head_probs(self.backbone, self.head, encoded, self.labels, budget=self.config.train.budget)

    def save(self, folder: Path) -> None:
        """method.json, head.safetensors, and encoder/ with weights, config and tokenizer, as transformers writes them."""
        write_settings(folder, self.config, self.labels)
        write_tensors(folder / "head.safetensors", self.head.state_dict())
        self.backbone.whole.save_pretrained(folder / "encoder")
        self.backbone.tokenizer.save_pretrained(folder / "encoder")


def fit(config: Encoder, train: Dataset, valid: Dataset, *, seed: int, device: str, journal: Journal) -> EncoderModel:
    """The encoder trained on `train`, with the weights that were best on `valid`."""
    place = choose_device(device)
    world = join(place)
    backbone, head = build(config, config.model, train.labels, place, seed)
    backbone.whole.requires_grad_(True)
    fit_head(backbone, head, train, valid, config=config, seed=seed, world=world, journal=journal)
    return EncoderModel(config, train.labels, backbone, head)


def load(folder: Path, *, device: str) -> EncoderModel:
    """The model that `save` wrote."""
    config, labels, _ = read_settings(folder)
    backbone, head = build(config, str(folder / "encoder"), labels, choose_device(device), seed=0)
    load_head(head, folder)
    return EncoderModel(config, labels, backbone, head)


def build(config: Encoder, model: str, labels: LabelSpace, device: torch.device, seed: int) -> tuple[Backbone, Head]:
    """The encoder, weights in float32 (a sum of many small updates is lost in bfloat16), and a fresh head."""
    fast = choose_dtype(device) if config.precision == "auto" else getattr(torch, config.precision)
    backbone = load_backbone(
        model,
        kind="encoder",
        device=device,
        dtype=torch.float32,
        compute=fast,
        revision=config.revision if model == config.model else None,
        trust_remote_code=config.trust_remote_code,
    )
    torch.manual_seed(derive(seed, "head"))
    return backbone, Head(backbone.width, len(labels), pooling=config.pooling, windows=config.long.combine).to(
        device
    ).eval()
