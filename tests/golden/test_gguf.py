"""GGUF files against the safetensors of the same models, made by the package `gguf` from random models.

The safetensors hold what quantisation left of the weights, in bfloat16, as the folder in the cache does. So nothing may
differ at all; how much quantisation takes away is not ours to change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from gguf_files import write_gguf
from safetensors.torch import load_file
from transformers import AutoTokenizer, Gemma3TextConfig, GemmaConfig, PreTrainedTokenizerFast, Qwen2Config

from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.gguf import folder_of
from lasttoken.model.layout import lay_out
from lasttoken.model.load import load
from lasttoken.text.tokenizer import encode

CPU = torch.device("cpu")
TEXTS = [
    "guitar band", "", " led by a space", "It's 12345 and I'LL\r\n\r\n  stay,\tyes", "日本語と한국어 👍🏽🙂 é é ½",
    "[user] </s> <s> <pad>", "…—“x”  ", "\u00a0\u200b x",
]  # fmt: skip
MORE: dict[str, tiny.Maker] = {
    "qwen2": lambda ids: Qwen2Config(**tiny.SHAPE, num_key_value_heads=2, **ids),
    "qwen2-256": lambda ids: Qwen2Config(**{**tiny.SHAPE, "hidden_size": 256, "intermediate_size": 256}, **ids),
    "gemma": lambda ids: GemmaConfig(**{**tiny.SHAPE, "num_key_value_heads": 1, "head_dim": 32}, **ids),
    "gemma3-six": lambda ids: Gemma3TextConfig(
        **{**tiny.GROUPED, "num_hidden_layers": 6, "sliding_window": 4, "query_pre_attn_scalar": 16}, **ids
    ),
}


@pytest.fixture
def model(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """model(name, **changes of its config) -> a copy of a random model's folder."""
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    for name, maker in MORE.items():
        monkeypatch.setitem(tiny.MAKERS, name, maker)

    def make(name: str, **changes: Any) -> Path:
        place = shutil.copytree(folder(name, chat=True), tmp_path / name)
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        (place / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
        return place

    return make


@torch.no_grad()
def outputs(backbone: Backbone) -> list[np.ndarray]:
    """Hidden states and logits of TEXTS in one packed row, and the ids of each."""
    ids = encode(backbone.tokenizer, TEXTS, limit=backbone.window).ids
    layout = lay_out([len(row) for row in ids], causal=True, device=CPU)
    hidden = backbone.hidden(to_tensor(np.concatenate(ids), backbone), layout)
    assert backbone.vocabulary is not None
    return [hidden.float().numpy(), backbone.vocabulary(hidden).numpy(), *ids]


def check_same(folder: Path, file: Path) -> Backbone:
    """Assert that a folder and a GGUF file give the same tokens, hidden states and logits; the second's backbone."""
    ours, wanted = (load(str(place), kind="decoder", device=CPU, vocabulary=True) for place in (file, folder))
    for found, expected in zip(outputs(ours), outputs(wanted), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ours.window == wanted.window
    return ours


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3-six", "phi3"])
def test_a_gguf_file_is_the_model_that_it_was_made_from(model: Callable[..., Path], tmp_path: Path, name: str) -> None:
    """The row of texts is longer than the sliding window of four tokens; Gemma 2 caps its logits."""
    folder = model(name)
    ours = check_same(folder, write_gguf(folder, tmp_path / f"{name}.gguf"))
    wanted = AutoTokenizer.from_pretrained(folder)
    assert ours.tokenizer.chat_template == wanted.chat_template == tiny.CHAT
    assert ours.tokenizer.special_tokens_map == wanted.special_tokens_map
    assert (ours.config.bos_token_id, ours.config.eos_token_id, ours.config.pad_token_id) == (0, 2, 1)
    weights = load_file(folder_of(str(tmp_path / f"{name}.gguf")) / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_weights_are_dequantised_whatever_the_kind(model: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    folder = model("llama")
    before = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    check_same(folder, write_gguf(folder, tmp_path / "m.gguf", kind=GGMLQuantizationType[kind]))
    after = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float()
    # half of a step, which is the largest of a block's 32 over as many as one side has, and rounding to bfloat16 (2^-8);
    # of Q4_0, whose sides have 8 and 7 steps, a whole one
    steps = {"F32": np.inf, "BF16": np.inf, "Q8_0": 127, "Q5_1": 15.5, "Q4_0": 4}[kind]
    largest = before.abs().reshape(-1, 32).amax(1, keepdim=True).expand(-1, 32).reshape(before.shape)
    assert bool(((after - before).abs() <= largest * (0.51 / steps + 2**-7)).all())


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_read_block_by_block(model: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """Random blocks, because the package `gguf` de-quantises these kinds and does not quantise to them."""
    folder, chosen = model("qwen2-256"), GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[chosen]
    raw = np.random.default_rng(0).integers(0, 256, (256, 256 // block * size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(1e-3).tobytes(), dtype=np.uint8)
    for place in (-2,) if kind == "Q6_K" else (0, 2):
        raw[:, place : place + 2 or None] = scale
    file = write_gguf(folder, tmp_path / "m.gguf", raw={"blk.1.ffn_down.weight": (raw, chosen)})
    weights = load_file(folder_of(str(file)) / "model.safetensors")
    wanted = torch.from_numpy(dequantize(raw, chosen)).to(torch.bfloat16)
    assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"], wanted)
    assert 0.01 < wanted.float().std() < 10


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_matrix_of_its_own_is_kept_or_shared(model: Callable[..., Path], tmp_path: Path, tied: bool) -> None:
    folder = model("qwen3" if not tied else "gemma2")
    assert check_same(folder, write_gguf(folder, tmp_path / "m.gguf")).config.tie_word_embeddings is tied


YARN = {"rope_type": "yarn", "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize("ropes", [YARN, LINEAR, LLAMA3], ids=["yarn", "linear", "llama3"])
def test_scaled_positions_survive(model: Callable[..., Path], tmp_path: Path, ropes: dict[str, Any]) -> None:
    folder = model("llama", rope_parameters=ropes)
    if ropes is LLAMA3:
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        turns, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(folder), CPU)
        factors = 5e5 ** -(np.arange(0, 16, 2) / 16) / turns.numpy()
        assert (factors.min(), factors.max()) == pytest.approx((1, 32))
        file = write_gguf(folder, tmp_path / "m.gguf", more={"rope_freqs.weight": factors})
    else:
        first = ropes.get("original_max_position_embeddings")
        values = {"type": ropes["rope_type"], "factor": ropes["factor"], "original_context_length": first}
        file = write_gguf(folder, tmp_path / "m.gguf", values={f"ARCH.rope.scaling.{k}": v for k, v in values.items()})
    ours = check_same(folder, file)
    assert ours.config.rope_parameters == ropes


def test_gemma_3_scales_positions_of_its_global_blocks_alone(model: Callable[..., Path], tmp_path: Path) -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    folder = model("gemma3-six", rope_parameters=ropes)
    values = {"ARCH.rope.scaling.type": "linear", "ARCH.rope.scaling.factor": 8.0}
    ours = check_same(folder, write_gguf(folder, tmp_path / "m.gguf", values=values))
    assert ours.config.rope_parameters == ropes


def test_texts_begin_with_bos_where_the_file_or_its_kind_says_so(model: Callable[..., Path], tmp_path: Path) -> None:
    folder = model("llama")

    def first(**values: Any) -> tuple[int, int]:
        named = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
        file = write_gguf(folder, tmp_path / "m.gguf", values=named)
        ids = load(str(file), kind="decoder", device=CPU).tokenizer("x", add_special_tokens=True)["input_ids"]
        return ids[0], ids[-1]

    assert first()[0] == 0
    assert first(add_bos_token=False)[0] > 2
    assert first(add_bos_token=None)[0] > 2  # as GPT-2
    assert first(add_bos_token=None, pre="llama-bpe")[0] == 0  # as Llama 3
    assert first(add_eos_token=True)[1] == 2


def test_reloading_the_folder_keeps_how_text_is_cut(model: Callable[..., Path], tmp_path: Path) -> None:
    """AutoTokenizer must not put the rules of the model's type in the place of those in the file."""
    for name in ("llama", "qwen2", "gemma"):
        folder = model(name)
        made = folder_of(str(write_gguf(folder, tmp_path / f"{name}.gguf", pre="smollm")))
        tokenizer = AutoTokenizer.from_pretrained(made)
        pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12")]
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        assert pieces == ["a", "Ġ", "1", "2"]
