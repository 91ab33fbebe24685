"""A model's widths and exact parameter counts, read from its config.json: neither torch nor transformers is imported.

What a config.json does not say (names of layers, biases, norms, values left at their default) stands in FAMILIES. Of a
multimodal model the text part alone is counted.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from lasttoken.errors import ModelError
from lasttoken.model.files import find_file, locate
from lasttoken.model.gguf import file_of, from_gguf
from lasttoken.model.gguf_config import config_of
from lasttoken.model.gguf_header import read_header

NAMES = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
NAMES |= {"n_inner": "intermediate_size", "n_positions": "max_position_embeddings", "attn_pdrop": "attention_dropout"}
NAMES |= {"attention_probs_dropout_prob": "attention_dropout", "hidden_dropout_prob": "hidden_dropout"}
NAMES |= {"resid_pdrop": "hidden_dropout"}
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")

# layers: linear layers of a block, as LoRA's targets name them; norms: of a block, of width H; layer_norm: LayerNorm, else
# RMSNorm; qk_norm: norms of queries and keys, of each `head` or of the `whole` row; positions: a table of them
LLAMA = {"layers": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", "norms": 2, "gated": True}
GEMMA = {**LLAMA, "head_dim": 256, "tie_word_embeddings": True, "num_attention_heads": 8, "num_key_value_heads": 4}
PLAIN = {"norms": 2, "layer_norm": True, "norm_bias": True, "attention_bias": True, "mlp_bias": True}
GPT2 = {"layers": "c_attn c_proj c_fc c_proj", "positions": True, "gelu": "new", "tie_word_embeddings": True}
BERT = {**PLAIN, "layers": "query key value dense up down", "positions": True, "pooler": True, "encoder": True}
MODERNBERT = {"layers": "Wqkv Wo Wi down", "norms": 2, "layer_norm": True, "gated": True, "encoder": True}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "granite"), LLAMA),
    "smollm3": {**LLAMA, "tie_word_embeddings": True},
    "qwen2": {**LLAMA, "qkv_bias": True},
    "qwen3": {**LLAMA, "qk_norm": "head"},
    "gemma": GEMMA,
    "gemma2": {**GEMMA, "norms": 4},
    "gemma3_text": {**GEMMA, "vocab_size": 262208, "norms": 4, "qk_norm": "head"},
    "phi3": {**LLAMA, "layers": "qkv_proj o_proj gate_up_proj down_proj"},
    "olmo2": {**LLAMA, "qk_norm": "whole"},
    "gpt_neox": {**PLAIN, "layers": "query_key_value dense dense_h_to_4h dense_4h_to_h"},
    "gpt2": {**PLAIN, **GPT2},
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), BERT),
    "modernbert": MODERNBERT,
}


class Linear(NamedTuple):
    """A linear layer of a block."""

    name: str
    inputs: int
    outputs: int
    reads: str  # what goes in; layers that read the same keep it once for the backward pass


class ModelShape:
    """A transformer of equal blocks. Raises ModelError on a type that is not in FAMILIES or a size that is missing."""

    def __init__(self, model: str, values: dict[str, Any]) -> None:
        text = values.get("text_config") or values
        kind = text.get("model_type") or (f"{values['model_type']}_text" if "text_config" in values else "llama")
        if kind not in FAMILIES:
            raise ModelError(f"model {model!r}: a plan cannot count the type {kind!r}; it knows {', '.join(FAMILIES)}")
        given = {NAMES.get(name, name): value for name, value in text.items() if value is not None}
        c = {**FAMILIES[kind], **given, **{k: v for k, v in values.items() if k == "tie_word_embeddings"}}
        if missing := [name for name in NEEDED if not c.get(name)]:
            raise ModelError(f"model {model!r} ({kind}): its config.json does not give {' and '.join(missing)}")
        self.values, self.window = c, window_of(c, kind)
        self.width, self.depth, self.heads, self.vocabulary = (int(c[name]) for name in NEEDED)  # H, blocks, heads, V
        head_dim = int(c.get("head_dim") or self.width // self.heads)
        self.queries, self.keys = self.heads * head_dim, int(c.get("num_key_value_heads") or self.heads) * head_dim
        self.inner = int(c.get("intermediate_size") or 4 * self.width)  # width of the MLP
        self.linears = self.linear_layers(c["layers"].split())  # of a block
        self.matrices = sum(x.inputs * x.outputs for x in self.linears)  # numbers in them
        out, mlp, norm = c.get("attention_bias"), c.get("mlp_bias"), self.width * (2 if c.get("norm_bias") else 1)
        biased = {"qkv": out or c.get("qkv_bias"), "out": out, "mlp": mlp, "down": mlp}
        qk = {None: 0, "head": 2 * head_dim, "whole": self.queries + self.keys}[c.get("qk_norm")]
        self.block = self.matrices + sum(x.outputs for x in self.linears if biased[x.reads]) + c["norms"] * norm + qk
        rows = self.vocabulary + int(c.get("type_vocab_size") or 0)
        rows += int(c["max_position_embeddings"]) if "positions" in c else 0
        pooler = self.width * (self.width + 1) * ("pooler" in c)
        self.outside = rows * self.width + norm + pooler  # ModernBERT has a norm more, but its first block lacks one
        self.head = (
            0 if c.get("tie_word_embeddings") else self.vocabulary * self.width
        )  # of its own, for the vocabulary
        self.parameters = self.outside + self.depth * self.block  # without that head

    def linear_layers(self, names: list[str]) -> tuple[Linear, ...]:
        """The linear layers of a block; queries, keys and values may be fused, and so may gate and up."""
        width, keys = self.width, self.keys
        read = [self.queries, keys, keys] if len(names) > 4 else [self.queries + 2 * keys]
        enter = len(names) - len(read) - 2
        sizes = [(width, size, "qkv") for size in read] + [(self.queries, width, "out")]
        sizes += [(width, self.inner * (2 if "gated" in self.values else 1) // enter, "mlp")] * enter
        sizes += [(self.inner, width, "down")]
        return tuple(Linear(name, *size) for name, size in zip(names, sizes, strict=True))


def window_of(c: dict[str, Any], kind: str) -> int:
    """Tokens that a text may have: as model/backbone.py limits it for longrope, and RoBERTa counts from 2."""
    most = int(c.get("max_position_embeddings") or 1024)
    ropes = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if "longrope" in (ropes.get("rope_type"), ropes.get("type")):
        first = ropes.get("original_max_position_embeddings") or c.get("original_max_position_embeddings")
        most = min(most, int(first or most))
    return most - 2 * (kind in ("roberta", "xlm-roberta"))


def load_shape(model: str, *, revision: str | None = None) -> ModelShape:
    """The shape of `tiny`, of a GGUF file, of a model in a folder, or of one on the hub.

    Raises ModelError, with what was searched.
    """
    if from_gguf(model):
        return ModelShape(model, config_of(read_header(file_of(model))))
    if (path := find_file(model, revision, "config.json", download=True)) is None:
        raise ModelError(f"model {model!r}: the folder {locate(model)} holds no config.json")
    try:
        return ModelShape(model, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"model {model!r}: {path} is not JSON ({error}); save it again") from error
