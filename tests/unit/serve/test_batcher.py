"""The batcher: what queues up is answered in one prediction, in order, and a request that fails fails alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
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


def run(scenario: Callable[[Batcher, Slow], Awaitable[None]]) -> None:
    """A scenario with a batcher of at most 20 tokens over a slow model."""

    async def whole() -> None:
        model = Slow()
        batcher = Batcher(Predictor(model), tokens=20)  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(scenario(batcher, model), 60)
        finally:
            model.go.set()
            batcher.close()
            await asyncio.to_thread(batcher.thread.join)

    asyncio.run(whole())


def labels(share: Share) -> list[str]:
    return [share.answers.labels[row] for row in share.rows]  # type: ignore[misc]


async def queued(batcher: Batcher, model: Slow, *requests: list[str]) -> list[Any]:
    """What requests get that arrive while a batch of one text is predicted, which then ends."""
    first = asyncio.ensure_future(batcher.submit(["first"]))
    await asyncio.to_thread(model.begun.wait, 30)
    waiting = [asyncio.ensure_future(batcher.submit(texts)) for texts in requests]
    await asyncio.sleep(0)
    model.go.set()
    assert labels(await first) == ["long"]
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_a_lone_request_does_not_wait_for_others() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        model.go.set()
        assert labels(await batcher.submit(["a", "abcd"])) == ["short", "long"]
        assert model.batches == [["a", "abcd"]]

    run(scenario)


def test_what_has_queued_up_is_one_batch_and_each_gets_its_own() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        found = await queued(batcher, model, ["a"], ["long", "b"], ["c"])
        assert list(map(labels, found)) == [["short"], ["long", "short"], ["short"]]
        assert model.batches == [["first"], ["a", "long", "b", "c"]]
        assert batcher.waiting == 0

    run(scenario)


def test_batches_are_capped_by_tokens() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        ten = ["x" * 10]  # 6 tokens, it is guessed
        found = await queued(batcher, model, ten, ten, ten, ["x" * 400], ["y"])
        assert list(map(labels, found)) == [["long"]] * 4 + [["short"]]
        assert list(map(len, model.batches)) == [1, 3, 1, 1]

    run(scenario)


def test_the_guess_follows_what_batches_show() -> None:
    class Counted(Slow):
        def predict_encoded(self, texts: Any) -> Said:
            return replace(super().predict_encoded(texts), tokens=np.array([len(text) // 10 for text in texts]))

    batcher = Batcher(Predictor(Counted()))  # type: ignore[arg-type]
    batcher.predictor.classifier.go.set()  # type: ignore[attr-defined]

    async def ask() -> None:
        for _ in range(40):
            await batcher.submit(["x" * 100])

    asyncio.run(ask())
    batcher.close()
    assert batcher.per_character == pytest.approx(0.1, abs=1e-3)


def test_a_cancelled_request_is_left_out() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        first = asyncio.ensure_future(batcher.submit(["first"]))
        await asyncio.to_thread(model.begun.wait, 30)
        gone, kept = (asyncio.ensure_future(batcher.submit([text])) for text in ("gone", "kept"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        assert (labels(await kept), labels(await first)) == (["long"], ["long"])
        assert gone.cancelled()
        assert model.batches == [["first"], ["kept"]]

    run(scenario)


def test_a_request_that_is_cancelled_while_it_is_predicted_harms_nobody() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        gone = asyncio.ensure_future(batcher.submit(["gone"]))
        await asyncio.to_thread(model.begun.wait, 30)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        assert labels(await batcher.submit(["a"])) == ["short"]

    run(scenario)


def test_one_bad_request_does_not_fail_the_others_of_its_batch() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        found = await queued(batcher, model, ["a"], ["bad"], ["b"])
        assert (labels(found[0]), labels(found[2])) == (["short"], ["short"])
        assert str(found[1]) == "a bad text"
        assert labels(await batcher.submit(["c"])) == ["short"]  # the thread lives on

    run(scenario)


def test_a_function_is_called_between_batches() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        first = asyncio.ensure_future(batcher.submit(["first"]))
        await asyncio.to_thread(model.begun.wait, 30)
        others = [batcher.submit(["a"]), batcher.call(lambda: len(model.batches)), batcher.submit(["b"])]
        waiting = [asyncio.ensure_future(each) for each in others]
        await asyncio.sleep(0)
        model.go.set()
        assert (await waiting[1], labels(await first), labels(await waiting[2])) == (2, ["long"], ["short"])

    run(scenario)


def test_closing_answers_what_is_queued_and_takes_no_more() -> None:
    async def scenario(batcher: Batcher, model: Slow) -> None:
        first = asyncio.ensure_future(batcher.submit(["first"]))
        await asyncio.to_thread(model.begun.wait, 30)
        last = asyncio.ensure_future(batcher.submit(["a"]))
        await asyncio.sleep(0)
        batcher.close()
        model.go.set()
        assert (labels(await first), labels(await last)) == (["long"], ["short"])
        await asyncio.to_thread(batcher.thread.join)
        assert not batcher.thread.is_alive()
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit(["b"])

    run(scenario)
