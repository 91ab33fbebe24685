"""Shapes read from config.json against the models that transformers builds from the same configs, on the meta device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MAKERS, WINDOW
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    ModernBertConfig,
    PretrainedConfig,
    Qwen2Config,
)

from lasttoken.errors import ModelError
from lasttoken.model.load import text_model
from lasttoken.plan.model_shape import ModelShape, load_shape

IDS = {"vocab_size": 300, "max_position_embeddings": WINDOW, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 300}
UNKNOWN = {"opt": "opt", "qwen3-moe": "qwen3_moe", "albert": "albert", "mamba": "mamba", "t5": "t5"}
UNKNOWN |= {"falcon": "falcon", "falcon-alibi": "falcon", "bloom": "bloom", "mpt": "mpt", "jamba": "jamba"}
UNKNOWN |= {"llama4": "llama4_text", "gpt-oss": "gpt_oss", "deepseek-v3": "deepseek_v3", "qwen3.5": "qwen3_5_text"}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    **{name: lambda make=make: make(dict(IDS)) for name, make in MAKERS.items() if name not in UNKNOWN},
    "qwen2": lambda: Qwen2Config(**SMALL, num_key_value_heads=2, intermediate_size=96),
    "biased": lambda: LlamaConfig(
        **SMALL, intermediate_size=96, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama-7b": LlamaConfig,
    "gemma2-2b": Gemma2Config,
    "modernbert-base": ModernBertConfig,
}


@pytest.mark.parametrize("whole", [True, False], ids=["every value", "only what is no default"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_parameters_are_counted_exactly(name: str, whole: bool) -> None:
    config = CONFIGS[name]()
    values = {"model_type": config.model_type, **json.loads(config.to_json_string(use_diff=not whole))}
    shape = ModelShape(name, values)
    with torch.device("meta"):
        made = text_model(AutoModel.from_config(config))
    assert shape.parameters == sum(p.numel() for p in made.parameters())
    if "encoder" not in shape.values and not name.endswith("nested"):
        with torch.device("meta"):
            causal = AutoModelForCausalLM.from_config(config)
        assert shape.parameters + shape.head == sum(p.numel() for p in causal.parameters())


def test_known_models_have_the_parameters_they_are_named_for() -> None:
    llama3 = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    llama3 |= {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
    shape = ModelShape("Llama-3.1-8B", llama3)
    assert (shape.parameters + shape.head, shape.head) == (8_030_261_248, 128256 * 4096)
    assert load_shape("tiny").parameters == 6_917_376


def test_of_a_nested_config_the_text_model_is_read() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    shape = ModelShape("gemma-3-4b", {"model_type": "gemma3", "text_config": text})
    assert (shape.vocabulary, shape.queries, shape.keys, shape.head) == (262208, 8 * 256, 4 * 256, 0)


def test_windows() -> None:
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 128}
    assert ModelShape("a", {**SMALL, "max_position_embeddings": 256, "rope_parameters": longrope}).window == 128
    assert ModelShape("a", {**SMALL, "model_type": "roberta", "max_position_embeddings": 514}).window == 512
    assert ModelShape("a", SMALL).window == 1024


@pytest.mark.parametrize("name", sorted(UNKNOWN))
def test_other_types_are_refused_by_name(name: str) -> None:
    values = MAKERS[name](dict(IDS)).to_dict()
    with pytest.raises(
        ModelError, match=rf"^model 'a': a plan cannot count the type '{UNKNOWN[name]}'; it knows llama, "
    ):
        ModelShape("a", values)


def test_a_size_that_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not give num_hidden_layers and num_attention_heads$"):
        ModelShape("a", {"model_type": "llama", "hidden_size": 64, "vocab_size": 9})


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json$"):
        load_shape(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        load_shape(str(tmp_path))
