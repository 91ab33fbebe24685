"""An export in transformers' layout: a folder that `pipeline("text-classification", FOLDER)`, vLLM and TEI read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, pipeline
from transformers.pipelines.base import Pipeline

from lasttoken.infer.portable import PortableLM, Reading
from lasttoken.labels import LabelSpace
from lasttoken.methods.instruction import PROMPT
from lasttoken.model.quiet import quiet
from lasttoken.record.folder import read_json, write_json


def write_classifier(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype) -> None:
    """config.json and model.safetensors, in that precision."""
    with quiet():
        cast("Any", copy.deepcopy(model)).to(dtype).save_pretrained(folder)


def write_tokenizer(tokenizer: Any, reading: Reading, folder: Path, *, padding: int | None, split: bool) -> None:
    """The tokenizer, which truncates and pads as the run reads texts.

    padding: token id; None leaves it as it is. split: special tokens that a text spells are read as text. Where transformers
    pools the last token that is not padding, a text that ends with the padding token would move it.
    """
    written = copy.deepcopy(tokenizer)
    if padding is not None:
        written.pad_token = written.convert_ids_to_tokens(padding)
    written.save_pretrained(folder)
    path = folder / "tokenizer_config.json"  # save_pretrained leaves out what was not in it at loading
    given = {"model_max_length": reading.limit, "padding_side": "right", "split_special_tokens": split}
    given["truncation_side"] = "left" if reading.keep == "tail" else "right"
    write_json(path, read_json(path) | given)


def write_answering(plain: PortableLM, folder: Path) -> None:
    """The merged causal LM, its tokenizer, and prompt.json: token ids of every part of the prompt."""
    with quiet():
        plain.model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    write_json(folder / PROMPT, plain.prompt.to_dict())


def one_token_answers(plain: PortableLM) -> list[str] | None:
    """The token of each label where every answer is one token and its end, as vLLM's `classifier_from_token` has them."""
    answers = plain.prompt.answers
    if plain.prompt.questions or any(len(answer) > 2 for answer in answers):
        return None
    tokens = [str(plain.tokenizer.convert_ids_to_tokens(int(answer[0]))) for answer in answers]
    return tokens if len(set(tokens)) == len(tokens) else None


def piping(model: Any, folder: Path) -> Pipeline:
    """transformers' own text-classification pipeline on the CPU, of a model or of the folder that it is in."""
    with quiet():
        return pipeline("text-classification", model=model, tokenizer=str(folder), device="cpu")


def piped(pipe: Pipeline, texts: Sequence[str], labels: LabelSpace) -> np.ndarray:
    """Probabilities (N, C) that a pipeline gives, in the order of `labels`."""
    found: Any = pipe(list(texts), top_k=None, truncation=True, batch_size=16)
    column = {name: j for j, name in enumerate(labels.names)}
    probs = np.zeros((len(texts), len(labels)))
    for row, scores in enumerate(found):
        for one in scores:
            probs[row, column[one["label"]]] = one["score"]
    return probs
