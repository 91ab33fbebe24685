"""Approach 1: a causal LM with LoRA, and a classification head on the final token's hidden state.

Reads top to bottom, as methods/instruction.py does; where the two differ is the paper's comparison
(Yousefiramandi & Cooney 2025, arXiv:2512.12677). The vocabulary head is never loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from lasttoken.config import Embedding
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import load_head, read_settings, write_settings, write_tensors
from lasttoken.methods.head import fit_head, head_probs
from lasttoken.methods.pretrained import describe_base, on_base
from lasttoken.methods.reading import read_texts
from lasttoken.model.adapter import adapt, load_adapter, save_adapter
from lasttoken.model.backbone import Backbone, quantisation
from lasttoken.model.backbone import load as load_backbone
from lasttoken.model.device import choose_device
from lasttoken.model.lora import Merge
from lasttoken.model.lora import merge as merge_adapter
from lasttoken.model.pooling import Head
from lasttoken.seed import derive
from lasttoken.train.world import join


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """A backbone, its adapter and its head: texts -> probabilities."""

    config: Embedding
    labels: LabelSpace
    backbone: Backbone
    adapter: PeftModel | None
    head: Head

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept."""
        encoded = read_texts(self.backbone, self.config, texts, journal)
        return head_probs(self.backbone, self.head, encoded, self.labels, budget=self.config.train.budget)

    def save(self, folder: Path) -> None:
        """method.json, head.safetensors, and adapter/ in PEFT's format."""
        c = self.config
        write_settings(folder, c, self.labels, base=describe_base(c.model, c.revision, c.trust_remote_code))
        write_tensors(folder / "head.safetensors", self.head.state_dict())
        if self.adapter is not None:
            save_adapter(self.adapter, folder / "adapter")


def fit(
    config: Embedding, train: Dataset, valid: Dataset, *, seed: int, device: str, journal: Journal
) -> EmbeddingModel:
    """The model trained on `train`, with the weights that were best on `valid`."""
    place = choose_device(device)
    world = join(place)
    backbone, head = build(config, train.labels, place, seed)
    for sentence in advice(config, backbone):
        journal.note(sentence)
    adapter = None
    if config.lora.r:
        adapter = adapt(backbone, **config.lora.model_dump(), from_block=config.trunk, seed=derive(seed, "adapter"))
    fit_head(
        backbone,
        head,
        train,
        valid,
        config=config,
        trunk=config.trunk,
        merge=config.merge,
        seed=seed,
        world=world,
        journal=journal,
    )
    merge_adapter(backbone.whole, config.merge)
    return EmbeddingModel(config, train.labels, backbone, adapter, head)


def load(folder: Path, *, device: str, model: str | None = None, merge: Merge | None = None) -> EmbeddingModel:
    """The model that `save` wrote, its base model in the folder `model` and merged as `merge` says where they are given.

    Unless `merge` is given it predicts bit for bit what the fitted one did on the same device.
    """
    config, labels, rest = read_settings(folder)
    config = on_base(config, folder, rest, model=model, merge=merge)
    backbone, head = build(config, labels, choose_device(device), seed=0)
    adapter = load_adapter(backbone, folder / "adapter") if config.lora.r else None
    load_head(head, folder)
    merge_adapter(backbone.whole, config.merge)
    return EmbeddingModel(config, labels, backbone, adapter, head)


def build(config: Embedding, labels: LabelSpace, device: torch.device, seed: int) -> tuple[Backbone, Head]:
    """The frozen backbone and a fresh head, drawn from the seed."""
    backbone = load_backbone(
        config.model,
        kind="decoder",
        device=device,
        quantize=config.quantize,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    torch.manual_seed(derive(seed, "head"))
    head = (
        Head(backbone.width, len(labels), pooling=config.pooling, kind=config.head, windows=config.long.combine)
        .to(device)
        .eval()
    )
    return backbone, head


def advice(config: Embedding, backbone: Backbone) -> list[str]:
    """What the user should know of the loaded model."""
    said = []
    if config.quantize == "nf4":
        said.append(quantisation(backbone))
    base = "base" in Path(config.model).name.lower()  # some base models carry a template
    if backbone.tokenizer.chat_template and not base:
        said.append(
            f"{config.model} looks like a chat or instruct checkpoint; base checkpoints gave better embeddings in the "
            "paper (F1 .824 against .601 for Llama-3.2-1B)"
        )
    return said
