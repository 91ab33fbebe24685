"""One text as a differentiable function: token embeddings -> label logits.

Gradient explanations need this of a method; each method builds it in its own file. The model runs packed, as in
prediction; points on a path through embedding space are a batch of copies of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ModelError
from lasttoken.model.backbone import Backbone
from lasttoken.model.layout import Layout, lay_out
from lasttoken.text.tokenizer import Encoded, kept_indices, special_counts, stride, window_places


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A text's tokens, and its logits as a function of their embeddings."""

    backbone: Backbone
    tokens: np.ndarray  # (T,) token ids that the model reads
    spans: list[tuple[int, int]]  # (T,) character range of each token; empty for special tokens
    forward: Callable[[Tensor], Tensor]  # (B, T, H), embeddings of B copies -> logits (B, C)
    copy_tokens: int  # tokens that run per copy, including answers after the text


def embedding_of(backbone: Backbone) -> nn.Embedding:
    """The token embedding layer."""
    return cast("nn.Embedding", cast("Any", backbone.whole).get_input_embeddings())


def copies(backbone: Backbone, encoded: Encoded, count: int, *, causal: bool) -> tuple[Layout, Tensor | None]:
    """(layout of `count` copies of a text, index of each copy's last window or None)."""
    only = np.zeros(1, dtype=np.int64)
    layout = lay_out(encoded.segments(only) * count, causal=causal, device=backbone.device)
    windows = encoded.counts(only)
    last = None if windows is None else torch.arange(1, count + 1, device=backbone.device) * windows[0] - 1
    return layout, last


def flat(embeddings: Tensor, backbone: Backbone) -> Tensor:
    """(B, T, H) as one packed row (B * T, H), in the dtype of the model's weights."""
    return embeddings.reshape(-1, embeddings.shape[2]).to(embedding_of(backbone).weight.dtype)


def spans(
    backbone: Backbone,
    text: str,
    encoded: Encoded,
    *,
    keep: Literal["head", "tail", "head_tail", "windows"],
    overlap: float = 0.0,
    special: bool = True,
) -> list[tuple[int, int]]:
    """Character range of each token read. Raises ModelError if the tokenizer has no character offsets.

    keep, overlap: how a long text was truncated. special: whether the tokenizer added special tokens.
    """
    if not backbone.tokenizer.is_fast:
        raise ModelError(
            "explain by gradients: the tokenizer gives no character offsets of its tokens; use --by removal"
        )
    readable = text.encode("utf-8", "replace").decode()
    offsets = backbone.tokenizer(readable, add_special_tokens=special, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    return [
        (0, 0) if k is None else (int(offsets[k][0]), int(offsets[k][1]))
        for k in read_places(backbone, len(offsets), encoded, keep=keep, overlap=overlap, special=special)
    ]


def read_places(
    backbone: Backbone,
    length: int,
    encoded: Encoded,
    *,
    keep: Literal["head", "tail", "head_tail", "windows"],
    overlap: float,
    special: bool,
) -> Sequence[int | None]:
    """For each token of `encoded`, its index among the text's `length` tokens; None for the token of an empty text and
    for those of a suffix."""
    whole = length <= encoded.limit
    opening, closing = special_counts(backbone.tokenizer) if special and (encoded.suffix or not whole) else (0, 0)
    room = encoded.limit - opening - closing
    if whole:
        pieces: Sequence[Sequence[int | None]] = [range(length) if length else [None]]
    elif keep != "windows":
        pieces = [kept_indices(length, opening, closing, room, keep)]
    else:
        pieces = window_places(length, opening, closing, room, stride(room, overlap))[: encoded.most]
    suffix, ended = [None] * encoded.suffix, -closing or None
    return [place for piece in pieces for place in (*piece[:ended], *suffix, *(piece[ended:] if ended else ()))]
