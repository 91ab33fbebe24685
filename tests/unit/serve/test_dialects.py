"""Answers in three dialects, from columns written by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predictor import Predictor
from lasttoken.serve import dialects
from lasttoken.serve.batcher import Share
from lasttoken.serve.limits import Refusal
from lasttoken.serve.schemas import TeiAsk

PROBS = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]])


def share(rows: range, *, multi: bool = False, **rule: Any) -> Share:
    """Rows of three texts' answers."""
    said = Said(PROBS, np.array([0, 2, 0]), tokens=np.array([3, 4, 5]))
    labels = LabelSpace(("a", "b", "c"), multi)
    model = SimpleNamespace(labels=labels, encode=list, on_accelerator=False, predict_encoded=lambda texts, *_: said)
    return Share(Predictor(model, Policy(rule=Rule(**rule)))(["x", "y", "z"]), rows)  # type: ignore[arg-type]


SERVED: Any = SimpleNamespace(name="run", digest="d1")


def test_our_own() -> None:
    assert dialects.own(SERVED, share(range(0, 2)), ["x", "y"], probs=False) == {
        "model": "run",
        "digest": "d1",
        "answers": [
            {"label": "b", "probability": 0.5, "decision": "b", "abstained": False, "truncated": 0},
            {"label": "c", "probability": 0.8, "decision": "c", "abstained": False, "truncated": 2},
        ],
    }
    (row,) = dialects.own(SERVED, share(range(1, 2)), ["y"], probs=True)["answers"]
    assert row["probs"] == {"a": 0.1, "b": 0.1, "c": 0.8}


def test_a_text_that_is_left_to_a_person_has_a_label_and_no_decision() -> None:
    (row,) = dialects.own(SERVED, share(range(2, 3), abstain_below=0.6), ["z"], probs=False)["answers"]
    assert row == {"label": "a", "probability": 0.34, "decision": None, "abstained": True, "truncated": 0}


def test_a_text_without_a_word_gets_no_label() -> None:
    (row,) = dialects.own(SERVED, share(range(0, 1)), ["?!"], probs=False)["answers"]
    assert row == {"label": None, "probability": None, "decision": None, "abstained": False, "truncated": 0}
    (row,) = dialects.own(SERVED, share(range(0, 1), multi=True), [" "], probs=False)["answers"]
    assert (row["labels"], row["decision"]) == ([], None)


def test_sets_of_a_coverage() -> None:
    (row,) = dialects.own(SERVED, share(range(0, 1), coverage=0.9, set_from=0.25), ["x"], probs=False)["answers"]
    assert row["set"] == ["b", "c"]


def test_several_labels_a_text() -> None:
    several = share(range(0, 3), multi=True, thresholds=np.array([0.3, 0.3, 0.3]))
    rows = dialects.own(SERVED, several, ["x", "y", "z"], probs=False)
    assert [row["labels"] for row in rows["answers"]] == [["b", "c"], ["c"], ["a", "b", "c"]]
    assert [row["decision"] for row in rows["answers"]] == [["b", "c"], ["c"], ["a", "b", "c"]]
    assert all("label" not in row and "probability" not in row for row in rows["answers"])


def test_tei_gives_every_label_highest_first() -> None:
    wanted = [{"score": 0.5, "label": "b"}, {"score": 0.3, "label": "c"}, {"score": 0.2, "label": "a"}]
    assert dialects.tei(share(range(0, 1)), TeiAsk(inputs="x")) == wanted
    assert dialects.tei(share(range(0, 1)), TeiAsk(inputs=[["x"]])) == [wanted]
    found = dialects.tei(share(range(0, 1)), TeiAsk(inputs="x", parameters={"top_k": 1}))
    assert found == [wanted[:1]]  # the hub's client reads a list of lists


def test_raw_scores_are_logits_of_the_probabilities() -> None:
    (best, *_) = dialects.tei(share(range(1, 2)), TeiAsk(inputs="x", raw_scores=True))
    assert best == {"score": pytest.approx(math.log(0.8)), "label": "c"}
    ((best, *_),) = dialects.tei(share(range(1, 2)), TeiAsk(inputs="x", parameters={"function_to_apply": "none"}))
    assert best["score"] == pytest.approx(math.log(0.8))
    (best, *_) = dialects.tei(share(range(1, 2), multi=True), TeiAsk(inputs="x", raw_scores=True))
    assert best == {"score": pytest.approx(math.log(4)), "label": "c"}


def test_which_texts_tei_means() -> None:
    assert dialects.tei_texts(TeiAsk(inputs="x")) == ["x"]
    assert dialects.tei_texts(TeiAsk(inputs=[["x"], ["y"]])) == ["x", "y"]
    assert dialects.tei_texts(TeiAsk(inputs=[["x"], "y"])) == ["x", "y"]
    for pair in (["x", "y"], ["x"]):
        with pytest.raises(Refusal, match="a flat list is a pair of texts in this protocol"):
            dialects.tei_texts(TeiAsk(inputs=pair))
    for wrong in ([], [[]], [["x", "y"]], [1], [[1]], [None]):
        with pytest.raises(Refusal, match="send a text, or for a batch a list of lists of one text each"):
            dialects.tei_texts(TeiAsk(inputs=wrong))
    for name, values in {"top_k": (0, -1, "2", 1.5, True), "function_to_apply": ("tanh", 1)}.items():
        for value in values:
            with pytest.raises(Refusal, match=f"parameters.{name}"):
                dialects.tei_texts(TeiAsk(inputs="x", parameters={name: value}))


def test_vllm() -> None:
    found = dialects.vllm(SERVED, share(range(1, 3)), activation=True)
    assert found["data"] == [
        {"index": 0, "label": "c", "probs": [0.1, 0.1, 0.8], "num_classes": 3},
        {"index": 1, "label": "a", "probs": [0.34, 0.33, 0.33], "num_classes": 3},
    ]
    assert found["usage"]["prompt_tokens"] == 9
    assert (found["object"], found["model"], found["id"][:9]) == ("list", "run", "classify-")
    assert dialects.vllm(SERVED, share(range(1, 2)), activation=False)["data"][0]["probs"][2] == math.log(0.8)
