"""Identity of a run's base model, and the check that the same model is loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from lasttoken.config.settings import Settings
from lasttoken.errors import ArtifactError
from lasttoken.journal import LOGGER
from lasttoken.model.backbone import Backbone
from lasttoken.model.files import locate
from lasttoken.model.load import Source, fingerprint, load_config
from lasttoken.model.lora import Merge
from lasttoken.model.precision import choose_precision, slower_here
from lasttoken.model.sentence import file_of
from lasttoken.model.static import is_static
from lasttoken.record.artifact import SETTINGS

AnyConfig = TypeVar("AnyConfig", bound=Settings)


def describe_base(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, str | None]:
    """Identity of a base model: its name, its hub commit, and the fingerprint of its folder."""
    if is_static(source := Source(name, revision)):
        path = file_of(source, "config.json")  # in the Hub's cache: snapshots/COMMIT/config.json
        commit = None if path is None or Path(locate(name)).is_dir() else path.parent.name
    else:
        commit = getattr(
            load_config(name, revision=revision, trust_remote_code=trust_remote_code), "_commit_hash", None
        )
    return {"name": name, "commit": commit, "fingerprint": fingerprint(name)}


def on_base(
    config: AnyConfig,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    model: str | None = None,
    merge: Merge | None = None,
) -> AnyConfig:
    """`config` set to load the base model that the run in `folder` was trained on.

    settings: the further values from `read_settings`. model: folder of the base model, if it has moved since training.
    merge: overrides the run's setting. A hub model is pinned to its commit, so that a newer upload is not used. Raises
    ArtifactError if a folder holds other weights than those the run was trained on.
    """
    base = settings.get("base")
    if not isinstance(base, dict):
        raise ArtifactError(f"{folder / SETTINGS}: damaged (no base model in it); fit again")
    place, expected = model or base.get("name"), base.get("fingerprint")
    actual = None if place is None or expected is None else fingerprint(place)
    if expected is not None and actual is None:
        raise ArtifactError(
            f"the base model of {folder} is not in {Path(str(place)).absolute()}; give its folder: --model FOLDER, "
            "in Python load(run, model=FOLDER)"
        )
    if actual != expected:
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


def in_precision(config: Any, asked: str | None, device: torch.device) -> Any:
    """The config of a saved run with the precision to load it in: what is `asked` for, else what the run recorded.

    Runs of before it was recorded say `auto`; they were computed in bfloat16 wherever that was native.
    """
    if asked is None and config.precision == "auto":
        asked = choose_precision(device, measure=False).name
    return config if asked is None else config.model_copy(update={"precision": asked})


def tell_if_slower(backbone: Backbone, asked: str | None) -> None:
    """Warn in one sentence of a run whose precision is the slower one on this machine, unless it was `asked` for."""
    if asked is None and (told := slower_here(backbone.device, backbone.compute, backbone.config)):
        LOGGER.warning(told)
