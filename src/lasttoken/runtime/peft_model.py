"""A classifier as PEFT loads it from an exported folder: base model, adapter and head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from lasttoken.errors import ArtifactError
from lasttoken.labels import LabelSpace
from lasttoken.model.adapter import quiet as quiet_peft
from lasttoken.model.quiet import quiet
from lasttoken.wording import first_line


def loading(labels: LabelSpace, padding: int, quantize: str) -> Mapping[str, Any]:
    """What AutoPeftModelForSequenceClassification.from_pretrained needs to be told, because an adapter does not hold it."""
    kinds = {True: "multi_label_classification", False: "single_label_classification"}
    given: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels.names)),
        "label2id": {name: j for j, name in enumerate(labels.names)},
        "problem_type": kinds[labels.multi],
        "pad_token_id": padding,
    }
    if quantize == "nf4":
        given["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    return given


def read_adapter(folder: Path, labels: LabelSpace, padding: int, quantize: str) -> Any:
    """The classifier, as PEFT loads it: base model, adapter and head. Raises ArtifactError."""
    from peft import AutoPeftModelForSequenceClassification

    try:
        with quiet(), quiet_peft():
            return AutoPeftModelForSequenceClassification.from_pretrained(
                str(folder), dtype=torch.float32, **loading(labels, padding, quantize)
            ).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: PEFT cannot load it ({first_line(error)}); its base model has to be where adapter_config.json says"
        ) from error
