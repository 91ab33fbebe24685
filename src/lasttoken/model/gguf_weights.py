"""The weights of a GGUF file under transformers' names, de-quantised to bfloat16.

llama.cpp turns the rows of queries and keys of its `llama` around, and adds one to the norms of Gemma; both are undone.
Every tensor of the file has to have its place in the model, and every weight of the model its tensor.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lasttoken.errors import ModelError
from lasttoken.model.gguf_config import ROPE_FACTORS, config_of
from lasttoken.model.gguf_header import INSTEAD, Header, row_bytes

# transformers -> GGUF; within a block what follows model.layers.N and blk.N
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
FOUR_NORMS = {  # of Gemma 2 and 3, other than in BLOCK
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_model(header: Header, folder: Path) -> None:
    """Write config.json and model.safetensors (bfloat16) to a folder.

    Raises ModelError on an architecture that is not read, and where tensors and weights do not match; OSError and
    SafetensorError where the folder cannot be written.
    """
    values = config_of(header)
    config = AutoConfig.for_model(values.pop("model_type"), **values, dtype="bfloat16")
    with torch.device("meta"):  # names and shapes alone
        model: Any = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    names = {name: gguf_name(name, header.architecture) for name in wanted}
    check_match(header, wanted, names)
    weights = {name: weight(header, names[name], config) for name in wanted}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def gguf_name(name: str, architecture: str) -> str:
    """A weight's name in a GGUF file: blk.3.attn_q.weight for model.layers.3.self_attn.q_proj.weight."""
    place, _, suffix = name.rpartition(".")
    block = BLOCK | (FOUR_NORMS if architecture in ("gemma2", "gemma3") else {})
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", place):
        return f"blk.{found[1]}.{block.get(found[2], found[2])}.{suffix}"
    return f"{OUTSIDE.get(place, place)}.{suffix}"


def check_match(header: Header, wanted: dict[str, tuple[int, ...]], names: dict[str, str]) -> None:
    """Raises ModelError where the file lacks a weight of the model, has another, or one of another shape."""
    there = {name: tensor.shape for name, tensor in header.tensors.items() if name != ROPE_FACTORS}
    expected = {names[name]: shape for name, shape in wanted.items()}
    wrong = sorted(name for name in there.keys() | expected.keys() if there.get(name) != expected.get(name))
    if wrong:
        shown = {name: found.get(wrong[0], "none") for name, found in (("file", there), ("model", expected))}
        raise ModelError(
            f"model '{header.file}': {wrong[0]} is {shown['file']} in the file and {shown['model']} in a {header.architecture} of "
            f"transformers; {INSTEAD}"
        )


def weight(header: Header, name: str, config: Any) -> Tensor:
    """A tensor of the file, de-quantised, as transformers has it, in bfloat16. Raises ModelError if that cannot be done."""
    tensor, shape = header.tensors[name], row_bytes(header, header.tensors[name])
    raw = np.fromfile(header.file, dtype=np.uint8, count=int(np.prod(shape)), offset=header.data + tensor.offset)
    kind = GGMLQuantizationType(tensor.kind)
    try:
        values = dequantize(raw.reshape(shape), kind)
    except NotImplementedError as error:
        raise ModelError(
            f"model '{header.file}': {name} is of the kind {kind.name}, which the package gguf does not de-quantise; {INSTEAD}"
        ) from error
    if header.architecture == "llama" and ".attn_q." in name:
        values = turned_back(values, config.num_attention_heads)
    if header.architecture == "llama" and ".attn_k." in name:
        values = turned_back(values, config.num_key_value_heads)
    if header.architecture.startswith("gemma") and name.endswith("norm.weight"):
        values = values - 1
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)


def turned_back(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys (heads * width, ...), of each head the first half before the second.

    llama.cpp has them in turn: the first of either half, the second of either...
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
