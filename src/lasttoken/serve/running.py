"""A server process: the socket, uvicorn, and how it ends."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import uvicorn

from lasttoken.errors import ConfigError
from lasttoken.serve.app import Server, make_app
from lasttoken.serve.limits import Limits
from lasttoken.serve.metrics import Metrics
from lasttoken.serve.protocol import CLIENTS, BoundedProtocol
from lasttoken.serve.served import Served

CONNECTIONS = 2048  # open at a time, beyond the requests that are answered; uvicorn answers others with 503
IDLE = 30  # seconds that a connection is kept without a request


class Draining(uvicorn.Server):
    """A server that takes requests for a while after SIGTERM, so that whoever sends them can see that it is leaving."""

    def __init__(self, config: uvicorn.Config, seconds: float):
        super().__init__(config)
        self.seconds, self.leaving = seconds, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in `seconds` on the first SIGTERM; at once on another, and on Ctrl-C."""
        if sig == signal.SIGTERM and self.seconds and not self.leaving:
            self.leaving = True
            end = threading.Timer(self.seconds, super().handle_exit, (sig, frame))
            end.daemon = True
            end.start()
        else:
            self.leaving = True
            super().handle_exit(sig, frame)


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one


def listening(address: Address) -> socket.socket:
    """A socket bound to the address. Raises ConfigError where it cannot be."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "something listens there already; name another with --port, or 0 for any free one"
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{address.host}:{address.port}: {hint if taken else reason}"]) from error


def run_server(
    runs: Sequence[Served],
    at: socket.socket,
    limits: Limits,
    *,
    metrics: Metrics,
    token: str | None,
    explains: bool,
    started: Callable[[], None],
) -> bool:
    """Serve until SIGINT or SIGTERM; what is being answered is finished first. started: called before the first request.

    A second Ctrl-C ends at once. Returns whether all was answered.
    """

    def stopping() -> bool:
        return server.should_exit

    def hurried() -> bool:
        return server.force_exit

    def leaving() -> bool:
        return server.leaving or server.should_exit

    def early(*_: object) -> None:  # before uvicorn has handlers of its own
        server.should_exit = True

    service = Server(runs, limits, explains=explains, stopping=stopping, leaving=leaving, hurried=hurried)
    app = make_app(service, metrics, token=token)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.requests + CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(limits.timeout) + 1,
        lifespan="on",
    )
    CLIENTS.setLevel(logging.ERROR)  # not before: the configuration sets levels of its own
    server = Draining(config, limits.drain)
    before = {kind: signal.signal(kind, early) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        gc.collect()
        gc.freeze()  # libraries and models live as long as the process; looking through them holds up every request
        started()
        server.run(sockets=[at])
        return not server.force_exit
    finally:
        gc.unfreeze()
        for kind, handler in before.items():
            signal.signal(kind, handler)
        with suppress(OSError):
            at.close()
