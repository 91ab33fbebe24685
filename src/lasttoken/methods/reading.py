"""Texts as a method reads them: within its limit, by its setting for what is longer."""

from __future__ import annotations

from collections.abc import Sequence

from lasttoken.config import Embedding, Encoder, Probe
from lasttoken.journal import Journal
from lasttoken.model.backbone import Backbone
from lasttoken.text.tokenizer import Encoded, encode, encode_windows


def token_limit(config: Embedding | Encoder | Probe, backbone: Backbone) -> int:
    """Tokens a text, or a window of it, may have: what was asked for, within the model's window."""
    return min(config.max_length, backbone.window)


def read_texts(
    backbone: Backbone, config: Embedding | Encoder | Probe, texts: Sequence[str], journal: Journal | None = None
) -> Encoded:
    """Token ids of the texts; what was cut off them is added to the journal."""
    limit, long = token_limit(config, backbone), config.long
    if long.keep == "windows":
        overlap, most = long.overlap, long.most
        return encode_windows(backbone.tokenizer, texts, limit=limit, overlap=overlap, most=most, journal=journal)
    return encode(backbone.tokenizer, texts, limit=limit, keep=long.keep, journal=journal)
