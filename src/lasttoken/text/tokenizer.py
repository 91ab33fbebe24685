"""Texts to token ids under a length limit, with an account of what the limit cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from lasttoken.errors import ConfigError
from lasttoken.journal import Journal, Truncation


@dataclass(frozen=True, eq=False)
class Encoded:
    """N token sequences, and how many tokens each one lost to the limit."""

    ids: list[np.ndarray]  # N arrays (T_i,) int32, T_i >= 1
    lost: np.ndarray  # (N,) int64 tokens cut off; 0 for a whole text
    limit: int  # tokens that a text may keep

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, (N,) int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """The ids of the chosen rows one after the other, (T,) int64."""
        return np.concatenate([self.ids[i] for i in rows]).astype(np.int64)

    def truncation(self) -> Truncation:
        """What the limit cost."""
        lost, kept = int(self.lost.sum()), int(self.lengths.sum())
        worst = int(self.lost.max(initial=0))
        return Truncation(len(self), int((self.lost > 0).sum()), lost + kept, lost, worst, self.limit)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int,
    special: bool = True,
    journal: Journal | None = None,
) -> Encoded:
    """Token ids of each text, the head kept where it is longer than `limit` tokens.

    With `special` the tokenizer adds what it adds to any text (BOS, CLS and SEP, or nothing), and truncation keeps
    those. A text that gives no token at all becomes one end-of-text token, so that every row has a last token. What
    was cut off is added to the journal. Raises ConfigError where the limit leaves no room for text.
    """
    if not len(texts):
        return Encoded([], np.zeros(0, dtype=np.int64), limit)
    added = tokenizer.num_special_tokens_to_add() if special else 0
    if limit <= added:
        raise ConfigError([f"max_length: {limit} leaves no room for text beside {added} special token(s); raise it"])
    texts = [
        text.encode("utf-8", "replace").decode() for text in texts
    ]  # half a surrogate pair is no text to a tokenizer
    whole = tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
    lost = np.array([max(0, len(ids) - limit) for ids in whole], dtype=np.int64)
    cut = np.flatnonzero(lost)
    if len(cut):
        again = tokenizer(
            [texts[i] for i in cut.tolist()],
            add_special_tokens=special,
            truncation=True,
            max_length=limit,
            verbose=False,
        )["input_ids"]
        for i, ids in zip(cut, again, strict=True):
            whole[i] = ids
    blank = [end_token(tokenizer)]
    encoded = Encoded([np.array(ids or blank, dtype=np.int32) for ids in whole], lost, limit)
    if journal is not None:
        journal.truncation += encoded.truncation()
    return encoded


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a text: EOS where there is one, else SEP, PAD, or 0. Padding is never read, so any id serves there."""
    for candidate in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(cast("int", candidate))
    return 0
