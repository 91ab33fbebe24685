"""Tokenisation with truncation or windows, and counts of truncated tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from lasttoken.errors import ConfigError, ModelError
from lasttoken.text.truncation import Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Keep = Literal["head", "tail", "head_tail"]
PART = 1000  # texts per tokenizer call
HEAD = 0.25  # share of the head if head and tail are kept (Sun 2019, arXiv:1905.05583: 128 of 510)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of N texts, and the number of tokens truncated from each."""

    ids: list[np.ndarray]  # N arrays (T_i,) int32, T_i >= 1; windows of a text are concatenated
    lost: np.ndarray  # (N,) int64, truncated tokens; 0 for a whole text
    limit: int  # maximum tokens of a text, or of each window
    windows: list[list[int]] | None = None  # tokens of each window of each text; None without windows
    whole: int | None = None  # tokens of all texts before truncation; None: kept + lost
    most: int = 1  # maximum windows of a text
    suffix: int = 0  # tokens that follow each text, or each window, beyond `limit`

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, (N,) int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """Token ids of the chosen rows, concatenated, (T,) int64."""
        return np.concatenate([self.ids[i] for i in rows]).astype(np.int64)

    def segments(self, rows: np.ndarray) -> list[int]:
        """Lengths of the chosen rows' texts, or of their windows: each attends to itself only."""
        if self.windows is None:
            return self.lengths_of(rows)
        return [tokens for i in rows.tolist() for tokens in self.windows[i]]

    def lengths_of(self, rows: np.ndarray) -> list[int]:
        """Number of tokens of each chosen row."""
        return [len(self.ids[i]) for i in rows.tolist()]

    def counts(self, rows: np.ndarray) -> list[int] | None:
        """Number of windows of each chosen row; None without windows."""
        return None if self.windows is None else [len(self.windows[i]) for i in rows.tolist()]

    def truncation(self) -> Truncation:
        """Counts of truncated rows and tokens."""
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
) -> Encoded:
    """Token ids of each text, truncated to `limit` tokens: the head, the tail, or a quarter head and the rest tail.

    special: add the tokenizer's special tokens (BOS, CLS and SEP, or none); truncation keeps them. A text without
    tokens becomes one end token, so every row has a last token. Raises ConfigError if the limit leaves no room for text.
    """
    whole, room = whole_ids(tokenizer, texts, limit=limit, special=special)
    blank, rows, lost = [end_token(tokenizer)], [], []
    ends = None if special else (0, 0)
    for ids in whole:
        lost.append(max(0, len(ids) - limit))
        if lost[-1]:
            ends = ends or special_counts(tokenizer)
            ids = [ids[k] for k in kept_indices(len(ids), *ends, room, keep)]
        rows.append(np.array(ids or blank, dtype=np.int32))
    return Encoded(rows, np.array(lost, dtype=np.int64), limit)


def encode_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int,
    overlap: float,
    most: int,
) -> Encoded:
    """Token ids of each text, split into windows of at most `limit` tokens, each with special tokens.

    overlap: share of a window's text that the next window repeats. Text after `most` windows is truncated. Raises
    ConfigError if the limit leaves no room for text.
    """
    whole, room = whole_ids(tokenizer, texts, limit=limit, special=True)
    ends, step, total = None, stride(room, overlap), 0
    blank, lost, windows, joined = [end_token(tokenizer)], [], [], []
    for ids in whole:
        total += max(1, len(ids))
        if len(ids) <= limit:
            pieces, cut = [ids or blank], 0
        else:
            opening, closing = ends = ends or special_counts(tokenizer)
            places = window_places(len(ids), opening, closing, room, step)[:most]
            pieces = [[ids[k] for k in place] for place in places]
            cut = max(0, len(ids) - closing - 1 - max(places[-1][: len(places[-1]) - closing]))
        lost.append(cut)
        windows.append([len(piece) for piece in pieces])
        joined.append(np.array([token for piece in pieces for token in piece], dtype=np.int32))
    return Encoded(joined, np.array(lost, dtype=np.int64), limit, windows, total, most)


def with_suffix(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, suffix: str) -> Encoded:
    """`encoded` with the tokens of `suffix` after each text or window, before the special tokens that end it."""
    added = np.array(tokenizer(suffix, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int32)
    if not len(added):
        return encoded
    closing = special_counts(tokenizer)[1] if tokenizer.num_special_tokens_to_add() else 0
    pieces = encoded.windows or [[len(ids)] for ids in encoded.ids]
    ids = []
    for row, lengths in zip(encoded.ids, pieces, strict=True):
        ends = np.cumsum(lengths) - closing
        ids.append(np.insert(row, np.repeat(ends, len(added)), np.tile(added, len(ends))))
    windows = encoded.windows and [[length + len(added) for length in lengths] for lengths in encoded.windows]
    whole = encoded.truncation().tokens
    return replace(encoded, ids=ids, windows=windows, whole=whole, suffix=len(added))


def kept_indices(length: int, opening: int, closing: int, room: int, keep: Keep) -> list[int]:
    """Indices of the tokens that truncation keeps: `room` text tokens, and the special tokens before and after them."""
    stop = length - closing
    first = {"head": room, "tail": 0, "head_tail": int(HEAD * room)}[keep]
    return [*range(opening + first), *range(stop - (room - first), stop), *range(stop, length)]


def stride(room: int, overlap: float) -> int:
    """Tokens from the start of one window to the start of the next."""
    return max(1, room - int(overlap * room))


def window_places(length: int, opening: int, closing: int, room: int, step: int) -> list[list[int]]:
    """Token indices of each window, including the special tokens."""
    stop = length - closing
    starts = range(opening, max(opening + 1, stop - room + step), step)
    ends = [*range(stop, length)]
    return [[*range(opening), *range(start, min(start + room, stop)), *ends] for start in starts]


def whole_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, limit: int, special: bool
) -> tuple[Iterator[list[int]], int]:
    """(untruncated ids of each text; text tokens within the limit). Raises ConfigError if there is no room for text.

    The ids are an iterator, so that at most PART untruncated texts are in memory.
    """
    added = tokenizer.num_special_tokens_to_add() if special else 0
    if limit <= added:
        raise ConfigError([f"max_length: {limit} leaves no room for text beside {added} special token(s); raise it"])

    def whole() -> Iterator[list[int]]:
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            readable = [text.encode("utf-8", "replace").decode() for text in part]  # replaces lone surrogates
            yield from tokenizer(readable, add_special_tokens=special, verbose=False)["input_ids"]

    return whole(), limit - added


def special_counts(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Number of special tokens (before, after) any text. Raises ModelError if it cannot be determined."""
    empty, letter = (list(tokenizer(text)["input_ids"]) for text in ("", "a"))
    before = next(
        (i for i, (x, y) in enumerate(zip(empty, letter, strict=False)) if x != y), min(len(empty), len(letter))
    )
    after = len(empty) - before
    if len(empty) != tokenizer.num_special_tokens_to_add() or empty[before:] != letter[len(letter) - after :]:
        raise ModelError(
            "the tokenizer's special tokens cannot be told from text, so long texts cannot be truncated; use another model"
        )
    return before, after


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the end token: EOS, else SEP, else PAD, else 0."""
    for candidate in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(cast("int", candidate))
    return 0
