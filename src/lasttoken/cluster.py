"""A Ray cluster, joined for the time of one command: that of RAY_ADDRESS, or one of this machine alone."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from lasttoken.errors import ConfigError
from lasttoken.wording import counted

ADDRESS = "RAY_ADDRESS"  # environment variable of Ray: the cluster to join


@dataclass(frozen=True)
class Room:
    """Workers that a cluster has room for, and what each takes of it."""

    workers: int
    cpus: float
    gpus: float


def check_ray() -> None:
    """Raises ConfigError where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError(["--engine ray needs the package ray: pip install 'lasttoken[ray]'"])


@contextmanager
def joined() -> Iterator[None]:
    """Within the block this process is connected to the cluster. Raises ConfigError where that is not possible."""
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray's makers are told of every cluster
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep CUDA_VISIBLE_DEVICES
    if not os.environ.get(ADDRESS) and "ray" not in sys.modules:  # it reads these once
        # Ray listens on every address of the machine: let nobody in without the token
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = os.environ.get(ADDRESS) or "this machine"
        raise ConfigError([f"--engine ray: no cluster at {where} ({str(error).strip().splitlines()[0]})"]) from error
    try:
        yield
    finally:
        ray.shutdown()


def room(workers: int | None, *, gpus: float, cpus: int | None) -> Room:
    """Room for so many workers on the cluster that was joined; None: for as many as there can be.

    gpus: of each; on a cluster without GPUs none. cpus: of each one without a GPU; None: all of the smallest machine's.
    Raises ConfigError where not one fits.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus and any(node.get("GPU") for node in alive):
        share = 1.0
    else:
        gpus, least = 0.0, min((node["CPU"] for node in alive if node.get("CPU")), default=0.0)
        each = 1 if workers is None else -(-workers // max(1, len(alive)))  # workers on a machine, shared out evenly
        share = float(cpus or max(1.0, least // each))
    most = sum(fit(node, share, gpus) for node in alive)
    if most < 1:
        wanted = [f"{gpus:g} GPU free"] if gpus else []
        wanted += [f"{counted(int(share), 'CPU', 'CPUs')} free"]
        raise ConfigError(
            [
                f"--engine ray: none of {counted(len(alive), 'machine', 'machines')} has {' and '.join(wanted)} for a worker"
            ]
        )
    return Room(min(workers or most, most), share, gpus)


def fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Workers of these needs that a machine has room for."""
    by_cpus = node.get("CPU", 0.0) // cpus
    return int(min(by_cpus, node.get("GPU", 0.0) // gpus) if gpus else by_cpus)


def enter(folder: str) -> None:
    """Work in a folder of the command's machine, here. Raises ConfigError where this machine has none of that name."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            [
                f"--engine ray: {socket.gethostname()} has no folder {folder}; give all machines the same disk, or start there"
            ]
        ) from error
