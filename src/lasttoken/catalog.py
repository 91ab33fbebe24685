"""The methods by name. Adding one: a file in methods/, a config in config/methods.py, a line here, an estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lasttoken.config.methods import MethodConfig
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.journal import Journal, quieted
from lasttoken.methods.classifier import Classifier, Fitted

if TYPE_CHECKING:
    import torch

    from lasttoken.model.shared import Shared
    from lasttoken.train.state import TrainState

METHODS = ("embedding", "instruction", "encoder", "probe", "linear")
WITHOUT_TORCH = frozenset({"linear"})


@dataclass(frozen=True)
class Method:
    """The interface of a module in methods/."""

    fit: Callable[..., Fitted]
    load: Callable[..., Classifier]


def method(name: str) -> Method:
    """The module of a method, imported on first use. Raises ConfigError on an unknown name."""
    if name not in METHODS:
        raise ConfigError([f"method: {name!r} is not among {', '.join(METHODS)}"])
    with quieted("bitsandbytes"):  # it remarks on an optional kernel when it is imported
        module: Any = import_module(f"lasttoken.methods.{name}")
    return Method(module.fit, module.load)


def device_of(method: str, device: str) -> torch.device | None:
    """The device of a method; None for one without a model, which does not import torch."""
    from lasttoken.model.device import choose_device

    return None if method in WITHOUT_TORCH else choose_device(device)


def loading(config: MethodConfig) -> str:
    """The name of the first task of a fit."""
    return f"loading {getattr(config, 'model', config.method)}"


def fit(
    config: MethodConfig,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int = 0,
    device: str = "auto",
    journal: Journal | None = None,
    state: TrainState | None = None,
) -> Fitted:
    """The classifier described by `config`, fitted on `train`; model selection uses `valid`.

    journal: who watches. state: of a training to go on with (train/state.py); None begins anew.
    """
    journal = Journal() if journal is None else journal
    from lasttoken.model.device import peak_memory, reset_peak

    journal.progress(loading(config), 0, 0)
    chosen, told = method(config.method), len(journal.notes)
    place = device_of(config.method, device)
    reset_peak(place)
    fitted = chosen.fit(config, train, valid, seed=seed, device=device, journal=journal, state=state)
    peak = peak_memory(place)
    cost = replace(fitted.cost, peak_bytes=peak.bytes, peak_kind=peak.kind, peak_reserved=peak.reserved)
    return replace(fitted, cost=cost, notes=tuple(journal.notes[told:]))


def load(
    folder: Path,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    model: str | None = None,
    merge: str | None = None,
    precision: str | None = None,
    shared: Shared | None = None,
    backend: str | None = None,
) -> Classifier:
    """The classifier saved in a method folder, with its base model read from the folder `model` if given.

    merge: auto or off; precision: auto, float32 or bfloat16; each in the place of what it was fitted with. shared: models in
    memory that other runs have loaded, over whose weights this one is built. backend: of an exported model, the name of a
    form, or auto for the fastest. Raises
    ArtifactError on one that is damaged, of an unknown method, or trained on another base model; ConfigError on a `model` for
    a run that holds all of its own, on another `merge` or `precision`, or on one for a method that has none.
    """
    from lasttoken.record.artifact import read_settings
    from lasttoken.record.folder import is_export

    if is_export(folder):
        given = {"model": model, "merge": merge, "precision": precision, "device": None if device == "auto" else device}
        return exported(folder, backend, [name for name, value in given.items() if value not in (None, "cpu")])
    if backend is not None:
        raise ConfigError([f"backend: {folder} is a run, not an export; leave it out, or `lasttoken export` it first"])
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
    if precision not in (None, "auto", "float32", "bfloat16"):
        raise ConfigError([f"precision: {precision!r} is not among auto, float32, bfloat16"])
    if precision is not None and "precision" not in type(config).model_fields:
        raise ConfigError([f"precision: method {config.method} runs no model that has one; leave it out"])
    given = {"model": model, "merge": merge, "precision": precision}
    kept: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    kept |= {} if shared is None or "base" not in rest else {"shared": shared}
    return method(config.method).load(folder, device=device, **kept)


def exported(folder: Path, backend: str | None, given: list[str]) -> Classifier:
    """The model that `lasttoken export` wrote. given: options that only a run has. Raises ConfigError where there are any."""
    if given:
        raise ConfigError([f"{given[0]}: {folder} is an export, whose form says how it computes; leave it out"])
    with quieted("bitsandbytes"):
        from lasttoken.runtime.exported import read_export

        return read_export(folder, backend)
