"""A Ray cluster, joined for the time of one command: that of RAY_ADDRESS, or one of this machine alone."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from lasttoken.errors import ConfigError
from lasttoken.wording import counted, did_you_mean, first_line

ENGINES = ("local", "ray")  # values of --engine
ADDRESS = "RAY_ADDRESS"  # environment variable of Ray: the cluster to join
REACHED = 10.0  # seconds in which a cluster has to answer
TRIES = 4  # times that a piece of work is begun, if the process that does it is ended


@dataclass(frozen=True)
class Room:
    """Workers that a cluster has room for, and what each takes of it."""

    workers: int
    cpus: float
    gpus: float


def check_engine(name: str) -> None:
    """Raises ConfigError where there is no such engine, or Ray is not installed."""
    if name not in ENGINES:
        raise ConfigError([f"--engine: {name!r} is not among {', '.join(ENGINES)}{did_you_mean(name, ENGINES)}"])
    if name == "ray" and find_spec("ray") is None:
        raise ConfigError(["--engine ray needs the package ray: pip install 'lasttoken[ray]'"])


@contextmanager
def joined() -> Iterator[None]:
    """Within the block this process is connected to the cluster. Raises ConfigError where that is not possible."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send usage statistics to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # workers without a GPU keep CUDA_VISIBLE_DEVICES
    address = os.environ.get(ADDRESS) or "local"
    if address == "local" and "ray" not in sys.modules:  # it reads these once
        # Ray listens on every address of the machine: let nobody in without the token
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    check_reached(address)
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise no_cluster(address, error) from error
    except BaseException:  # Ctrl-C: what it has started by then
        ray.shutdown()
        raise
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray sets one of its own
    try:
        yield
    finally:
        ray.shutdown()


def check_reached(address: str) -> None:
    """Raises ConfigError where nobody listens at host:port; Ray would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
    except OSError as error:
        raise no_cluster(address, error) from error


def no_cluster(address: str, error: Exception) -> ConfigError:
    """The error where there is none."""
    remedy = "start one with `ray start --head`, or mend RAY_ADDRESS" if address != "local" else "see /tmp/ray"
    return ConfigError([f"--engine ray: no cluster at {address} ({first_line(error)}); {remedy}"])


def room(workers: int | None, *, gpus: float, cpus: int | None) -> Room:
    """Room for so many workers on the cluster that was joined; None: for as many as there can be.

    gpus: share of a GPU for each, from 0 to 1; on a cluster without GPUs 0. cpus: for each one without a GPU; None: those of
    the smallest machine, shared out among its workers. Raises ConfigError where they do not fit.
    """
    import ray

    return fitting([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, gpus=gpus, cpus=cpus)


def fitting(machines: list[dict[str, float]], workers: int | None, *, gpus: float, cpus: int | None) -> Room:
    """As `room`. machines: what each has, by Ray's names: CPU, GPU."""
    machines = [machine for machine in machines if machine.get("CPU")]
    gpus = gpus if any(machine.get("GPU") for machine in machines) else 0.0
    if gpus:
        share = 1.0
        each = int(1 / gpus + 1e-9)  # workers on a GPU
        room = [min(int(machine.get("GPU", 0.0)) * each, int(machine["CPU"])) for machine in machines]
    else:
        least = int(min((machine["CPU"] for machine in machines), default=0.0))
        on_one = 1 if workers is None else -(-workers // max(1, len(machines)))
        share = float(cpus or max(1, least // on_one))
        room = [int(machine["CPU"] / share + 1e-9) for machine in machines]
    most = sum(room)
    if most < (workers or 1):
        needed = f"{gpus:g} GPUs and 1 CPU" if gpus else counted(int(share), "CPU", "CPUs")
        raise ConfigError(
            [
                f"--engine ray: {counted(workers or 1, 'worker', 'workers')} of {needed} do not fit into the cluster's "
                f"{counted(len(machines), 'machine', 'machines')}, {most} do; add machines, or give fewer --workers"
            ]
        )
    return Room(workers or most, share, gpus)


def enter(folder: str) -> None:
    """Work in a folder of the command's machine, here. Raises ConfigError where this machine has none of that name."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            [f"--engine ray: {socket.gethostname()} has no folder {folder}; give all machines the same disk"]
        ) from error
