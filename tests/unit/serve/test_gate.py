"""The gate: requests are refused by their heads, bodies by their size and time, and an app is told when its client goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from lasttoken.serve import gate as gate_module
from lasttoken.serve.gate import Gate
from lasttoken.serve.limits import Limits


class Client:
    """One request to an ASGI app: its messages, and what was sent back."""

    def __init__(
        self,
        path: str = "/predict",
        method: str = "POST",
        headers: dict[str, str] | None = None,
        body: Iterable[bytes] = (b"{}",),
    ):
        encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.scope = {"type": "http", "path": path, "method": method, "headers": encoded}
        self.body, self.read, self.sent, self.gone = list(body), 0, list[Any](), asyncio.Event()

    async def receive(self) -> Any:
        if self.read < len(self.body):
            self.read += 1
            return {
                "type": "http.request",
                "body": self.body[self.read - 1],
                "more_body": self.read < len(self.body),
            }
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def content(self) -> Any:
        return json.loads(self.sent[1]["body"])


class App:
    """Answers with the body it was given; `wait` holds it."""

    def __init__(self) -> None:
        self.bodies, self.cancelled, self.wait = list[bytes](), 0, asyncio.Event()
        self.wait.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            if scope["method"] == "POST":
                self.bodies.append((await receive())["body"])
            await self.wait.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


LIMITS = Limits(requests=2, body=10, upload=0.05)


def asked(*clients: Client, token: str | None = None, stops: bool = False) -> tuple[App, list[int]]:
    """Each client's request, one after another; (the app, statuses of refusals)."""
    refused: list[int] = []

    async def run() -> App:
        app = App()
        gate = Gate(app, LIMITS, token=token, stopping=lambda: stops, refused=refused.append)
        for client in clients:
            await gate(client.scope, client.receive, client.send)
        return app

    return asyncio.run(run()), refused


def test_a_body_arrives_whole() -> None:
    client = Client(body=(b'{"a"', b":", b"1}"))
    app, refused = asked(client)
    assert (client.status, app.bodies, refused) == (200, [b'{"a":1}'], [])


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic secret", "secret", "Bearer ", "Bearer s\xe9cret"])
def test_without_the_token_nothing_is_read(given: str | None) -> None:
    client = Client(headers={} if given is None else {"authorization": given})
    app, refused = asked(client, token="secret")
    assert (client.status, client.headers["www-authenticate"], client.read, app.bodies) == (401, "Bearer", 0, [])
    assert client.content == {"error": "send the header Authorization: Bearer TOKEN", "error_type": "Unauthorized"}
    assert refused == [401]


def test_with_the_token_or_for_a_probe_the_door_is_open() -> None:
    clients = [Client(headers={"authorization": "bearer secret"}), Client("/healthz", "GET"), Client("/readyz", "GET")]
    asked(*clients, token="secret")
    assert [client.status for client in clients] == [200, 200, 200]
    for path, method in (("/metrics", "GET"), ("/healthz", "POST"), ("/", "POST")):
        closed = Client(path, method)
        asked(closed, token="secret")
        assert (closed.status, closed.read) == (401, 0)


def test_a_large_body_is_refused_by_its_length_or_on_the_way() -> None:
    told = Client(headers={"content-length": "11"})
    streamed = Client(headers={"transfer-encoding": "chunked"}, body=[b"x" * 6] * 4)
    app, _ = asked(told, streamed)
    assert (told.status, told.read, streamed.status, streamed.read, app.bodies) == (413, 0, 413, 2, [])
    assert told.content["error"] == "a request may have 10 bytes; send fewer texts at a time"
    assert ("connection" in told.headers, streamed.headers["connection"]) == (False, "close")


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    class Trickle(Client):
        async def receive(self) -> Any:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

    client = Trickle()
    asked(client)
    assert client.status == 408


def test_a_stopping_server_takes_no_texts_and_tells_its_health() -> None:
    client, probe = Client(), Client("/healthz", "GET")
    asked(client, probe, stops=True)
    assert (client.status, client.headers["retry-after"], client.read, probe.status) == (503, "5", 0, 200)


def test_more_requests_than_fit_are_refused_unread_and_the_places_come_free() -> None:
    async def run() -> None:
        app = App()
        app.wait.clear()
        gate = Gate(app, LIMITS, token=None, stopping=lambda: False)
        inside = [Client(), Client()]
        running = [asyncio.ensure_future(gate(c.scope, c.receive, c.send)) for c in inside]
        await asyncio.sleep(0)
        third = Client()
        await gate(third.scope, third.receive, third.send)
        assert (third.status, third.headers["retry-after"], third.read) == (429, "1", 0)
        assert third.content["error_type"] == "Overloaded"
        app.wait.set()
        await asyncio.gather(*running)
        assert [client.status for client in inside] == [200, 200]
        assert gate.inside == 0

    asyncio.run(run())


def test_refusals_without_end_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "REFUSALS", 100)
    monkeypatch.setattr(gate_module, "BURST", 10)

    async def run() -> tuple[float, float]:
        gate = Gate(App(), LIMITS, token=None, stopping=lambda: True)
        loop = asyncio.get_running_loop()

        async def refused(count: int) -> float:
            began, clients = loop.time(), [Client() for _ in range(count)]
            await asyncio.gather(*(gate(client.scope, client.receive, client.send) for client in clients))
            assert {client.status for client in clients} == {503}
            return loop.time() - began

        return await refused(10), await refused(50)

    few, many = asyncio.run(run())
    assert few < 0.1
    assert 0.4 < many < 2  # sixty at a hundred a second, of which ten are free


def test_an_app_is_cancelled_when_its_client_goes() -> None:
    async def run() -> None:
        app, client = App(), Client()
        app.wait.clear()
        gate = Gate(app, LIMITS, token=None, stopping=lambda: False)
        running = asyncio.ensure_future(gate(client.scope, client.receive, client.send))
        await asyncio.sleep(0.01)
        client.gone.set()
        await running
        assert (app.cancelled, client.sent, gate.inside) == (1, [], 0)

    asyncio.run(run())


def test_a_client_that_goes_before_its_body_is_there_reaches_nobody() -> None:
    class Gone(Client):
        async def receive(self) -> Any:
            return {"type": "http.disconnect"}

    client = Gone()
    app, _ = asked(client)
    assert (app.bodies, client.sent) == ([], [])
