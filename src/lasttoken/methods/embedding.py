"""Approach 1: a causal LM with LoRA, and a classification head on the final token's hidden state.

Reads top to bottom, as methods/instruction.py does; where the two differ is the paper's comparison
(Yousefiramandi & Cooney 2025, arXiv:2512.12677). The vocabulary head is never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from lasttoken.config.methods import Embedding
from lasttoken.data.dataset import Dataset
from lasttoken.fitting.head import fit_head
from lasttoken.infer.differentiable import Differentiable
from lasttoken.infer.head import differentiable_head, head_probs, load_head, save_head
from lasttoken.infer.portable import Portable, portable
from lasttoken.infer.reading import read_texts
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.model.adapter import adapt, load_adapter, save_adapter
from lasttoken.model.backbone import Backbone
from lasttoken.model.base_model import describe_base, in_precision, on_base, tell_if_slower
from lasttoken.model.device import choose_device
from lasttoken.model.load import Source, quantisation
from lasttoken.model.load import load as load_backbone
from lasttoken.model.lora import Merge
from lasttoken.model.lora import merge as merge_adapter
from lasttoken.model.pooling import Head
from lasttoken.model.shared import Shared
from lasttoken.packages import SMOLLM2
from lasttoken.record.artifact import read_settings, write_settings
from lasttoken.seed import derive
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.distributed import UNSHARED, join, launched
from lasttoken.train.state import TrainState


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """A backbone, its adapter and its head: texts -> probabilities."""

    config: Embedding
    labels: LabelSpace
    backbone: Backbone
    adapter: PeftModel | None
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
        """method.json, head.safetensors, and the adapter in adapter/."""
        c = self.config.model_copy(update={"precision": self.backbone.precision})
        write_settings(folder, c, self.labels, base=describe_base(c.model, c.revision, c.trust_remote_code))
        save_head(self.head, folder)
        if self.adapter is not None:
            save_adapter(self.adapter, folder / "adapter")


def fit(
    config: Embedding,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int,
    device: str,
    journal: Journal,
    state: TrainState | None = None,
) -> Fitted:
    """The model trained on `train`, with the weights that were best on `valid`."""
    backbone, head = build(config, train.labels, choose_device(device), seed)
    if backbone.sharded:  # nor merged when it is read again, so that it predicts the same
        config = config.model_copy(update={"merge": "off"})
    for sentence in advice(config, backbone):
        journal.note(sentence)
    adapter = None
    if config.lora.r:
        adapter = adapt(backbone, **config.lora.model_dump(), from_block=config.trunk, seed=derive(seed, "adapter"))
    trained = fit_head(backbone, head, (train, valid), config, seed=seed, journal=journal, state=state)
    merge_adapter(backbone.whole, config.merge)
    model = EmbeddingModel(config, train.labels, backbone, adapter, head)
    return Fitted(model, trained.cost, trained.steps, trained.end, split=backbone.sharded)


def load(
    folder: Path,
    *,
    device: str,
    model: str | None = None,
    merge: Merge | None = None,
    precision: str | None = None,
    shared: Shared | None = None,
) -> EmbeddingModel:
    """The model that `save` wrote, its base model in the folder `model` and merged as `merge` says where they are given.

    Unless `merge` or `precision` is given it predicts bit for bit what the fitted one did on the same device.
    """
    config, labels, rest = read_settings(folder)
    place = choose_device(device)
    config = in_precision(on_base(config, folder, rest, model=model, merge=merge), precision, place)
    backbone, head = build(config, labels, place, seed=0, loads=load_backbone if shared is None else shared.load)
    adapter = load_adapter(backbone, folder / "adapter") if config.lora.r else None
    load_head(head, folder)
    tell_if_slower(backbone, precision)
    merge_adapter(backbone.whole, config.merge)
    return EmbeddingModel(config, labels, backbone, adapter, head)


def build(
    config: Embedding,
    labels: LabelSpace,
    device: torch.device,
    seed: int,
    loads: Callable[..., Backbone] = load_backbone,
) -> tuple[Backbone, Head]:
    """The frozen backbone and a fresh head, drawn from the seed."""
    backbone = loads(
        Source(config.model, config.revision, config.trust_remote_code),
        kind="decoder",
        device=device,
        precision=config.precision,
        quantize=config.quantize,
        processes=join(device).size if config.train.shard else 1,
    )
    torch.manual_seed(derive(seed, "head"))
    head = Head(
        backbone.width,
        len(labels),
        pooling=config.pooling,
        kind=config.head,
        bias=config.head_bias or config.head == "mlp",
        windows=config.long.combine,
    )
    return backbone, head.to(device).eval()


def advice(config: Embedding, backbone: Backbone) -> list[str]:
    """What the user should know of the loaded model."""
    said = [*backbone.notes, *([UNSHARED] if config.train.shard and not launched() else [])]
    if config.quantize == "nf4":
        said.append(quantisation(backbone))
    base = "base" in Path(config.model).name.lower()  # some base models carry a template
    if backbone.tokenizer.chat_template and not base and config.model != SMOLLM2:  # whose package has no base model
        said.append(
            f"{config.model} looks like a chat or instruct checkpoint; base checkpoints gave better embeddings in the "
            "paper (F1 .824 against .601 for Llama-3.2-1B)"
        )
    return said
