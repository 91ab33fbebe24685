"""The config.json of the model in a GGUF file, from the file's header alone; without torch, for `lasttoken plan`.

Each architecture here is checked against transformers' own model, weight by weight (tests/golden/test_gguf.py); others
are refused. What llama.cpp has in its source and not in the file (the scale of Gemma's attention) is filled in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lasttoken.errors import ModelError
from lasttoken.model.gguf_header import INSTEAD, Header

TYPES = {  # architecture of a GGUF file -> model_type of a config.json; Mistral's is llama
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
}
WINDOWED = ("gemma2", "gemma3", "phi3")  # whose config has a sliding window
SOFT_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
# Blocks of the models of 27 B, whose attention is scaled by the width over the heads; that of others by the head's width.
GEMMA_27B = {"gemma2": 46, "gemma3": 62}
TOKENS = {"bos": "bos", "eos": "eos", "padding": "pad"}
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1 and later: what each frequency is divided by
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # in all of them


def config_of(header: Header) -> dict[str, Any]:
    """Names and values of a config.json. Raises ModelError on an architecture or positions that are not read here."""
    kind, values = header.architecture, header.values
    if kind not in TYPES:
        raise ModelError(
            f"model '{header.file}': GGUF files of the architecture {kind!r} are not read, only those of {', '.join(TYPES)}; {INSTEAD}"
        )
    if absent := [name for name in SIZES if header.of_architecture(name) is None and name != "attention.head_count_kv"]:
        raise ModelError(f"model '{header.file}': no {kind}.{absent[0]} in its header; {INSTEAD}")
    if "token_embd.weight" not in header.tensors:
        raise ModelError(f"model '{header.file}': no token_embd.weight among its tensors; {INSTEAD}")
    names = SIZES | (SOFT_CAPS if kind == "gemma2" else {})
    names |= {"attention.sliding_window": "sliding_window"} if kind in WINDOWED else {}
    found = {name: value for key, name in names.items() if (value := header.of_architecture(key)) is not None}
    ids = {f"{name}_token_id": values.get(f"tokenizer.ggml.{key}_token_id") for key, name in TOKENS.items()}
    head = head_width(header)
    found |= {"model_type": TYPES[kind], "head_dim": head, **ids}
    found |= {"vocab_size": header.tensors["token_embd.weight"].shape[0]}
    found |= {"tie_word_embeddings": "output.weight" not in header.tensors}
    found |= {"attention_bias": "blk.0.attn_q.bias" in header.tensors} if kind == "llama" else {}
    if kind in GEMMA_27B:
        whole = found["num_hidden_layers"] == GEMMA_27B[kind]
        found["query_pre_attn_scalar"] = found["hidden_size"] // found["num_attention_heads"] if whole else head
    return found | {"rope_parameters": positions(header, head)}


def head_width(header: Header) -> int:
    """Width of an attention head. Raises ModelError where positions turn only a part of it."""
    plain = header.of_architecture("embedding_length") // header.of_architecture("attention.head_count")
    turned = header.of_architecture("rope.dimension_count")
    width = header.of_architecture("attention.key_length") or turned or plain
    if turned not in (None, width):
        raise ModelError(f"model '{header.file}': positions turn {turned} of the {width} numbers of a head; {INSTEAD}")
    return width


def positions(header: Header, head: int) -> dict[str, Any]:
    """Rotary positions in the words of a config.json. head: width of one. Raises ModelError on a scaling not read here."""
    base = float(header.of_architecture("rope.freq_base", 10_000.0))
    ropes = {"rope_type": "default", "rope_theta": base, **scaling(header, head, base)}
    if header.architecture != "gemma3":
        return ropes
    local = float(header.of_architecture("rope.freq_base_swa", 10_000.0))
    return {"full_attention": ropes, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def scaling(header: Header, head: int, base: float) -> dict[str, Any]:
    """How positions are scaled; empty where they are not. Raises ModelError on a way that is not read here."""
    if ROPE_FACTORS in header.tensors:
        return llama3_scaling(header, head, base)
    kind, factor = header.of_architecture("rope.scaling.type", "none"), header.of_architecture("rope.scaling.factor")
    if kind == "none" and "rope_factors_long.weight" not in header.tensors:
        return {}
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": factor}
    first = header.of_architecture("rope.scaling.original_context_length")
    if kind == "yarn" and factor and first:
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": first}
    shown = "longrope" if kind == "none" else kind
    raise ModelError(f"model '{header.file}': its positions are scaled by {shown!r}, which is not read; {INSTEAD}")


def llama3_scaling(header: Header, head: int, base: float) -> dict[str, Any]:
    """The scaling of Llama 3.1 and later, whose settings are found again from the factors of its frequencies.

    Raises ModelError where the settings give other factors than those in the file.
    """
    tensor = header.tensors[ROPE_FACTORS]
    with header.file.open("rb") as stream:
        there = np.fromfile(stream, dtype="<f4", count=tensor.shape[0], offset=header.data + tensor.offset)
    found = {"rope_type": "llama3", "factor": round(float(there.max()), 3), **LLAMA3}
    turns = LLAMA3["original_max_position_embeddings"] * base ** (-np.arange(0, head, 2) / head) / (2 * np.pi)
    smooth = np.clip(
        (turns - LLAMA3["low_freq_factor"]) / (LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"]), 0, 1
    )
    wanted = 1 / ((1 - smooth) / found["factor"] + smooth)
    if there.shape != wanted.shape or not np.allclose(there, wanted, rtol=1e-3):
        raise ModelError(f"model '{header.file}': its positions are scaled as in no Llama known here; {INSTEAD}")
    return found
