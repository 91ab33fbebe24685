"""The models that are timed, for both sides alike: `smollm2`, `tiny`, and random weights in the shape of SmolLM2-135M."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerBase,
)

from lasttoken.config.settings import Lora
from lasttoken.model.adapter import quiet
from lasttoken.model.files import TINY, locate
from lasttoken.model.load import nf4_config
from lasttoken.model.precision import choose_precision

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = Lora(r=8, alpha=16.0, dropout=0.05)  # on both sides
SHAPES: dict[str, dict[str, int]] = {
    "135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
    },
    "toy": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 128,
        "vocab_size": 8192,
        "max_position_embeddings": 1024,
    },
}
CPU = torch.device("cpu")
ATTENTIONS = ("sdpa", "eager")  # of transformers: which is faster on a CPU depends on the lengths
Quantize = Literal["nf4", "none", "float32", "bfloat16"]  # of weights; none is the precision that lasttoken chooses


def folder_of(name: str, work: Path) -> Path:
    """The folder of a model: a packaged model's own, or one in `work`, written on first use with the tokenizer of `tiny`."""
    if name not in SHAPES:
        return Path(locate(name))
    folder = work / name
    if not folder.exists():
        tokenizer = tokenizer_of(TINY)
        ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[name], **ends, tie_word_embeddings=True)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder."""
    return AutoTokenizer.from_pretrained(folder)


def classifier(folder: Path, labels: int, head: torch.Tensor, *, quantize: Quantize, lora: bool) -> nn.Module:
    """A peer's model for sequence classification, with the weight (C, H) of our head; in eval mode.

    Without `lora` it is what merging an adapter gives, and fastest to predict with.
    """
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, **loading(folder, quantize, keep=["score"])
    )
    with torch.no_grad():
        model.score.weight.copy_(head)
    if lora:
        model = adapted(model, "SEQ_CLS", modules_to_save=["score"])
    return model.eval()


def language_model(folder: Path, *, quantize: Quantize, lora: bool) -> nn.Module:
    """A peer's causal language model, in eval mode."""
    model = AutoModelForCausalLM.from_pretrained(folder, **loading(folder, quantize, keep=["lm_head"]))
    return (adapted(model, "CAUSAL_LM") if lora else model).eval()


def loading(folder: Path, quantize: Quantize, keep: list[str]) -> dict[str, Any]:
    """What from_pretrained needs: the dtype, and for NF4 the settings of the package with `keep` left out of it."""
    dtype = dtype_of(quantize)
    if quantize != "nf4":
        return {"dtype": dtype}
    quantization = nf4_config(str(folder), CPU, dtype)
    quantization.llm_int8_skip_modules = keep  # its name notwithstanding it holds for 4 bits too
    return {"dtype": dtype, "quantization_config": quantization, "device_map": {"": "cpu"}}


def dtype_of(quantize: Quantize, device: torch.device = CPU) -> torch.dtype:
    """What is computed in."""
    return choose_precision(device, "auto" if quantize in ("none", "nf4") else quantize).dtype


def adapted(model: nn.Module, task: str, **more: Any) -> nn.Module:
    """The model with plain PEFT LoRA on the seven linears of each block."""
    config = LoraConfig(
        task_type=task, r=LORA.r, lora_alpha=int(LORA.alpha), lora_dropout=LORA.dropout, target_modules=LINEARS, **more
    )
    with quiet():
        return get_peft_model(model, config)  # type: ignore[arg-type]


def flops(config: Any, lengths: Any, *, training: bool, rank: int = 0) -> float:
    """FLOP that rows of `lengths` tokens need at least: blocks, causal half of attention, LoRA in training; no vocabulary head.

    Frozen weights take no gradient, and nothing flows back below the first block's adapters: 2 + 2 a weight and token. In the
    last block keys and values are needed of every token, all else of one token a row, as where the last or the first is read.
    Models of two blocks or more.
    """
    keys, others = linears_of(config)
    query, heads = others[0], others[0][1]  # heads: the width of all of them
    tokens, pairs, below = float(lengths.sum()), float((lengths.astype(float) ** 2).sum()), config.num_hidden_layers - 1

    def products(cost: Callable[[int, int], int]) -> float:
        """What linears of (inputs, outputs) cost, `cost` each a token."""
        full, few = (sum(cost(*one) for one in part) for part in (keys, others))
        return full * (below + 1) * tokens + few * (below * tokens + len(lengths))

    weights = products(lambda inputs, outputs: inputs * outputs)
    attention = 2 * heads * (below * pairs + 2 * tokens)
    if not training:
        return 2 * weights + attention
    first = sum(inputs * outputs for inputs, outputs in (query, *keys))
    low = rank * products(lambda inputs, outputs: inputs + outputs)
    return 2 * weights + attention + 2 * (weights - first * tokens) + 2 * attention + 6 * low


def linears_of(config: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(inputs, outputs) of the linears of a block: those that make keys and values, and the others, the query first."""
    width, inner = config.hidden_size, config.intermediate_size
    size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    query, key = config.num_attention_heads * size, config.num_key_value_heads * size
    return [(width, key)] * 2, [(width, query), (query, width), (width, inner), (width, inner), (inner, width)]
