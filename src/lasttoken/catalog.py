"""The methods by name. Adding one: a file in methods/, a config model in config.py, a line here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lasttoken.config import MethodConfig
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.journal import Journal
from lasttoken.methods.classifier import Classifier

METHODS = ("embedding", "instruction", "encoder", "probe", "linear")


@dataclass(frozen=True)
class Family:
    """What a file of methods/ offers."""

    fit: Callable[..., Classifier]
    load: Callable[..., Classifier]


def family(name: str) -> Family:
    """The family of a method, imported on first use. Raises ConfigError on an unknown name."""
    if name not in METHODS:
        raise ConfigError([f"method: {name!r} is not among {', '.join(METHODS)}"])
    # bitsandbytes remarks on an optional kernel when it is imported; it is no user's business
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    module: Any = import_module(f"lasttoken.methods.{name}")
    return Family(module.fit, module.load)


def fit(
    config: MethodConfig,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int = 0,
    device: str = "auto",
    journal: Journal | None = None,
) -> Classifier:
    """The classifier that `config` describes, fitted on `train`; `valid` decides what training leaves open."""
    journal = Journal() if journal is None else journal
    return family(config.method).fit(config, train, valid, seed=seed, device=device, journal=journal)


def load(
    folder: Path,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    model: str | None = None,
    merge: str | None = None,
) -> Classifier:
    """The classifier saved in a method folder, its base model in the folder `model` where that is given.

    merge: auto or off, in the place of what it was fitted with (`method.merge`). Raises ArtifactError on one that is damaged,
    of an unknown method, or trained on another base model; ConfigError on a `model` for a run that holds all of its own, on
    another `merge`, or on one for a method without an adapter.
    """
    from lasttoken.methods.artifact import read_settings

    config, _, rest = read_settings(folder)
    if model is not None and "base" not in rest:
        raise ConfigError([f"model: {folder} holds all of its {config.method} model and needs no other; leave it out"])
    if getattr(config, "trust_remote_code", False) and not trust_remote_code:
        raise ArtifactError(
            f"{folder}: its base model brings its own code, which loading would run; if you trust it, allow it "
            "(--trust-remote-code, or trust_remote_code=True)"
        )
    if merge not in (None, "auto", "off"):
        raise ConfigError([f"merge: {merge!r} is not among auto, off"])
    if merge is not None and "merge" not in type(config).model_fields:
        raise ConfigError([f"merge: method {config.method} has no adapter to merge; leave it out"])
    given = {"model": model, "merge": merge}
    kept = {name: value for name, value in given.items() if value is not None}
    return family(config.method).load(folder, device=device, **kept)
