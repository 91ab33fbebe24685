"""The rows of a model's vocabulary head that belong to label names: where a classification head may begin.

The vocabulary head is not loaded with the backbone. Where it shares its weights with the token embeddings those are
read, else the few rows are read from the model's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress

import torch
from safetensors import safe_open
from torch import Tensor

from lasttoken.errors import ModelError
from lasttoken.model.backbone import Backbone
from lasttoken.model.files import find_file
from lasttoken.model.load import logit_scale

HEAD = "lm_head.weight"  # the tensor in the files of transformers


def name_rows(backbone: Backbone, revision: str | None, labels: Sequence[str]) -> Tensor | None:
    """Rows (C, H) float32: the mean over each name's tokens, less the mean over labels; None where they are not at hand.

    A hidden state times a row is the mean next-token logit of the name's tokens, less the mean over labels, which softmax does
    not see. Logits are scaled as the model does; a soft cap of them (Gemma 2) is left out.
    """
    words = [" " + " ".join(re.findall(r"[^\W_]+", label)) for label in labels]
    ids = [backbone.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    flat = [number for each in ids for number in each]  # type: ignore[union-attr]
    rows = output_rows(backbone, revision, flat) if all(ids) else None
    if rows is None:
        return None
    parts = torch.split(rows, [len(each) for each in ids])  # type: ignore[arg-type]
    found = torch.stack([part.mean(dim=0) for part in parts])
    return (found - found.mean(dim=0)) * logit_scale(backbone.config)


def output_rows(backbone: Backbone, revision: str | None, ids: Sequence[int]) -> Tensor | None:
    """The rows (n, H) float32 of the vocabulary head with those ids; None where the files do not name it as usual."""
    if backbone.config.tie_word_embeddings:
        weight = backbone.module.get_input_embeddings().weight  # type: ignore[operator]
        return weight[torch.tensor(ids, device=weight.device)].float()
    with suppress(ModelError, OSError, KeyError, ValueError):
        index = find_file(backbone.name, revision, "model.safetensors.index.json", download=False)
        shard = "model.safetensors"
        if index is not None:
            shard = json.loads(index.read_text(encoding="utf-8"))["weight_map"][HEAD]
        file = find_file(backbone.name, revision, shard, download=False)
        if file is not None:
            with safe_open(file, framework="pt") as tensors:
                if HEAD in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    part = tensors.get_slice(HEAD)
                    return torch.stack([part[number] for number in ids]).float().to(backbone.device)
    return None
