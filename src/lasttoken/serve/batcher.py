"""Texts of many requests in one prediction: a thread a model takes what is queued, and never waits for more.

While a batch is predicted the next requests queue up, so batches grow with the load by themselves and a lone request is
answered at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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
class Job:
    """Texts of one request, or a function to call between batches; and where the result goes."""

    texts: Sequence[str]
    result: Future[Any]
    call: Callable[[], Any] | None = None


class Batcher:
    """A queue of requests before a `Predictor`, and the one thread that answers them."""

    def __init__(self, predictor: Predictor, *, tokens: int = TOKENS, batched: Callable[[int], None] = lambda _: None):
        """tokens: of a batch at most. batched: is told the number of texts of every batch."""
        self.predictor, self.tokens, self.batched = predictor, tokens, batched
        self.per_character = FIRST_GUESS
        self.jobs, self.waiting, self.closed = deque[Job](), 0, False  # waiting: texts in `jobs`
        self.arrived = threading.Condition()
        self.thread = threading.Thread(target=self.work, name="predictions", daemon=True)
        self.thread.start()

    def submit(self, texts: Sequence[str]) -> Future[Share]:
        """The future answers for some texts. Cancelling it before its batch begins takes the texts out."""
        return self.put(Job(texts, Future()))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """The future result of a function that uses the predictor, called by the thread between two batches."""
        return self.put(Job((), Future(), function))

    def put(self, job: Job) -> Future[Any]:
        """Queue a job. Raises RuntimeError after `close`."""
        with self.arrived:
            if self.closed:
                raise RuntimeError("the batcher is closed")
            self.jobs.append(job)
            self.waiting += len(job.texts)
            self.arrived.notify()
        return job.result

    def close(self) -> None:
        """Answer what is queued, and end the thread."""
        with self.arrived:
            self.closed = True
            self.arrived.notify()
        self.thread.join()

    def work(self) -> None:
        """The thread: one batch after another, until closed and empty."""
        while batch := self.take():
            self.answer(batch)

    def take(self) -> list[Job]:
        """The next batch, waiting for a first job; empty once closed. Cancelled jobs are left out."""
        batch, tokens = list[Job](), 0.0
        with self.arrived:
            while not batch:
                self.arrived.wait_for(lambda: self.jobs or self.closed)
                if not self.jobs:
                    return []
                while self.jobs:
                    job = self.jobs[0]
                    more = self.tokens_of(job)
                    if batch and (job.call or batch[0].call or tokens + more > self.tokens):
                        break
                    self.jobs.popleft()
                    self.waiting -= len(job.texts)
                    if job.result.set_running_or_notify_cancel():
                        batch.append(job)
                        tokens += more
        return batch

    def tokens_of(self, job: Job) -> float:
        """About how many tokens a job has."""
        return sum(map(len, job.texts)) * self.per_character + len(job.texts)

    def answer(self, batch: Sequence[Job]) -> None:
        """Give every job its result, or its error: where a batch fails each job is tried alone."""
        try:
            results = self.results(batch)
        except Exception as error:  # goes to whoever asked; the thread has to live on
            if len(batch) > 1:
                for job in batch:
                    self.answer([job])
            else:
                batch[0].result.set_exception(error)
            return
        for job, result in zip(batch, results, strict=True):
            job.result.set_result(result)

    def results(self, batch: Sequence[Job]) -> list[Any]:
        """The result of every job."""
        if batch[0].call is not None:
            return [batch[0].call()]
        texts = [text for job in batch for text in job.texts]
        answers = self.predictor(texts)
        self.batched(len(texts))
        characters, tokens = sum(map(len, texts)), answers.truncation.tokens - answers.truncation.lost
        if characters and tokens:
            self.per_character += SMOOTH * (tokens / characters - self.per_character)
        ends, start = [], 0
        for job in batch:
            ends.append(Share(answers, range(start, start + len(job.texts))))
            start += len(job.texts)
        return ends
