"""Texts to token ids under a length limit, or in windows of it, with an account of what was cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from lasttoken.errors import ConfigError, ModelError
from lasttoken.journal import Journal, Truncation

Keep = Literal["head", "tail", "head_tail"]
PART = 1000  # texts that are tokenised at once
HEAD = 0.25  # of the room, where head and tail are kept (Sun 2019, arXiv:1905.05583: 128 of 510)


@dataclass(frozen=True, eq=False)
class Encoded:
    """N token sequences, and how many tokens each one lost to the limit."""

    ids: list[np.ndarray]  # N arrays (T_i,) int32, T_i >= 1; of a text in windows, these one after the other
    lost: np.ndarray  # (N,) int64 tokens cut off; 0 for a whole text
    limit: int  # tokens that a text, or a window of it, may keep
    windows: list[list[int]] | None = None  # tokens of each window of each text; None: every text is one
    whole: int | None = None  # tokens of all texts before they were cut; None: those kept and those lost
    most: int = 1  # windows that a text may have

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, (N,) int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """The ids of the chosen rows one after the other, (T,) int64."""
        return np.concatenate([self.ids[i] for i in rows]).astype(np.int64)

    def segments(self, rows: np.ndarray) -> list[int]:
        """Tokens of each stretch that attends to itself alone, of the chosen rows: a text, or each of its windows."""
        if self.windows is None:
            return self.lengths_of(rows)
        return [tokens for i in rows.tolist() for tokens in self.windows[i]]

    def lengths_of(self, rows: np.ndarray) -> list[int]:
        """Tokens of the chosen rows."""
        return [len(self.ids[i]) for i in rows.tolist()]

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Windows of each of the chosen rows; None where texts have none."""
        return None if self.windows is None else [len(self.windows[i]) for i in rows.tolist()]

    def truncation(self) -> Truncation:
        """What the limit cost."""
        lost, kept = int(self.lost.sum()), int(self.lengths.sum())
        worst = int(self.lost.max(initial=0))
        total = lost + kept if self.whole is None else self.whole
        return Truncation(len(self), int((self.lost > 0).sum()), total, lost, worst, self.limit, self.most)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int,
    special: bool = True,
    keep: Keep = "head",
    journal: Journal | None = None,
) -> Encoded:
    """Token ids of each text; of one longer than `limit` tokens its head, its tail, or a quarter and three quarters.

    With `special` the tokenizer adds what it adds to any text (BOS, CLS and SEP, or nothing), and truncation keeps
    those. A text that gives no token at all becomes one end-of-text token, so that every row has a last token. What
    was cut off is added to the journal. Raises ConfigError where the limit leaves no room for text.
    """
    whole, room = whole_ids(tokenizer, texts, limit=limit, special=special)
    blank, rows, lost = [end_token(tokenizer)], [], []
    ends = None if special else (0, 0)
    for ids in whole:
        lost.append(max(0, len(ids) - limit))
        if lost[-1]:
            ends = ends or around(tokenizer)
            ids = [ids[k] for k in kept(len(ids), *ends, room, keep)]
        rows.append(np.array(ids or blank, dtype=np.int32))
    encoded = Encoded(rows, np.array(lost, dtype=np.int64), limit)
    if journal is not None:
        journal.cut(encoded.truncation(), encoded.lost)
    return encoded


def encode_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int,
    overlap: float,
    most: int,
    journal: Journal | None = None,
) -> Encoded:
    """Token ids of each text, in windows of at most `limit` tokens where it is longer, special tokens in each.

    overlap: share of a window's text that the next one repeats. What lies behind `most` windows is cut off, and added
    to the journal. Raises ConfigError where the limit leaves no room for text.
    """
    whole, room = whole_ids(tokenizer, texts, limit=limit, special=True)
    ends, step, total = None, stride(room, overlap), 0
    blank, lost, windows, joined = [end_token(tokenizer)], [], [], []
    for ids in whole:
        total += max(1, len(ids))
        if len(ids) <= limit:
            pieces, cut = [ids or blank], 0
        else:
            opening, closing = ends = ends or around(tokenizer)
            places = window_places(len(ids), opening, closing, room, step)[:most]
            pieces = [[ids[k] for k in place] for place in places]
            cut = max(0, len(ids) - closing - 1 - max(places[-1][: len(places[-1]) - closing]))
        lost.append(cut)
        windows.append([len(piece) for piece in pieces])
        joined.append(np.array([token for piece in pieces for token in piece], dtype=np.int32))
    encoded = Encoded(joined, np.array(lost, dtype=np.int64), limit, windows, total, most)
    if journal is not None:
        journal.cut(encoded.truncation(), encoded.lost)
    return encoded


def kept(length: int, opening: int, closing: int, room: int, keep: Keep) -> list[int]:
    """The places of `length` tokens that stay where only `room` of the text fit between its special tokens."""
    stop = length - closing
    first = {"head": room, "tail": 0, "head_tail": int(HEAD * room)}[keep]
    return [*range(opening + first), *range(stop - (room - first), stop), *range(stop, length)]


def stride(room: int, overlap: float) -> int:
    """Tokens from the beginning of one window to that of the next."""
    return max(1, room - int(overlap * room))


def window_places(length: int, opening: int, closing: int, room: int, step: int) -> list[list[int]]:
    """The places of `length` tokens that each window holds, special tokens in all of them."""
    stop = length - closing
    starts = range(opening, max(opening + 1, stop - room + step), step)
    ends = [*range(stop, length)]
    return [[*range(opening), *range(start, min(start + room, stop)), *ends] for start in starts]


def whole_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, limit: int, special: bool
) -> tuple[Iterator[list[int]], int]:
    """(ids of each text, nothing cut; tokens of text that a limit leaves). Raises ConfigError where that is none.

    Ids come as they are asked for, so that only PART texts are ever held whole.
    """
    added = tokenizer.num_special_tokens_to_add() if special else 0
    if limit <= added:
        raise ConfigError([f"max_length: {limit} leaves no room for text beside {added} special token(s); raise it"])

    def whole() -> Iterator[list[int]]:
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            readable = [text.encode("utf-8", "replace").decode() for text in part]  # half a surrogate pair is no text
            yield from tokenizer(readable, add_special_tokens=special, verbose=False)["input_ids"]

    return whole(), limit - added


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many special tokens stand before any text and after it. Raises ModelError where that cannot be told."""
    empty, letter = (list(tokenizer(text)["input_ids"]) for text in ("", "a"))
    before = next(
        (i for i, (x, y) in enumerate(zip(empty, letter, strict=False)) if x != y), min(len(empty), len(letter))
    )
    after = len(empty) - before
    if len(empty) != tokenizer.num_special_tokens_to_add() or empty[before:] != letter[len(letter) - after :]:
        raise ModelError(
            "the tokenizer's special tokens cannot be told from text, so long texts cannot be cut; use another"
        )
    return before, after


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a text: EOS where there is one, else SEP, PAD, or 0. Padding is never read, so any id serves there."""
    for candidate in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(cast("int", candidate))
    return 0
