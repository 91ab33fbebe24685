"""Tokenise texts by a method's settings: length limit, truncation or windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lasttoken.config.methods import Embedding, Encoder, Probe
from lasttoken.model.backbone import Backbone
from lasttoken.model.static import StaticModel
from lasttoken.text.tokenizer import Encoded, encode, encode_windows, end_token, with_suffix


def token_limit(config: Embedding | Encoder | Probe, backbone: Backbone) -> int:
    """Maximum tokens of a text, or of each of its windows: max_length, at most the model's context window."""
    return min(config.max_length, backbone.window)


def read_texts(backbone: Backbone, config: Embedding | Encoder | Probe, texts: Sequence[str]) -> Encoded:
    """Token ids of the texts, truncated or in windows, and followed by the suffix of `embedding`."""
    limit, long = token_limit(config, backbone), config.long
    if long.keep == "windows":
        encoded = encode_windows(backbone.tokenizer, texts, limit=limit, overlap=long.overlap, most=long.most)
    else:
        encoded = encode(backbone.tokenizer, texts, limit=limit, keep=long.keep)
    if isinstance(backbone.module, StaticModel):
        encoded = without(encoded, backbone.module.unknown, backbone)
    return with_suffix(backbone.tokenizer, encoded, config.suffix) if config.suffix else encoded


def without(encoded: Encoded, unknown: int | None, backbone: Backbone) -> Encoded:
    """`encoded` without a static model's unknown tokens; a text of nothing else becomes its end token."""
    if unknown is None:
        return encoded
    end = np.array([end_token(backbone.tokenizer)], dtype=np.int32)
    kept = [ids[ids != unknown] for ids in encoded.ids]
    return replace(encoded, ids=[ids if len(ids) else end for ids in kept])
