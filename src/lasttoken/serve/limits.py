"""What a server takes from a client, and how it says no: one place for limits, status codes and their sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VLLM = ("/classify", "/v1/")  # paths, or what they begin with, whose errors have OpenAI's form


@dataclass(frozen=True)
class Limits:
    """Bounds on what is asked."""

    requests: int = 256  # being answered or waiting; more get a 429
    texts: int = 256  # of a request
    characters: int = 100_000  # of a text
    body: int = 4_000_000  # bytes of a request
    upload: float = 10.0  # seconds that a body may take to arrive
    timeout: float = 60.0  # seconds until an answer has to be there
    words: int = 300  # of a text to be explained
    drain: float = 0.0  # seconds after SIGTERM in which requests are still taken while /readyz says no


class Refusal(Exception):
    """An answer that is no prediction."""

    def __init__(self, status: int, kind: str, sentence: str, *, retry: int | None = None):
        """kind: TEI's error_type. retry: seconds after which to ask again."""
        super().__init__(sentence)
        self.status, self.kind, self.sentence, self.retry = status, kind, sentence, retry

    def content(self, path: str) -> dict[str, Any]:
        """The body: in OpenAI's form for its clients, else in TEI's."""
        if path.startswith(VLLM):
            return {"error": {"message": self.sentence, "type": self.kind, "param": None, "code": self.status}}
        return {"error": self.sentence, "error_type": self.kind}

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After, where asking again helps."""
        return {} if self.retry is None else {"retry-after": str(self.retry)}


def overloaded(requests: int) -> Refusal:
    return Refusal(429, "Overloaded", f"{requests} requests are being answered, the most at a time; try again", retry=1)


def draining() -> Refusal:
    return Refusal(503, "Unhealthy", "the server is stopping", retry=5)


def invalid(sentence: str) -> Refusal:
    return Refusal(422, "Validation", sentence)


def unknown(sentence: str) -> Refusal:
    return Refusal(404, "Validation", sentence)


def too_large(sentence: str) -> Refusal:
    return Refusal(413, "Validation", sentence)


def too_late(seconds: float) -> Refusal:
    return Refusal(504, "Backend", f"no answer within {seconds:g} s", retry=1)


def failed(sentence: str) -> Refusal:
    return Refusal(424, "Backend", sentence)
