"""Sentence encoders: how the files of sentence-transformers beside a model say that a text becomes a vector.

`modules.json` lists the steps: the transformer, a pooling, then any of Dense and Normalize. Other steps are refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lasttoken.errors import ModelError
from lasttoken.model.files import locate
from lasttoken.model.load import Source
from lasttoken.model.pooling import Pooling
from lasttoken.wording import first_line

MODULES = "modules.json"
OWN = re.compile(r"^sentence_transformers\.(.*\.)?")  # in front of the name of a class, by version
POOLINGS: dict[str, Pooling] = {"mean": "mean", "max": "max", "cls": "first", "lasttoken": "last"}
OLDER = {"mean_tokens": "mean", "max_tokens": "max", "cls_token": "cls", "lasttoken": "lasttoken"}  # pooling_mode_...
ACTIVATIONS: dict[str, type[nn.Module]] = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}
WITHOUT = "set pooling, to mean for example, and the probe reads the model without it"


class Normalize(nn.Module):
    """Vectors (N, H) scaled to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


@dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """What follows the last layer, and how texts are given to the model."""

    pooling: Pooling
    layers: nn.Sequential  # Dense and Normalize, on the pooled vectors (N, H)
    limit: int | None = None  # most tokens of a text; None: the model's window
    prompt: str = ""  # in front of every text

    @torch.no_grad()
    def finish(self, pooled: np.ndarray) -> np.ndarray:
        """The embeddings (N, H') of pooled hidden states (N, H), both float32."""
        return self.layers(torch.from_numpy(pooled)).numpy()

    def layers_on(self, device: torch.device) -> nn.Module:
        """A copy of the layers on `device`."""
        return copy.deepcopy(self.layers).to(device)

    @property
    def digest(self) -> str:
        """sha256 of all that it does: a run knows by it whether the files have changed."""
        whole = hashlib.sha256(repr((self.pooling, str(self.layers), self.limit, self.prompt)).encode())
        for tensor in self.layers.state_dict().values():
            whole.update(tensor.numpy().tobytes())
        return whole.hexdigest()


def file_of(source: Source, name: str) -> Path | None:
    """The path of one of the model's files, downloaded if it is on the Hub; None where there is none."""
    folder = Path(locate(source.name))
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.name, name, revision=source.revision))
    except (OSError, ValueError):  # also where the model itself is missing: loading it says so
        return None


def read_json(source: Source, name: str) -> dict[str, Any]:
    """The content of one of the model's JSON files; {} where there is none. Raises ModelError on a broken file."""
    found = parsed(source, name)
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"model {source.name!r}: {name} holds no settings by name; restore it")
    return found or {}


def parsed(source: Source, name: str) -> Any:
    """What a JSON file holds; None where there is none. Raises ModelError if it is no JSON."""
    path = file_of(source, name)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model {source.name!r}: {name} is no JSON ({first_line(error)}); restore it") from error


def modules_of(source: Source) -> list[tuple[str, str]] | None:
    """(kind, folder) of each module in modules.json; None without that file. Raises ModelError on a broken one.

    kind: the name of a class of sentence-transformers, or the whole name of a model's own class.
    """
    listed = parsed(source, MODULES)
    if listed is None:
        return None
    try:
        found = sorted(listed, key=lambda module: module["idx"])
        return [(OWN.sub("", str(module["type"])), str(module["path"]).strip("./")) for module in found]
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"model {source.name!r}: {MODULES} is no list of modules with idx, type and path; restore it, or {WITHOUT}"
        ) from error


def sentence_encoder(source: Source) -> SentenceEncoder | None:
    """The model's own way to an embedding; None where it has no modules.json.

    Raises ModelError on a broken file, and on a module or a setting that is not supported.
    """
    modules = modules_of(source)
    if modules is None:
        return None
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        odd = next((kind for kind in kinds if kind not in KNOWN), " and ".join(kinds) or "nothing")
        raise unsupported(source, f"{MODULES} names a module that is not supported there: {odd}")
    layers = [made for kind, folder in modules[2:] for made in layer_of(source, kind, folder)]
    said = read_json(source, "config_sentence_transformers.json")
    prompt = (said.get("prompts") or {}).get(said.get("default_prompt_name")) or ""
    pooling = read_json(source, f"{modules[1][1]}/config.json")
    if prompt and not pooling.get("include_prompt", True):
        raise unsupported(source, "its pooling leaves the prompt out (include_prompt = false), which is not supported")
    limit = read_json(source, "sentence_bert_config.json").get("max_seq_length")
    return SentenceEncoder(pooling_of(source, pooling), nn.Sequential(*layers).eval(), limit, prompt)


def pooling_of(source: Source, said: dict[str, Any]) -> Pooling:
    """The pooling of 1_Pooling/config.json, written as today or as before version 5.7. Raises ModelError."""
    older = [name.removeprefix("pooling_mode_") for name, on in said.items() if name.startswith("pooling_mode_") and on]
    mode = said.get("pooling_mode") or [OLDER.get(name, name) for name in older] or "mean"
    modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise unsupported(source, f"its pooling is not supported: {' and '.join(map(str, modes))}")
    return POOLINGS[modes[0]]


def layer_of(source: Source, kind: str, folder: str) -> list[nn.Module]:
    """The layer that a module behind the pooling is; none for Dropout. Raises ModelError if it is not supported."""
    said = read_json(source, f"{folder}/config.json") if kind in ("Dense", "Normalize") else {}
    elsewhere = {said.get(f"module_{end}_name") or "sentence_embedding" for end in ("input", "output")}
    if kind not in KNOWN or elsewhere != {"sentence_embedding"} or said.get("use_residual"):
        raise unsupported(source, f"{MODULES} names a module that is not supported: {folder or kind} ({kind})")
    if kind != "Dense":
        return [Normalize()] if kind == "Normalize" else []
    activation = str(said.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise unsupported(source, f"{folder} has an activation that is not supported: {activation}")
    tensors = {name.removeprefix("linear."): tensor.float() for name, tensor in weights_of(source, folder).items()}
    linear = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0], bias="bias" in tensors)
    linear.load_state_dict(tensors)
    return [linear.requires_grad_(False), ACTIVATIONS[activation]()]


KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")


def weights_of(source: Source, folder: str) -> dict[str, Tensor]:
    """The tensors of a module's folder. Raises ModelError where there are none."""
    if path := file_of(source, f"{folder}/model.safetensors"):
        return load_file(path)
    if path := file_of(source, f"{folder}/pytorch_model.bin"):
        return torch.load(path, map_location="cpu", weights_only=True)
    raise ModelError(f"model {source.name!r}: {folder} has no model.safetensors; restore it, or {WITHOUT}")


def unsupported(source: Source, what: str) -> ModelError:
    """The error on files that say what is not supported here."""
    return ModelError(f"model {source.name!r}: {what}; {WITHOUT}")
