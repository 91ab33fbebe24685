"""What /metrics tells, in Prometheus' text format. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lasttoken.serve.gate import App, Message, Receive, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts and times of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def made(kind: type, name: str, told: str, labels: tuple[str, ...], **more: Any) -> Any:
            return kind(f"lasttoken_{name}", told, labels, registry=self.registry, **more)

        self.requests = made(Counter, "requests", "Requests answered", ("path", "status"))
        self.seconds = made(
            Histogram, "request_seconds", "Seconds from a request's head to its answer", ("path",), buckets=SECONDS
        )
        self.refused = made(Counter, "refused", "Requests refused before their body was read", ("status",))
        self.inside = made(Gauge, "requests_inside", "Requests that are being answered", ())
        self.texts = made(Counter, "texts", "Texts predicted", ("model",))
        self.batches = made(Histogram, "batch_texts", "Texts of a batch", ("model",), buckets=TEXTS)
        self.waiting = made(Gauge, "waiting_texts", "Texts that wait for a batch", ("model",))

    def batched(self, model: str) -> Callable[[int], None]:
        """What a batcher tells the size of its batches."""
        texts, batches = self.texts.labels(model), self.batches.labels(model)

        def told(count: int) -> None:
            texts.inc(count)
            batches.observe(count)

        return told

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)


def counted(app: App, metrics: Metrics, paths: Sequence[str]) -> App:
    """The app, its requests counted and timed. paths: those told apart; others count as one."""

    async def run(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, path = perf_counter(), scope["path"] if scope["path"] in paths else "other"

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(path, str(message["status"])).inc()
                metrics.seconds.labels(path).observe(perf_counter() - began)
            await send(message)

        await app(scope, receive, watched)

    return run
