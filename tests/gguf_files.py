"""GGUF files of the random models of tiny.py, written with the package `gguf` as llama.cpp's converter does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

NAMES = {"gemma3_text": "gemma3"}  # model_type -> architecture, where they differ
SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
}
F16, BF16, F32 = GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F32


def write_gguf(
    folder: Path,
    file: Path,
    *,
    kind: GGMLQuantizationType = F16,
    pre: str = "gpt-2",
    values: Mapping[str, Any] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
    raw: Mapping[str, tuple[np.ndarray, GGMLQuantizationType]] | None = None,
) -> Path:
    """The model of a folder as a GGUF file; the folder's own weights become what is left of them after quantisation.

    values: header values over those made here; None leaves one out. more: further tensors, as float32. raw: quantised
    tensors, in the place of the model's.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    architecture = NAMES.get(config["model_type"], config["model_type"])
    whole = header(config, folder, pre) | dict(values or {})
    pen = GGUFWriter(file, whole.pop("general.architecture", architecture))
    for name, value in whole.items():
        put(pen, name.replace("ARCH", architecture), value)
    kept = {}
    known = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(known, config["num_hidden_layers"])
    for name, weight in weights.items():
        place, _, suffix = name.rpartition(".")
        called = f"{names.get_name(place)}.{suffix}"
        data = weight.float().to(torch.bfloat16).float().numpy()  # what a 16-bit file holds without loss
        stored = kind if data.ndim > 1 else F32
        kept[name] = torch.from_numpy(dequantize(quantize(data, stored), stored)).to(torch.bfloat16)
        if called in (raw or {}):
            pen.add_tensor(called, raw[called][0], raw_dtype=raw[called][1])
        else:
            pen.add_tensor(called, quantize(laid_out(called, data, config), stored), raw_dtype=stored)
    for name, data in (more or {}).items():
        pen.add_tensor(name, data.astype(np.float32))
    pen.write_header_to_file()
    pen.write_kv_data_to_file()
    pen.write_tensors_to_file()
    pen.close()
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return file


def header(config: Mapping[str, Any], folder: Path, pre: str) -> dict[str, Any]:
    """Names and values; ARCH stands for the architecture."""
    inner = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    table = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    vocabulary = inner["model"]["vocab"]
    special = {one["content"] for one in inner["added_tokens"]}
    ropes = config["rope_parameters"]
    found: dict[str, Any] = {f"ARCH.{name}": config[key] for key, name in SIZES.items() if config.get(key) is not None}
    found["ARCH.attention.layer_norm_rms_epsilon"] = float(config["rms_norm_eps"])
    found["ARCH.rope.freq_base"] = float(ropes.get("full_attention", ropes)["rope_theta"])
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        found |= {f"ARCH.{cap}": config[cap]} if config.get(cap) else {}
    found |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in sorted(vocabulary, key=vocabulary.__getitem__)],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in inner["model"]["merges"]],
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = table.get(f"{name}_token")
        found |= {f"tokenizer.ggml.{key}_token_id": vocabulary[token]} if token else {}
    found["tokenizer.ggml.add_bos_token"] = inner["post_processor"] is not None
    template = folder / "chat_template.jinja"
    found |= {"tokenizer.chat_template": template.read_text(encoding="utf-8")} if template.is_file() else {}
    return found


def put(pen: GGUFWriter, name: str, value: Any) -> None:
    """Add a value by its type; None adds none."""
    if isinstance(value, bool):
        pen.add_bool(name, value)
    elif isinstance(value, int):
        pen.add_uint32(name, value)
    elif isinstance(value, float):
        pen.add_float32(name, value)
    elif isinstance(value, str):
        pen.add_string(name, value)
    elif value is not None:
        pen.add_array(name, value)


def laid_out(name: str, weight: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """A weight as llama.cpp stores it (convert_hf_to_gguf.py: LlamaModel.permute, Gemma's modify_tensors)."""
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.split(".")[-2])
    if config["model_type"] == "llama" and heads:
        halves = weight.reshape(config[heads], 2, weight.shape[0] // config[heads] // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    if config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    return weight
