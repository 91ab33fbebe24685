"""The files that every method's folder is made of: method.json and tensors in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lasttoken.config import METHOD_CONFIGS, Settings, parse
from lasttoken.errors import ArtifactError, ConfigError, DataError
from lasttoken.labels import LabelSpace

SETTINGS = "method.json"


def write_settings(folder: Path, config: Settings, labels: LabelSpace, **extra: Any) -> None:
    """method.json: the config, the labels, and what else the method must know to predict."""
    values = {
        "config": config.model_dump(mode="json"),
        "labels": {"names": labels.names, "multi": labels.multi},
        **extra,
    }
    (folder / SETTINGS).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> tuple[Any, LabelSpace, dict[str, Any]]:
    """(config, labels, everything else) of `write_settings`. Raises ArtifactError."""
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name = values["config"]["method"]
        if name not in METHOD_CONFIGS:
            raise ArtifactError(f"{folder}: method {name!r} is not known to this version; update lasttoken")
        config = parse(METHOD_CONFIGS[name], values.pop("config"))
        labels = values.pop("labels")
        return config, LabelSpace(tuple(labels["names"]), labels["multi"]), values
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing; this folder is not a whole run") from error
    except (ValueError, KeyError, TypeError, ConfigError, DataError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fit again") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file of copies on the CPU."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ArtifactError."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing; this folder is not a whole run") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fit again") from error


def load_head(module: nn.Module, folder: Path) -> None:
    """Fill a head with head.safetensors. Raises ArtifactError where that is another head's."""
    path = folder / "head.safetensors"
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise ArtifactError(f"{path}: damaged, or not of this run ({str(error).splitlines()[0]}); fit again") from error
