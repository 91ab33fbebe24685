"""Which base model a run was trained on, and whether that is the one that is here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lasttoken.config import Settings
from lasttoken.errors import ArtifactError
from lasttoken.methods.artifact import SETTINGS
from lasttoken.model.backbone import fingerprint, load_config
from lasttoken.model.lora import Merge

AnyConfig = TypeVar("AnyConfig", bound=Settings)


def describe_base(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, str | None]:
    """What identifies the base model: its name, the hub commit it came from, or the fingerprint of its folder."""
    commit = getattr(load_config(name, revision=revision, trust_remote_code=trust_remote_code), "_commit_hash", None)
    return {"name": name, "commit": commit, "fingerprint": fingerprint(name)}


def on_base(
    config: AnyConfig,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    model: str | None = None,
    merge: Merge | None = None,
) -> AnyConfig:
    """`config` with the base model as it is to be loaded: the very one that the run in `folder` was trained on.

    settings: what `read_settings` gave beside config and labels. model: the folder that the base model is in here, where that
    is another than in training. merge: in the place of what the run was fitted with. A model of the hub is taken at its
    commit, so that a newer upload does not slip under the adapter. Raises ArtifactError where a folder holds other weights
    than those the run was trained on.
    """
    base = settings.get("base")
    if not isinstance(base, dict):
        raise ArtifactError(f"{folder / SETTINGS}: damaged (it names no base model); fit again")
    place, wanted = model or base.get("name"), base.get("fingerprint")
    found = None if place is None or wanted is None else fingerprint(place)
    if wanted is not None and found is None:
        raise ArtifactError(
            f"the base model of {folder} is not in {Path(str(place)).absolute()}; name the folder that it is in: --model FOLDER, "
            "in Python load(run, model=FOLDER)"
        )
    if found != wanted:
        raise ArtifactError(
            f"{place}: another model than the one that {folder} was trained on, or it has changed since; restore it, name the "
            "folder that it is in (--model FOLDER), or fit again"
        )
    changed: dict[str, Any] = {} if merge is None else {"merge": merge}
    if model is not None:
        changed |= {"model": model, "revision": None}
    elif base.get("commit"):
        changed["revision"] = base["commit"]
    return config.model_copy(update=changed)
