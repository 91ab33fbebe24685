"""Greedy generation of answers and their parsing: the paper's decoding, here as a baseline for label scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lasttoken.infer.batches import in_batches
from lasttoken.journal import Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.kv_cache import NO_TOKENS, CachedLayout, KVCache, causal, lay_out_cached, prefill
from lasttoken.model.layout import lay_out
from lasttoken.text.prompt import NONE, Prompt
from lasttoken.text.tokenizer import Encoded, end_token


def generated_probs(
    backbone: Backbone,
    prompt: Prompt,
    encoded: Encoded,
    labels: LabelSpace,
    *,
    budget: int,
    progress: Progress = unheard,
) -> tuple[np.ndarray, np.ndarray]:
    """(1 for each label in the generated answer, (N, C) float64; whether the answer is invalid, (N,) bool).

    The row of an invalid answer is all zeros: no label is predicted (evaluation/predictions.py), which single-label
    metrics count as an error.
    """
    most = longest(backbone, prompt, labels)
    header = None if backbone.padded else prefill(backbone, prompt.header)
    footer = np.array(prompt.footer, dtype=np.int64)
    probs = np.zeros((len(encoded), len(labels)))
    invalid = np.zeros(len(encoded), dtype=bool)

    def compute(rows: np.ndarray) -> list[list[int]]:
        after = [np.concatenate([encoded.ids[i], footer]) for i in rows]
        if header is not None:
            return generate(backbone, header, after, most)
        return generate_again(backbone, [np.concatenate([prompt.header, ids]) for ids in after], most)

    lengths = encoded.lengths + len(footer)
    for rows, answers in in_batches(lengths, compute, backbone, budget=budget, progress=progress):
        for row, answer in zip(rows, answers, strict=True):
            said = str(backbone.tokenizer.decode(answer, skip_special_tokens=True))
            columns, invalid[row] = parse(said, prompt, labels)
            probs[row, columns] = 1.0
    return probs, invalid


def longest(backbone: Backbone, prompt: Prompt, labels: LabelSpace) -> int:
    """Maximum number of tokens to generate: the longest answer; multi-label, the answer that lists all labels."""
    if labels.multi:
        return len(prompt.set_path(list(range(len(labels))), backbone.tokenizer)[1])
    return max(len(answer) for answer in prompt.answers)


def generate(backbone: Backbone, header: KVCache, prompts: Sequence[np.ndarray], most: int) -> list[list[int]]:
    """Greedy continuations of at most `most` tokens, without the end token. prompts: token ids after the header."""
    end, lengths = end_token(backbone.tokenizer), np.array([len(ids) for ids in prompts])
    ends = lengths.cumsum()
    positions = np.concatenate([len(header) + np.arange(n) for n in lengths])
    layout = lay_out_cached(header, [NO_TOKENS] * len(prompts), [causal(n) for n in lengths], positions)
    words = likeliest(backbone, states(backbone, np.concatenate(prompts), layout)[ends - 1])
    seen = [len(header) + np.arange(stop - n, stop) for stop, n in zip(ends, lengths, strict=True)]
    answers: list[list[int]] = [[] for _ in prompts]
    alive = np.arange(len(prompts))
    while True:
        going = words != end
        alive, words = alive[going], words[going]
        for row, word in zip(alive, words.tolist(), strict=True):
            answers[row].append(word)
        alive, words = (x[[len(answers[row]) < most for row in alive]] for x in (alive, words))
        if not len(alive):
            return answers
        cache = layout.extended()
        masks = [np.ones((1, len(seen[row]) + 1), dtype=bool) for row in alive]
        places = np.array([len(header) + lengths[row] + len(answers[row]) - 1 for row in alive])
        layout = lay_out_cached(cache, [seen[row] for row in alive], masks, places)
        for number, row in enumerate(alive):
            seen[row] = np.append(seen[row], len(cache) + number)
        words = likeliest(backbone, states(backbone, words, layout))


def generate_again(backbone: Backbone, prompts: Sequence[np.ndarray], most: int) -> list[list[int]]:
    """`generate` without a KV cache: every text runs again for every token."""
    end, answers = end_token(backbone.tokenizer), [list[int]() for _ in prompts]
    alive = list(range(len(prompts)))
    for _ in range(most):
        texts = [np.r_[prompts[row], np.array(answers[row], dtype=np.int64)] for row in alive]
        layout = lay_out([len(text) for text in texts], device=backbone.device)
        with backbone.autocast():
            hidden = backbone.hidden(to_tensor(np.concatenate(texts), backbone), layout)
        words = dict(zip(alive, likeliest(backbone, hidden[layout.ends]).tolist(), strict=True))
        alive = [row for row in alive if words[row] != end]
        for row in alive:
            answers[row].append(words[row])
        if not alive:
            break
    return answers


def states(backbone: Backbone, ids: np.ndarray, layout: CachedLayout) -> Tensor:
    """Hidden states (T, H) of a row of ids (T,)."""
    with backbone.autocast():
        return backbone.hidden(to_tensor(ids, backbone), layout)


def likeliest(backbone: Backbone, hidden: Tensor) -> np.ndarray:
    """The most probable next token (n,) int64 at hidden states (n, H)."""
    assert backbone.vocabulary is not None, "loaded without its vocabulary head"
    with backbone.autocast():
        return backbone.vocabulary(hidden).argmax(dim=1).cpu().numpy()


def parse(answer: str, prompt: Prompt, labels: LabelSpace) -> tuple[list[int], bool]:
    """(columns of the labels in a generated answer, whether it is invalid).

    The answer, or each part of a multi-label one, must equal a label's text. A single-label answer that equals none
    counts as the longest label text that it contains, as in the paper's code.
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
