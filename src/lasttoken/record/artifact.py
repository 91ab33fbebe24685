"""The files of a saved method: method.json and tensors in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.parse import of_today, parse
from lasttoken.config.settings import Settings
from lasttoken.errors import ArtifactError, ConfigError, DataError
from lasttoken.labels import LabelSpace
from lasttoken.record.folder import write_json

SETTINGS = "method.json"


def write_settings(folder: Path, config: Settings, labels: LabelSpace, **extra: Any) -> None:
    """Write method.json: the config, the labels, and anything else that prediction needs."""
    values = {
        "config": config.model_dump(mode="json"),
        "labels": {"names": labels.names, "multi": labels.multi},
        **extra,
    }
    write_json(folder / SETTINGS, values)


def read_settings(folder: Path) -> tuple[Any, LabelSpace, dict[str, Any]]:
    """(config, labels, everything else) of `write_settings`. Raises ArtifactError."""
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name = values["config"]["method"]
        if name not in METHOD_CONFIGS:
            raise ArtifactError(f"{folder}: method {name!r} is not known to this version; update lasttoken")
        stored = of_today(values.pop("config"))
        if name == "embedding":  # linear heads had a bias before there was a setting for it
            stored.setdefault("head_bias", True)
        config = parse(METHOD_CONFIGS[name], stored)
        labels = values.pop("labels")
        return config, LabelSpace(tuple(labels["names"]), labels["multi"]), values
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing; this folder is not a whole run") from error
    except (ValueError, KeyError, TypeError, ConfigError, DataError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fit again") from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises ArtifactError."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing; this folder is not a whole run") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fit again") from error
