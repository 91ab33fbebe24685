"""Static embeddings in model2vec's format: a table of token vectors, whose mean is a text's vector.

Such a model is a backbone without blocks: its one layer, 0, is the table. Texts are read without special tokens.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from lasttoken.errors import ModelError
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import Source
from lasttoken.model.sentence import Normalize, SentenceEncoder, file_of, read_json

EMPTY = "<|lasttoken: a text without tokens|>"  # its vector is zero


class StaticModel(nn.Module):
    """Token ids (1, T) -> their vectors (1, T, H)."""

    def __init__(self, table: Tensor, unknown: int | None):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(table)
        self.blocks = nn.ModuleList()
        self.unknown = unknown  # id of the unknown token, which model2vec leaves out
        self.config = PretrainedConfig.from_dict({"hidden_size": table.shape[1], "max_position_embeddings": 1 << 30})

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, layout: object = None, use_cache: bool = False
    ) -> BaseModelOutput:
        """Everything but the ids is what backbones are given, and not needed."""
        return BaseModelOutput(last_hidden_state=self.embedding(input_ids))


def is_static(source: Source) -> bool:
    """Whether the model is in model2vec's format."""
    return read_json(source, "config.json").get("model_type") == "model2vec"


def static_encoder(source: Source) -> SentenceEncoder:
    """How a static model makes an embedding: the mean of its token vectors, normalised where its config says so."""
    config = read_json(source, "config.json")
    layers = [Normalize()] if config.get("normalize") else []
    return SentenceEncoder("mean", nn.Sequential(*layers), config.get("max_length"))


def load_static(source: Source, device: torch.device) -> Backbone:
    """The model as a backbone of no blocks, in float32. Raises ModelError if a file is missing or another one's."""
    tokens, weights = (file_of(source, name) for name in ("tokenizer.json", "model.safetensors"))
    if tokens is None or weights is None:
        missing = "tokenizer.json" if tokens is None else "model.safetensors"
        raise ModelError(f"model {source.name!r} is a static model of model2vec without {missing}; restore it")
    tokenizer = Tokenizer.from_file(str(tokens))
    tokenizer.post_processor = None  # type: ignore[assignment]
    table = table_of(source, load_file(weights), tokenizer.get_vocab_size())
    table = torch.cat([table, table.new_zeros(1, table.shape[1])])  # of EMPTY
    model: Any = StaticModel(table, unknown_token(tokenizer)).eval().to(device)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EMPTY)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return Backbone(
        source.name, model, model, fast, model.config, None, device, torch.float32, causal=False, threads=threads
    )


def table_of(source: Source, tensors: dict[str, Tensor], tokens: int) -> Tensor:
    """The vector of each token (V, H) float32. Of a quantised vocabulary, tokens share rows, scaled by their weights."""
    table = tensors.get("embeddings", torch.empty(0)).float()
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table * tensors["weights"].float()[:, None]
    if table.ndim != 2 or len(table) != tokens:
        raise ModelError(
            f"model {source.name!r}: model.safetensors has embeddings of shape {tuple(table.shape)} for the {tokens} tokens "
            "of tokenizer.json; restore both from one model"
        )
    return table


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """The id of the unknown token; None where the tokenizer has none."""
    model = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else tokenizer.token_to_id(name)  # unk_id: of a Unigram model
