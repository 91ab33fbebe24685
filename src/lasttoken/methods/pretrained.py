"""Which base model a run was trained on, and whether that is the one that is here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lasttoken.config import Settings
from lasttoken.errors import ArtifactError
from lasttoken.methods.artifact import SETTINGS
from lasttoken.model.backbone import fingerprint, load_config

AnyConfig = TypeVar("AnyConfig", bound=Settings)


def describe_base(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, str | None]:
    """What identifies the base model: its name, the hub commit it came from, or the fingerprint of its folder."""
    commit = getattr(load_config(name, revision=revision, trust_remote_code=trust_remote_code), "_commit_hash", None)
    return {"name": name, "commit": commit, "fingerprint": fingerprint(name)}


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
