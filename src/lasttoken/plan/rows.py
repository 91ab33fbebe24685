"""How many tokens the rows have: counted by the model's tokenizer where that is here, estimated from their bytes where it is not."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import locate
from lasttoken.text.tokenizer import encode

BYTES = (
    4.3  # of UTF-8 a token: English prose in a vocabulary of 32,000 to 128,000; other scripts are near, code is below
)
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
WHOLE = 1 << 40  # a limit that cuts nothing


@dataclass(frozen=True, eq=False)
class Rows:
    """What is to be learnt from, in tokens; a text is counted whole, before any limit."""

    train: np.ndarray  # (N,) int64
    valid: np.ndarray
    test: np.ndarray
    labels: LabelSpace
    data: Dataset | None  # the training rows; None where only their number is known
    origin: str  # how tokens were counted


class Estimate:
    """Takes a tokenizer's place: a token for every BYTES bytes, equal where those are."""

    chat_template = None
    bos_token_id = sep_token_id = pad_token_id = None
    eos_token_id = 0

    def num_special_tokens_to_add(self) -> int:
        """One, for the beginning or the end."""
        return 1

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool = True, **unused: Any) -> dict[str, Any]:
        """The ids of one text or of several, as tokenizers give them."""
        if isinstance(text, str):
            return {"input_ids": [0] * add_special_tokens + self.pieces(text)}
        return {"input_ids": [[0] * add_special_tokens + self.pieces(each) for each in text]}

    def pieces(self, text: str) -> list[int]:
        """An id for every piece."""
        data = text.encode("utf-8", "replace")
        ends = [*(round(BYTES * i) for i in range(1, round(len(data) / BYTES))), len(data)] if data else []
        return [zlib.crc32(data[start:end]) >> 1 for start, end in zip([0, *ends], ends, strict=False)]


def tokenizer_here(name: str, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The model's tokenizer where it can be had without a download; else an `Estimate`."""
    folder = Path(locate(name))

    def has(file: str) -> bool:
        if folder.is_dir():
            return (folder / file).is_file()
        return isinstance(try_to_load_from_cache(name, file, revision=revision), str)

    if not any(map(has, FILES)):  # a folder that holds a config alone, for which transformers may make up an empty one
        return Estimate()
    try:
        return AutoTokenizer.from_pretrained(
            locate(name), revision=revision, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError):
        return Estimate()


def count(splits: Splits, tokenizer: Any, *, special: bool) -> Rows:
    """The rows of a problem. special: with what the tokenizer adds to any text."""
    parts = (splits.train, splits.valid, splits.test)
    train, valid, test = (encode(tokenizer, part.texts, limit=WHOLE, special=special).lengths for part in parts)
    told = (
        f"estimated, {BYTES} bytes of text a token" if isinstance(tokenizer, Estimate) else "by the model's tokenizer"
    )
    return Rows(train, valid, test, splits.labels, splits.train, told)


def suppose(rows: int, tokens: int, classes: int, *, valid_share: float, test_share: float) -> Rows:
    """Rows of which only the number and the mean length are known; none of them is seen."""
    test, valid = round(rows * test_share), round(rows * valid_share)
    train, *rest = (np.full(max(1, n), tokens, dtype=np.int64) for n in (rows - test - valid, valid, test))
    labels = LabelSpace(tuple(f"label {i + 1}" for i in range(classes)))
    return Rows(train, rest[0], rest[1], labels, None, f"{tokens:,} a row, as given")
