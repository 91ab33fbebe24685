"""What earlier commands left of a run: a finished one with the same settings and rows, or checkpoints of its training."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lasttoken.config.parse import flat, read_run, to_toml
from lasttoken.config.run import Run
from lasttoken.data.dataset import Splits
from lasttoken.data.splits_file import data_digest
from lasttoken.errors import ArtifactError
from lasttoken.journal import Journal
from lasttoken.record.artifact import SETTINGS
from lasttoken.record.folder import check_no_checkpoints, checkpoints_of, json_bytes, read_json, updates_in
from lasttoken.train.distributed import World
from lasttoken.wording import there_and_here

if TYPE_CHECKING:
    from lasttoken.train.outcome import Stop
    from lasttoken.train.state import TrainState

ROWS, BASE = "the rows", "the base model"  # what may differ beside settings


@dataclass(frozen=True)
class Keeping:
    """Checkpoints of a run's training."""

    resume: bool = False  # go on from them; else a training that has some is refused
    every: float = 60.0  # seconds from one to the next at least
    stop: Stop | None = None  # signals that end the training between two updates


def kept_state(
    config: Run, splits: Splits, folder: Path, keeping: Keeping, *, world: World, journal: Journal
) -> TrainState:
    """The state of the run's last checkpoint, or a new one; it writes checkpoints from now on.

    Raises ArtifactError where there are some and they are not to be used, or belong to another training.
    """
    from lasttoken.train.checkpoints import Checkpoints
    from lasttoken.train.outcome import Stop
    from lasttoken.train.state import TrainState

    about = {"config.toml": to_toml(config), "data.json": json_bytes(rows_and_base(config, splits), indent=1).decode()}
    keeper = Checkpoints(folder, about, keeping.every, keeping.stop or Stop(), world=world, journal=journal)
    if not keeping.resume:
        check_no_checkpoints(folder)
    if updates_in(checkpoints_of(folder)):
        check_same_training(config, splits, checkpoints_of(folder))
    found = keeper.read() if keeping.resume else None
    if found is not None:
        journal.note(f"resumes {checkpoints_of(folder)} after update {found.update}")
    state = found or TrainState()
    state.keeper = keeper
    return state


def rows_and_base(config: Run, splits: Splits) -> dict[str, str | None]:
    """Digests of the rows and of the base model's files."""
    base = getattr(config.method, "model", None)
    if base is not None:
        from lasttoken.model.load import fingerprint  # methods without a model need not wait for transformers

        base = fingerprint(base)
    return {ROWS: data_digest(splits), BASE: base}


def check_same_training(config: Run, splits: Splits, folder: Path) -> None:
    """Raises ArtifactError, naming what differs, where the checkpoints in `folder` are of another training."""
    others = differences(read_run(folder / "config.toml"), config)
    kept, now = read_json(folder / "data.json"), rows_and_base(config, splits)
    others |= {name: () for name, value in now.items() if kept.get(name) != value}
    if others:
        raise ArtifactError(
            f"{folder} holds a training that differs in {shown(others)}; give its command again, or delete that folder"
        )


def settings_of(config: Run) -> dict[str, Any]:
    """The settings by dotted name, as a file would hold them."""
    return dict(flat(tomllib.loads(to_toml(config))))


def check_same(config: Run, splits: Splits, folder: Path) -> None:
    """Raises ArtifactError if the run in `folder` has other settings, rows or another base model."""
    others = differences(read_run(folder / "config.toml"), config)
    if read_json(folder / "env.json")["data_digest"] != data_digest(splits):
        others[ROWS] = ()
    base = read_json(folder / SETTINGS).get("base") or {}
    if base.get("fingerprint") is not None:
        from lasttoken.model.load import fingerprint  # methods without a model need not wait for transformers

        others |= {BASE: ()} if fingerprint(base["name"]) != base["fingerprint"] else {}
    if others:
        raise ArtifactError(f"{folder} holds a run that differs in {shown(others)}; name another folder with --out")


def differences(there: Run, here: Run) -> dict[str, tuple[Any, ...]]:
    """Dotted name -> (value there, value here) of the settings in which two runs differ."""
    # compared as TOML, since one was read from a file
    a, b = settings_of(there), settings_of(here)
    return {name: (a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)}


def shown(others: Mapping[str, tuple[Any, ...]]) -> str:
    """What differs, in words; not the rows where a setting that decides them says why. An empty tuple: no values to show."""
    why = any(name.startswith("data.") or name == "seed" for name in others)
    words = [
        there_and_here(name, *values) if values else name
        for name, values in others.items()
        if not (why and name == ROWS)
    ]
    return ", ".join(words[:5]) + (", ..." if words[5:] else "")
