"""A LoRA adapter with its head in PEFT's format: `modules_to_save` holds `score`, so that PEFT loads both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from lasttoken.errors import ConfigError
from lasttoken.labels import LabelSpace
from lasttoken.model.adapter import CONFIG, OLDER, WEIGHTS
from lasttoken.record.artifact import read_tensors, write_tensors
from lasttoken.record.folder import read_json, write_json
from lasttoken.runtime.peft_model import loading

INSIDE = "base_model.model."  # in front of the names of PEFT's tensors


def write_adapter(run: Path, layer: nn.Linear, base: str, revision: str | None, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors of a classifier over the base model in `base`.

    Raises ConfigError where the run has no adapter, or its base model is part of another.
    """
    if not (run / "adapter").is_dir():
        raise ConfigError(["--to peft: this run has no adapter (lora.r = 0); export to hf"])
    files = (run / "adapter" / CONFIG, run / "adapter" / WEIGHTS)
    if (run / "adapter" / OLDER).is_file():
        files = (run / "adapter" / OLDER, run / "adapter" / "adapter_model.safetensors")
    settings = read_json(files[0])
    settings |= {
        "task_type": "SEQ_CLS",
        "modules_to_save": ["score"],
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "auto_mapping": None,
    }
    if isinstance(targets := settings.get("target_modules"), list):
        settings["target_modules"] = sorted(targets)
    prefix = classifier_of(base).base_model_prefix
    tensors = read_tensors(files[1])
    renamed = {f"{INSIDE}{prefix}.{name.removeprefix(INSIDE)}": value for name, value in tensors.items()}
    renamed[f"{INSIDE}score.weight"] = layer.weight.detach().numpy().astype(np.float32)
    write_json(folder / "adapter_config.json", settings)
    write_tensors(folder / "adapter_model.safetensors", renamed)


def classifier_of(base: str) -> Any:
    """transformers' classifier class for the base model. Raises ConfigError where there is none, or it is part of another."""
    config = AutoConfig.from_pretrained(base)
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None or config.get_text_config() is not config:
        raise ConfigError(
            [f"model: transformers has no classifier for {config.model_type} alone; export to onnx or openvino"]
        )
    return kind


def snippet(labels: LabelSpace, padding: int, quantize: str) -> str:
    """Python that loads the adapter, for the card."""
    given = {key: value for key, value in loading(labels, padding, quantize).items() if key != "quantization_config"}
    lines = [f"    {key}={value!r}," for key, value in given.items()]
    if quantize == "nf4":
        lines.append(
            '    quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),'
        )
    more = ", BitsAndBytesConfig" if quantize == "nf4" else ""
    return "\n".join(
        [
            "from peft import AutoPeftModelForSequenceClassification",
            f"from transformers import AutoTokenizer{more}, pipeline",
            "",
            "model = AutoPeftModelForSequenceClassification.from_pretrained(",
            '    f"{FOLDER}/peft",',
            *lines,
            ")",
            'classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(f"{FOLDER}/peft"))',
            'print(classify("some text", truncation=True))',
        ]
    )
