"""Which requests are let in, decided before a body is read: a refused one costs next to nothing.

Plain ASGI around the app. Bodies are read here, under their limits; an app whose client has gone is cancelled.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from lasttoken.serve.limits import Limits, Refusal, draining, overloaded, too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

REFUSALS, BURST, LONGEST_PAUSE = 200, 50, 1.0  # a second; at once; seconds that one is held back at most
OPEN = {
    "/healthz",
    "/readyz",
    "/health",
    "/ping",
    "/",
}  # to GET without a token: probes have none, and the page asks for it
BODIES = ("POST", "PUT", "PATCH")  # methods with a body


class Gate:
    """The app behind a token and limits."""

    def __init__(
        self,
        app: App,
        limits: Limits,
        *,
        token: str | None,
        stopping: Callable[[], bool],
        refused: Callable[[int], None] = lambda _: None,
    ):
        """token: what `Authorization: Bearer` has to name; None asks nobody. stopping: whether the server is to end.

        refused: is told the status of every refusal.
        """
        self.app, self.limits, self.stopping, self.refused = app, limits, stopping, refused
        self.token = None if token is None else token.encode()
        self.inside = 0  # requests with a body that are being answered
        self.next_refusal = 0.0  # loop time from which a refusal is answered at once

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self.check(scope)
            if scope["method"] not in BODIES:
                await self.app(scope, receive, send)
                return
            self.inside += 1
            try:
                body = await self.body(receive)
                if body is not None:
                    await self.watched(scope, receive, send, body)
            finally:
                self.inside -= 1
        except Refusal as refusal:
            self.refused(refusal.status)
            if refusal.retry is not None:
                await self.pause()
            head = dict(scope["headers"])
            if head.get(b"connection", b"").lower() == b"close" and b"content-length" in head:
                await self.drain(receive)
            await answer(send, refusal, scope["path"], hang_up=refusal.status == 408 or b"transfer-encoding" in head)

    async def pause(self) -> None:
        """Hold a refusal back where there are too many: who asks again at once would else take the model's time."""
        now = asyncio.get_running_loop().time()
        latest = now + BURST / REFUSALS + LONGEST_PAUSE
        self.next_refusal = min(max(now, self.next_refusal) + 1 / REFUSALS, latest)
        if (wait := self.next_refusal - now - BURST / REFUSALS) > 0:
            await asyncio.sleep(wait)

    async def drain(self, receive: Receive) -> None:
        """Let a body pass, so that a sender who reads only then, and whose connection is closed then, sees the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.upload):
                message: Message = {"more_body": True}
                while message.get("more_body", False):
                    message = await receive()

    def check(self, scope: Any) -> None:
        """Raises Refusal on what the head of a request tells."""
        headers = dict(scope["headers"])
        if self.token is not None and not (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            given = headers.get(b"authorization", b"")
            kind, _, token = given.partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token):
                raise Refusal(401, "Unauthorized", "send the header Authorization: Bearer TOKEN")
        if scope["method"] not in BODIES:
            return
        if self.stopping():
            raise draining()
        if self.inside >= self.limits.requests:
            raise overloaded(self.limits.requests)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.body:
            raise self.large()

    def large(self) -> Refusal:
        """The refusal of a body."""
        return too_large(f"a request may have {self.limits.body:,} bytes; send fewer texts at a time")

    async def body(self, receive: Receive) -> bytes | None:
        """The body; None where the client went. Raises Refusal where it is too large, or takes too long."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.upload):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limits.body:
                        raise self.large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "Validation", f"the body did not arrive within {self.limits.upload:g} s") from None

    async def watched(self, scope: Any, receive: Receive, send: Send, body: bytes) -> None:
        """The app with a body that is read; it is cancelled when the client goes."""
        waiting = [body]

        async def given() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            return await receive()

        def cancel(_: asyncio.Future[Message]) -> None:
            if running is not None and not over:
                running.cancel()

        running, over = asyncio.current_task(), False
        gone = asyncio.ensure_future(receive())  # nothing but a disconnect can come
        gone.add_done_callback(cancel)
        try:
            await self.app(scope, given, send)
        except asyncio.CancelledError:
            if not gone.done():  # somebody else's doing
                raise
        finally:
            over = True
            gone.cancel()


async def answer(send: Send, refusal: Refusal, path: str, *, hang_up: bool = False) -> None:
    """Send a refusal. path: that was asked for. hang_up: and close the connection."""
    content = json.dumps(refusal.content(path)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refusal.headers}
    if hang_up:  # the rest of the body is not waited for
        headers["connection"] = "close"
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
