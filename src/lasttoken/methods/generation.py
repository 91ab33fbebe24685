"""Greedy generation and parsing, the paper's way to read an instruction model; kept so that the two can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from lasttoken.labels import LabelSpace
from lasttoken.model.attention import NAME
from lasttoken.model.backbone import Backbone
from lasttoken.text.prompt import NONE, Prompt
from lasttoken.text.tokenizer import Encoded, end_token

BATCH = 16  # rows a call


@torch.inference_mode()
def generated_probs(
    backbone: Backbone, prompt: Prompt, encoded: Encoded, labels: LabelSpace
) -> tuple[np.ndarray, np.ndarray]:
    """(1 where a label was named, (N, C) float64; invalid (N,) bool).

    An invalid answer names nothing: its row is 0 throughout, which decides for no label (evaluation/predictions.py) and
    so is a mistake by every metric where each text has one.
    """
    whole = [np.concatenate([prompt.header, ids, prompt.footer]).astype(np.int64) for ids in encoded.ids]
    probs = np.zeros((len(whole), len(labels)))
    invalid = np.zeros(len(whole), dtype=bool)
    order = np.argsort([-len(ids) for ids in whole], kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for row, answer in zip(
            rows, generate(backbone, [whole[i] for i in rows], longest(backbone, prompt, labels)), strict=True
        ):
            columns, invalid[row] = parse(answer, prompt, labels)
            probs[row, columns] = 1.0
    return probs, invalid


def longest(backbone: Backbone, prompt: Prompt, labels: LabelSpace) -> int:
    """Tokens to generate at most: the longest answer, or all labels joined where there may be several."""
    if labels.multi:
        return len(prompt.set_path(list(range(len(labels))), backbone.tokenizer)[1])
    return max(len(answer) for answer in prompt.answers)


def generate(backbone: Backbone, prompts: list[np.ndarray], tokens: int) -> list[str]:
    """Greedy continuations as text, by transformers' own `generate` over a left-padded batch."""
    pad = end_token(backbone.tokenizer)
    width = max(map(len, prompts))
    ids = torch.tensor(np.stack([np.pad(p, (width - len(p), 0), constant_values=pad) for p in prompts]))
    mask = torch.tensor(np.stack([np.arange(width) >= width - len(p) for p in prompts]).astype(np.int64))
    model: Any = backbone.whole
    model.set_attn_implementation("eager")
    kept, model.generation_config = model.generation_config, GenerationConfig()  # no penalties of the checkpoint's own
    try:
        with backbone.autocast():
            out = model.generate(
                input_ids=ids.to(backbone.device),
                attention_mask=mask.to(backbone.device),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=pad,
            )
    finally:
        model.set_attn_implementation(NAME)
        model.generation_config = kept
    return backbone.tokenizer.batch_decode(out[:, width:].cpu(), skip_special_tokens=True)


def parse(answer: str, prompt: Prompt, labels: LabelSpace) -> tuple[list[int], bool]:
    """(columns named by a generated answer, whether it is invalid).

    A label counts where the answer, or a part of a multi-label one, is its text; failing that, for one label a row,
    the longest label whose text the answer contains, as in the paper's code.
    """
    texts = [text.strip().casefold() for text in prompt.texts]
    said = answer.strip().casefold()
    if labels.multi:
        if said == NONE:
            return [], False
        mark = prompt.separator.casefold().strip() or prompt.separator
        parts = [part.strip() for part in said.split(mark)]
        return [j for j, text in enumerate(texts) if text in parts], any(part not in texts for part in parts)
    if said in texts:
        return [texts.index(said)], False
    inside = [j for j, text in enumerate(texts) if text in said]
    return ([max(inside, key=lambda j: len(texts[j]))], False) if inside else ([], True)
