"""Which workers a job gets: those asked for, or as many as the machine or the cluster has room for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lasttoken.config.parse import read_run
from lasttoken.errors import ConfigError
from lasttoken.predict.engines import Engine, Here, Place, Processes
from lasttoken.predict.worker import load
from lasttoken.record.folder import is_export
from lasttoken.wording import did_you_mean

ENGINES = ("local", "ray")


@contextmanager
def engine_of(
    run: Path, how: dict[str, Any], name: str, workers: int | None, tell: Callable[[str], None]
) -> Iterator[Engine]:
    """The workers of a job, ended with the block.

    how: options of `load`. name: of the engine. workers: None: as many as there is room for. tell: is told what takes a while.
    Raises ConfigError where there is no such engine, or no room.
    """
    if name not in ENGINES:
        raise ConfigError([f"--engine: {name!r} is not among {', '.join(ENGINES)}{did_you_mean(name, ENGINES)}"])
    loading = partial(load, run, **how)
    if name == "ray":
        from lasttoken.cluster import joined, room
        from lasttoken.predict.on_ray import OnRay

        tell("joining the cluster")
        with joined():
            computes = uses_model(run)
            gpus = 1.0 if computes and how["device"] != "cpu" else 0.0
            where = room(workers, gpus=gpus, cpus=None if computes else 1)
            tell(f"loading the model in {where.workers} workers")
            yield OnRay(loading, where)
        return
    places = places_of(run, how["device"], workers)
    if len(places) > 1:
        tell(f"loading the model in {len(places)} workers")
        yield Processes(loading, places)
    else:
        tell("loading the model")
        yield Here(loading)


def uses_model(run: Path) -> bool:
    """Whether a run or export computes with a language model, whose operations use all cores or a GPU."""
    return is_export(run) or read_run(run / "config.toml").method.method != "linear"


def places_of(run: Path, device: str, workers: int | None) -> list[Place]:
    """The environments of `workers` processes; None: one for each GPU, one for each core without a language model, else one.

    Raises ConfigError where there are fewer GPUs.
    """
    cores = os.cpu_count() or 1
    if not uses_model(run):
        return [{"OMP_NUM_THREADS": "1"}] * (workers or cores)
    cards = [] if device in ("cpu", "mps") or is_export(run) else visible_cards()
    if cards and workers is not None and workers > len(cards):
        raise ConfigError([f"--workers: {workers} asked for, this machine has {len(cards)} GPUs, each for one worker"])
    if cards:
        return [{"CUDA_VISIBLE_DEVICES": card} for card in cards[:workers]]
    each = str(max(1, cores // (workers or 1)))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", each)}] * (workers or 1)


def visible_cards() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    return given or [str(i) for i in range(torch.cuda.device_count())]
