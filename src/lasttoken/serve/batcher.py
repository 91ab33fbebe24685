"""Texts of many requests in one prediction: a thread a model takes what is queued, and never waits for more.

While a batch is predicted the next requests queue up, so batches grow with the load by themselves and a lone request is
answered at once. Used from one event loop, which is woken once a batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lasttoken.predictor import Answers, Predictor

TOKENS = 4096  # of a batch at most; a request of more is a batch of its own
FIRST_GUESS = 0.5  # tokens per character, until a batch has shown it
SMOOTH = 0.2  # weight of the latest batch in that estimate


@dataclass(frozen=True, eq=False)
class Share:
    """A request's rows of the answers of its batch."""

    answers: Answers
    rows: range


@dataclass(frozen=True, eq=False)
class Request:
    """Texts to label, or a function to call between batches; and where the result goes."""

    texts: Sequence[str]
    result: asyncio.Future[Any]
    call: Callable[[], Any] | None = None


class Batcher:
    """A queue of requests before a `Predictor`, and the one thread that answers them."""

    def __init__(self, predictor: Predictor, *, tokens: int = TOKENS, batched: Callable[[int], None] = lambda _: None):
        """tokens: of a batch at most. batched: is told the number of texts of every batch."""
        self.predictor, self.tokens, self.batched = predictor, tokens, batched
        self.per_character = FIRST_GUESS
        self.requests, self.waiting, self.closed = deque[Request](), 0, False  # waiting: texts in `requests`
        self.arrived = threading.Condition()
        self.thread = threading.Thread(target=self.work, name="predictions", daemon=True)
        self.thread.start()

    async def submit(self, texts: Sequence[str]) -> Share:
        """The answers for some texts. Cancelled before its batch begins, it takes the texts out."""
        return await self.put(Request(texts, asyncio.get_running_loop().create_future()))

    async def call(self, function: Callable[[], Any]) -> Any:
        """The result of a function that uses the predictor, called by the thread between two batches."""
        return await self.put(Request((), asyncio.get_running_loop().create_future(), function))

    def put(self, request: Request) -> asyncio.Future[Any]:
        """Queue a request. Raises RuntimeError after `close`."""
        with self.arrived:
            if self.closed:
                raise RuntimeError("the batcher is closed")
            self.requests.append(request)
            self.waiting += len(request.texts)
            self.arrived.notify()
        return request.result

    def close(self) -> None:
        """Take no more; the thread answers what is queued, and ends."""
        with self.arrived:
            self.closed = True
            self.arrived.notify()

    def work(self) -> None:
        """The thread: one batch after another, until closed and empty."""
        while batch := self.take():
            found = self.answers(batch)
            batch[0].result.get_loop().call_soon_threadsafe(deliver, batch, found)

    def take(self) -> list[Request]:
        """The next batch, waiting for a first request; empty once closed. Cancelled requests are left out."""
        batch, tokens = list[Request](), 0.0
        with self.arrived:
            while not batch:
                self.arrived.wait_for(lambda: self.requests or self.closed)
                if not self.requests:
                    return []
                while self.requests:
                    request = self.requests[0]
                    more = self.tokens_of(request)
                    if batch and (request.call or batch[0].call or tokens + more > self.tokens):
                        break
                    self.requests.popleft()
                    self.waiting -= len(request.texts)
                    if not request.result.cancelled():
                        batch.append(request)
                        tokens += more
        return batch

    def tokens_of(self, request: Request) -> float:
        """About how many tokens a request has."""
        return sum(map(len, request.texts)) * self.per_character + len(request.texts)

    def answers(self, batch: Sequence[Request]) -> list[Any]:
        """The result of every request, or its error: where a batch fails each request is tried alone."""
        try:
            return self.results(batch)
        except Exception as error:  # goes to whoever asked; the thread has to live on
            return [error] if len(batch) == 1 else [found for request in batch for found in self.answers([request])]

    def results(self, batch: Sequence[Request]) -> list[Any]:
        """The result of every request. Raises what the predictor or the function raises."""
        if batch[0].call is not None:
            return [batch[0].call()]
        texts = [text for request in batch for text in request.texts]
        answers = self.predictor(texts)
        self.batched(len(texts))
        characters, tokens = sum(map(len, texts)), 0 if answers.tokens is None else int(answers.tokens.sum())
        if characters and tokens:
            self.per_character += SMOOTH * (tokens / characters - self.per_character)
        ends, start = [], 0
        for request in batch:
            ends.append(Share(answers, range(start, start + len(request.texts))))
            start += len(request.texts)
        return ends


def deliver(batch: Sequence[Request], found: Sequence[Any]) -> None:
    """Give every request that is still waited for its result or error; called in the event loop."""
    for request, result in zip(batch, found, strict=True):
        if request.result.done():  # its client went meanwhile
            continue
        if isinstance(result, Exception):
            request.result.set_exception(result)
        else:
            request.result.set_result(result)
