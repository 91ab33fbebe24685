"""The files that every method's folder is made of: method.json and tensors in safetensors, and the base model's identity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lasttoken.config import METHOD_CONFIGS, Settings, parse
from lasttoken.errors import ArtifactError, ConfigError, DataError
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import fingerprint, load_config

SETTINGS = "method.json"

AnyConfig = TypeVar("AnyConfig", bound=Settings)


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


def describe_base(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, str | None]:
    """What identifies the base model: its name, the hub commit it came from, or the fingerprint of its folder."""
    commit = getattr(load_config(name, revision=revision, trust_remote_code=trust_remote_code), "_commit_hash", None)
    return {"name": name, "commit": commit, "fingerprint": fingerprint(name)}


def load_head(module: nn.Module, folder: Path) -> None:
    """Fill a head with head.safetensors. Raises ArtifactError where that is another head's."""
    path = folder / "head.safetensors"
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise ArtifactError(f"{path}: damaged, or not of this run ({str(error).splitlines()[0]}); fit again") from error


def check_base(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises ArtifactError where the folder of the base model holds other weights than those the run was trained on.

    settings: what `read_settings` gave beside config and labels.
    """
    base = settings.get("base")
    if not isinstance(base, dict):
        raise ArtifactError(f"{folder / SETTINGS}: damaged (it names no base model); fit again")
    name, wanted = base.get("name"), base.get("fingerprint")
    if name is not None and wanted is not None and fingerprint(name) != wanted:
        raise ArtifactError(
            f"the base model {name!r} is missing or has changed since this run was trained; restore it or fit again"
        )


def at_commit(config: AnyConfig, settings: Mapping[str, Any]) -> AnyConfig:
    """`config` with the hub commit that the run was trained on, so that a newer upload does not slip under its adapter."""
    commit = settings["base"].get("commit")
    return config.model_copy(update={"revision": commit}) if commit else config
