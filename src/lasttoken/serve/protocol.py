"""uvicorn's HTTP protocol with bounds that it lacks: how large the head of a request may be, how slow, and what is logged."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = 65_536  # bytes of a request line and headers
CLIENTS = logging.getLogger("uvicorn.error.clients")  # of what clients do wrong: they could fill a disk with it
SECONDS = 10.0  # from the first byte, or the connection, to the end of the headers


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are too large or do not arrive."""

    head = 0  # bytes since the last request was complete, while headers are read
    in_head = True
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.logger = CLIENTS
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.head += len(data)
        super().data_received(data)
        if self.in_head and self.head > HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.wait_for_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            super().on_header(name, value)
        else:  # a trailer, behind a chunked body: nobody reads it
            self.transport.close()

    def on_headers_complete(self) -> None:
        self.head_is_there()
        super().on_headers_complete()

    def wait_for_head(self) -> None:
        """Headers are to come."""
        self.head_is_there()
        self.in_head, self.head = True, 0
        self.late = self.loop.call_later(SECONDS, self.transport.close)

    def head_is_there(self) -> None:
        """Headers have come, or never will."""
        self.in_head = False
        if self.late is not None:
            self.late.cancel()
            self.late = None
