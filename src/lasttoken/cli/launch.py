"""`--gpus N`: the same command in N processes of this machine, one for each GPU.

PyTorch's own launcher is for clusters: it reports a user's mistake as a traceback, a killed process not at all, and ends
processes that are saving what Ctrl-C left. Here a process that fails ends the others, and its exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import Any

from lasttoken.errors import ConfigError

GRACE = 20.0  # seconds that the others have to end by themselves after one has failed
TICK = 0.2  # seconds between looks


def wanted(gpus: int | None, time: str | None) -> bool:
    """Whether to start processes: several are asked for, and this is not one of them. Raises ConfigError with --time."""
    from lasttoken.train.distributed import launched

    if gpus is None or gpus == 1 or launched():
        return False
    if time is not None:
        raise ConfigError(["--time: works with one process only; leave out --gpus"])
    return True


def start(gpus: int, device: str) -> int:
    """Run this process's command line in that many processes; the exit code of the first that failed, else 0.

    Raises ConfigError if the machine has fewer GPUs, or if a process was killed. With device = cpu they share the CPU.
    """
    import torch

    there = torch.cuda.device_count()
    if device != "cpu" and there < gpus:
        raise ConfigError(
            [f"--gpus: {gpus} asked for, this machine has {there}; --device cpu runs processes on the CPU"]
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(gpus),
        "LOCAL_WORLD_SIZE": str(gpus),
    }
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    # -P: a calendar.py in the user's folder is not Python's
    words = [sys.executable, "-P", "-m", "lasttoken.cli.main", *sys.argv[1:]]
    with ExitStack() as stack:
        # what the others say is told only where it is not what the first one says
        said = [None, *(stack.enter_context(TemporaryFile("w+")) for _ in range(1, gpus))]
        started: list[subprocess.Popen[bytes]] = []
        handed = stack.enter_context(handing_on(signal.SIGTERM, started))
        for rank in range(gpus):
            process = subprocess.Popen(
                words,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=said[rank],
                start_new_session=True,  # Ctrl-C reaches them once, from here
            )
            started.append(process)
        try:
            code = first_failure(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
        for process, own in zip(started, said, strict=True):
            if own is not None and code > 0 and started[0].returncode != code == process.returncode:
                own.seek(0)
                sys.stderr.write(own.read())
                break
    if handed and code < 0:  # before a process could handle it
        return 128 + signal.SIGTERM
    if code < 0:
        name = signal.Signals(-code).name
        raise ConfigError(
            [
                f"--gpus: a process was ended by {name}; the usual reason is main memory, of which every process needs its own"
            ]
        )
    return code


@contextmanager
def handing_on(kind: signal.Signals, started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Within the block a signal goes to the processes; it is in the list once it came."""
    handed: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        handed.append(number)
        for process in started:
            process.send_signal(number)

    before = signal.signal(kind, hand_on)
    try:
        yield handed
    finally:
        signal.signal(kind, before)


def first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; the exit code of the first that failed, after which the others have GRACE seconds. 0 if none did.

    Ctrl-C is handed on: the processes keep what they have and end by themselves.
    """
    code, deadline = 0, float("inf")
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        try:
            time.sleep(TICK)
        except KeyboardInterrupt:
            for process in started:
                process.send_signal(signal.SIGINT)
        failed = [process.returncode for process in started if process.returncode]
        if failed and not code:
            code, deadline = failed[0], time.monotonic() + GRACE
    return code or next((process.returncode for process in started if process.returncode), 0)
