"""The batcher: what queues up is answered in one prediction, in order, and a request that fails fails alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from lasttoken.errors import ArtifactError
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predictor import Predictor
from lasttoken.serve.batcher import Batcher, Share


class Slow:
    """A classifier by rule whose first batch waits until it is released; it remembers its batches."""

    labels, encode, on_accelerator = LabelSpace(("long", "short")), staticmethod(list), False

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def predict_encoded(self, texts: Any) -> Said:
        self.batches.append(list(texts))
        self.begun.set()
        assert self.go.wait(30)
        if "bad" in texts:
            raise ArtifactError("a bad text")
        p = np.array([0.9 if len(text) > 3 else 0.2 for text in texts])
        return Said(np.column_stack([p, 1 - p]), np.zeros(len(texts), dtype=np.int64))


@pytest.fixture
def model() -> Slow:
    return Slow()


@pytest.fixture
def batcher(model: Slow) -> Iterator[Batcher]:
    found = Batcher(Predictor(model), tokens=20)  # type: ignore[arg-type]
    yield found
    model.go.set()
    found.close()


def labels(result: Future[Share]) -> list[str]:
    share = result.result(timeout=30)
    return [share.answers.labels[row] for row in share.rows]  # type: ignore[misc]


def queued(batcher: Batcher, model: Slow, *requests: list[str]) -> list[Future[Share]]:
    """Requests that arrive while a batch of one text is predicted, which then ends."""
    first = batcher.submit(["first"])
    assert model.begun.wait(30)
    found = [batcher.submit(texts) for texts in requests]
    model.go.set()
    assert labels(first) == ["long"]
    return found


def test_a_lone_request_does_not_wait_for_others(batcher: Batcher, model: Slow) -> None:
    model.go.set()
    assert labels(batcher.submit(["a", "abcd"])) == ["short", "long"]
    assert model.batches == [["a", "abcd"]]


def test_what_has_queued_up_is_one_batch_and_each_gets_its_own(batcher: Batcher, model: Slow) -> None:
    found = queued(batcher, model, ["a"], ["long", "b"], ["c"])
    assert [labels(each) for each in found] == [["short"], ["long", "short"], ["short"]]
    assert model.batches == [["first"], ["a", "long", "b", "c"]]
    assert batcher.waiting == 0


def test_batches_are_capped_by_tokens(batcher: Batcher, model: Slow) -> None:
    found = queued(batcher, model, ["x" * 10], ["x" * 10], ["x" * 10], ["x" * 400], ["y"])  # 6 tokens each are guessed
    assert [labels(each) for each in found] == [["long"]] * 4 + [["short"]]
    assert list(map(len, model.batches)) == [1, 3, 1, 1]


def test_a_cancelled_request_is_left_out(batcher: Batcher, model: Slow) -> None:
    first = batcher.submit(["first"])
    assert model.begun.wait(30)
    gone, kept = batcher.submit(["gone"]), batcher.submit(["kept"])
    assert gone.cancel()
    model.go.set()
    assert labels(kept) == ["long"]
    assert labels(first) == ["long"]
    with pytest.raises(CancelledError):
        gone.result(timeout=0)
    assert model.batches == [["first"], ["kept"]]


def test_one_bad_request_does_not_fail_the_others_of_its_batch(batcher: Batcher, model: Slow) -> None:
    found = queued(batcher, model, ["a"], ["bad"], ["b"])
    assert (labels(found[0]), labels(found[2])) == (["short"], ["short"])
    with pytest.raises(ArtifactError, match="a bad text"):
        found[1].result(timeout=30)
    assert labels(batcher.submit(["c"])) == ["short"]  # the thread lives on


def test_a_function_is_called_between_batches(batcher: Batcher, model: Slow) -> None:
    first = batcher.submit(["first"])
    assert model.begun.wait(30)
    batcher.submit(["a"])
    called = batcher.call(lambda: len(model.batches))
    batcher.submit(["b"])
    model.go.set()
    assert called.result(timeout=30) == 2
    assert labels(first) == ["long"]


def test_closing_answers_what_is_queued_and_takes_no_more(batcher: Batcher, model: Slow) -> None:
    found = queued(batcher, model, ["a"])
    batcher.close()
    assert labels(found[0]) == ["short"]
    assert not batcher.thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(["b"])
