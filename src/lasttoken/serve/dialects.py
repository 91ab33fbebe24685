"""Answers in the words of each dialect: our own, TEI's, vLLM's. Texts of a request come in, JSON goes out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lasttoken.labels import NOTHING
from lasttoken.predict.file import has_word
from lasttoken.serve.batcher import Share
from lasttoken.serve.limits import invalid
from lasttoken.serve.schemas import TeiAsk
from lasttoken.serve.served import Served

SMALLEST = 1e-300  # of a probability whose logarithm is taken


def own(served: Served, share: Share, texts: Sequence[str], *, probs: bool) -> dict[str, Any]:
    """`schemas.Answers` for some texts; one without a letter, digit or emoji gets no label, as with `predict`."""
    return {
        "model": served.name,
        "digest": served.digest,
        "answers": [
            own_row(share, row, probs=probs) if has_word(text) else unlabelled(own_row(share, row, probs=probs))
            for row, text in zip(share.rows, texts, strict=True)
        ],
    }


def own_row(share: Share, row: int, *, probs: bool) -> dict[str, Any]:
    """`schemas.Answer` of a row of the batch."""
    answers, abstained = share.answers, bool(share.answers.abstained[row])
    names = answers.space.names
    if answers.space.multi:
        given = [names[j] for j in np.flatnonzero(answers.decisions[row])]
        found: dict[str, Any] = {"labels": given}
    else:
        column = int(answers.decisions[row])
        given = None if column == NOTHING else names[column]
        found = {"label": given, "probability": None if given is None else float(answers.probs[row, column])}
    found |= {"decision": None if abstained else given, "abstained": abstained}
    if answers.sets is not None:
        found["set"] = [names[j] for j in np.flatnonzero(answers.sets[row])]
    if probs:
        found["probs"] = dict(zip(names, answers.probs[row].tolist(), strict=True))
    return found | {"truncated": int(answers.lost[row])}


def unlabelled(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without its label."""
    nothing: dict[str, Any] = {"label": None, "labels": [], "probability": None, "decision": None}
    return answer | {name: value for name, value in nothing.items() if name in answer}


def tei_texts(asked: TeiAsk) -> list[str]:
    """The texts of TEI's `inputs`. Raises Refusal on pairs, on what is no text, and on parameters without a meaning here."""
    inputs = asked.inputs
    if (top := parameter(asked, "top_k")) is not None and (type(top) is not int or top < 1):
        raise invalid("parameters.top_k: send a number of labels from 1 on")
    if parameter(asked, "function_to_apply") not in (None, "none", "softmax", "sigmoid"):
        raise invalid("parameters.function_to_apply: none gives logits; probabilities need no function")
    if isinstance(inputs, str):
        return [inputs]
    if inputs and all(isinstance(one, str) for one in inputs):
        raise invalid(
            "inputs: a flat list is a pair of texts in this protocol, and pairs are not classified here; "
            'for a batch send a list of lists: [["first text"], ["second text"]]'
        )
    given = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in inputs]
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) < len(given):
        raise invalid('inputs: send a text, or for a batch a list of lists of one text each: [["first"], ["second"]]')
    return texts


def tei(share: Share, asked: TeiAsk) -> list[Any]:
    """Scores of every label, highest first; a list of them for a batch, and for huggingface_hub's client."""
    raw = asked.raw_scores or parameter(asked, "function_to_apply") == "none"
    rows = [tei_row(share, row, raw=raw)[: parameter(asked, "top_k")] for row in share.rows]
    # the hub's own service, which that client speaks to, nests a single answer too
    return rows[0] if isinstance(asked.inputs, str) and asked.parameters is None else rows


def parameter(asked: TeiAsk, name: str) -> Any:
    """One of the parameters that huggingface_hub's client sends; None where it sends none."""
    return None if asked.parameters is None else asked.parameters.get(name)


def tei_row(share: Share, row: int, *, raw: bool) -> list[dict[str, Any]]:
    """`schemas.Score` of every label, highest first."""
    probs = share.answers.probs[row]
    order = np.argsort(-probs, kind="stable").tolist()
    scores = (logits(share, row) if raw else probs).tolist()
    return [{"score": scores[j], "label": share.answers.space.names[j]} for j in order]


def vllm(served: Served, share: Share, activation: bool) -> dict[str, Any]:
    """`schemas.VllmAnswers`."""
    names, tokens = share.answers.space.names, share.answers.tokens
    read = 0 if tokens is None else int(tokens[share.rows.start : share.rows.stop].sum())
    data = [
        {
            "index": index,
            "label": names[int(share.answers.probs[row].argmax())],
            "probs": (share.answers.probs[row] if activation else logits(share, row)).tolist(),
            "num_classes": len(names),
        }
        for index, row in enumerate(share.rows)
    ]
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": served.name,
        "data": data,
        "usage": {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0, "prompt_tokens_details": None},
    }


def vllm_models(runs: Iterable[Served]) -> dict[str, Any]:
    """`schemas.VllmModels`."""
    models = [{"id": run.name, "object": "model", "created": 0, "owned_by": "lasttoken"} for run in runs]
    return {"object": "list", "data": models}


def logits(share: Share, row: int) -> np.ndarray:
    """Log-probabilities (C,), whose softmax is the probabilities; with several labels a text log-odds."""
    probs = share.answers.probs[row]
    logs = np.log(np.maximum(probs, SMALLEST))
    return logs - np.log(np.maximum(1 - probs, SMALLEST)) if share.answers.space.multi else logs
