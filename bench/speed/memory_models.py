"""Models made in memory, in the shapes of known ones, and random words for them: nothing is read from disk or the network.

`lasttoken.model.load.load` reads a folder; here the same `Backbone` is put together around a model that was made from its
config on the device itself, in bfloat16, and then quantised layer by layer. `verify` checks it as it checks any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from models import Quantize
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, ModernBertConfig, PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from lasttoken.data.dataset import Dataset
from lasttoken.labels import LabelSpace
from lasttoken.model import llama_block, products
from lasttoken.model.backbone import Backbone
from lasttoken.model.layer_taps import install
from lasttoken.model.load import VocabularyHead, keep_packing_off
from lasttoken.model.precision import choose_precision
from lasttoken.model.verify import verify

LLAMA3 = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        **LLAMA3,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": {
        **LLAMA3,
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        **LLAMA3,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
        "tie_word_embeddings": False,
    },
    "ModernBERT-base": {},  # the defaults of its config
}
TOY_LLAMA = {
    "vocab_size": 8192,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
}
TOY_SHAPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"), TOY_LLAMA),
    "ModernBERT-base": {
        "vocab_size": 8192,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "global_attn_every_n_layers": 2,
    },
}
# Tokens of a text, tokenizer of `tiny`, at these shares of the rows: 19,025 rows of AG News and 9,907 patents.
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
AG_NEWS = (26, 35, 41, 49, 55, 59, 64, 69, 75, 83, 95, 110, 165, 443)
PATENTS = (50, 75, 90, 113, 133, 151, 168, 185, 203, 225, 263, 305, 396, 887)
LABELS = ("alpha", "beta", "gamma", "delta")


def config_of(name: str, tokenizer: Tokenizer, *, toy: bool, **more: Any) -> PretrainedConfig:
    """The config of a model, with the special tokens of `tokenizer`."""
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    if name.startswith("ModernBERT"):
        ends |= {"cls_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id}
        return ModernBertConfig(**(TOY_SHAPES if toy else SHAPES)[name], **ends, **more)
    return LlamaConfig(**(TOY_SHAPES if toy else SHAPES)[name], **ends, **more)


def make(auto: Any, config: PretrainedConfig, *, dtype: torch.dtype, device: torch.device, attention: str) -> Any:
    """A model with random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model = auto.from_config(config, dtype=dtype, attn_implementation=attention)
    return model.requires_grad_(False).eval()


def to_nf4(model: nn.Module, dtype: torch.dtype, keep: Sequence[str]) -> None:
    """Every linear layer but those in `keep` in 4-bit NF4 with double quantisation, in place, one after the other."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            if not isinstance(layer, nn.Linear) or isinstance(layer, Linear4bit) or child in keep:
                continue
            device, weight = layer.weight.device, layer.weight.data
            packed = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, device="meta"
            )
            packed.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to(
                device
            )
            packed.bias, packed.quant_type = layer.bias, "nf4"
            setattr(module, child, packed)
            assert packed.weight.dtype == torch.uint8, f"{name}.{child} was not quantised"
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # PEFT looks here


def backbone_of(
    name: str,
    tokenizer: Tokenizer,
    *,
    device: torch.device,
    quantize: Quantize,
    toy: bool,
    vocabulary: bool = True,
) -> Backbone:
    """Our backbone, checked; a language model's with its vocabulary head if wanted, an encoder's weights in float32."""
    config, compute = config_of(name, tokenizer, toy=toy), choose_precision(device).dtype
    if name.startswith("ModernBERT"):
        encoder = make(AutoModel, config, dtype=torch.float32, device=device, attention="eager").requires_grad_(True)
        return verify(Backbone(name, encoder, encoder, tokenizer, config, None, device, compute), "encoder")
    auto = AutoModelForCausalLM if vocabulary else AutoModel
    model = make(auto, config, dtype=compute, device=device, attention="eager")
    if quantize == "nf4":
        to_nf4(model, compute, keep=["lm_head"])
        if device.type == "cpu":
            keep_packing_off(model)
    trunk, head = (model.get_decoder(), VocabularyHead(model)) if vocabulary else (model, None)
    install(trunk)
    products.install(model)
    llama_block.install(trunk)
    return verify(Backbone(name, model, trunk, tokenizer, trunk.config, head, device, compute), "decoder")


def single_words(tokenizer: Tokenizer) -> list[str]:
    """Words that are one token each behind a space."""
    found = [word[1:] for word in tokenizer.get_vocab() if re.fullmatch(r"Ġ[a-z]{2,}", word)]
    return sorted(found)


def lengths_of(kind: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of each row, (rows,): all alike, or `mix`, half as AG News and half as patents."""
    if kind != "mix":
        return np.full(rows, int(kind))
    places = (np.arange(rows) + 0.5) / rows
    drawn = [np.interp(places[half::2], SHARES, quantiles) for half, quantiles in enumerate((AG_NEWS, PATENTS))]
    return rng.permutation(np.concatenate(drawn).astype(int))


def random_rows(kind: str, rows: int, tokenizer: Tokenizer) -> tuple[Dataset, np.ndarray]:
    """(random words under random labels, their lengths in tokens), a text's first token being the tokenizer's own."""
    rng = np.random.default_rng(0)
    words, lengths = single_words(tokenizer), lengths_of(kind, rows, rng)
    texts = ["".join(f" {word}" for word in rng.choice(words, length - 1)) for length in lengths]
    labels = LabelSpace(LABELS)
    return Dataset([str(i) for i in range(rows)], texts, rng.integers(0, len(labels), rows), labels), lengths
