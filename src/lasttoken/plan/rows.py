"""How many tokens the rows have, and the fullest micro-batch that they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lasttoken.config.footprint import Footprint
from lasttoken.data.dataset import Splits
from lasttoken.labels import LabelSpace
from lasttoken.plan.memory import Work
from lasttoken.seed import generator

BYTES = 4  # of UTF-8 a token: English prose in a vocabulary of 32,000 to 128,000; code has fewer


@dataclass(frozen=True, eq=False)
class Rows:
    """What is to be learnt from, in tokens."""

    parts: dict[str, np.ndarray]  # train, valid and test: (N,) tokens of each text
    labels: LabelSpace
    known: bool  # lengths are those of texts; else memory is planned for texts that fill max_length
    counted: str  # how
    limit: int = 0  # tokens that a text may keep, once it is known how texts are read
    prefix: int = 0  # tokens of the prompt before every text
    taught: int = 0  # tokens behind a text in training
    asked: int = 0  # tokens behind a text to predict, all answers together


def count(splits: Splits, tokenizer: Path | None) -> Rows:
    """The rows of a problem, in tokens of a tokenizer.json; without one estimated from bytes."""
    named = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    raw = {k: [text.encode("utf-8", "replace") for text in v.texts] for k, v in named.items()}  # surrogates are no text
    if tokenizer is None:
        told = f"estimated, {BYTES} bytes of text a token"
        return Rows({k: np.array([-(-len(x) // BYTES) for x in v]) for k, v in raw.items()}, splits.labels, True, told)
    from tokenizers import Tokenizer

    inner = Tokenizer.from_file(str(tokenizer))
    inner.no_truncation()
    inner.no_padding()
    lengths = {k: np.array([len(inner.encode(x.decode()).ids) for x in v]) for k, v in raw.items()}
    return Rows(lengths, splits.labels, True, "by the model's tokenizer")


def suppose(rows: int, tokens: int, classes: int, *, valid_share: float, test_share: float) -> Rows:
    """Rows of which only the number and the mean length are known."""
    test, valid = round(rows * test_share), round(rows * valid_share)
    sizes = {"train": max(1, rows - test - valid), "valid": valid, "test": test}
    labels = LabelSpace(tuple(f"label {i + 1}" for i in range(classes)))
    return Rows({k: np.full(n, tokens) for k, n in sizes.items()}, labels, False, f"{tokens:,} a row, as given")


def as_read(rows: Rows, plan: Footprint, window: int) -> Rows:
    """`rows` as a method reads them: cut, and within a prompt whose tokens are estimated from its bytes."""
    limit, prefix, taught, asked = min(plan.max_length, window), 0, 0, 0
    if plan.prompt is not None:
        each = [len(name.encode()) // BYTES + 2 for name in rows.labels.names]
        prefix = min((len(plan.prompt) or 80) // BYTES + sum(each), limit // 2)  # long lists of labels are left out
        each = [n + 10 for n in each] if rows.labels.multi else each  # a question
        taught, asked = sum(each[: plan.questions]) if rows.labels.multi else max(each), sum(each)
    limit = max(1, limit - prefix - taught) * (plan.windows[1] if plan.windows else 1)
    parts = {k: np.clip(n, 1, limit) for k, n in rows.parts.items()}
    return replace(rows, parts=parts, limit=limit, prefix=prefix, taught=taught, asked=asked)


def a_pass(rows: Rows, part: str, budget: int, *, batch: int | None = None, seed: int = 0) -> Work:
    """A pass over a part: a prediction, longest rows first; or with `batch` rows an update an epoch of training."""
    answers = rows.taught if batch else rows.asked
    lengths = rows.parts[part] + answers
    tokens, n = int(lengths.sum()), len(lengths)
    fullest = lengths if rows.known else np.full(n, rows.limit + answers)
    if batch and n > batch:  # the longest of the updates that the first epoch draws
        order = generator(seed, "order of the training rows in epoch 0").permutation(n)[: n // batch * batch]
        drawn = fullest[order.reshape(-1, batch)]  # (updates, batch)
        fullest = drawn[drawn.sum(axis=1).argmax()]
    fullest = np.sort(fullest)[::-1]
    first = fullest[: max(1, int((fullest.cumsum() <= budget).sum()))]
    batches = max(-(-n // (batch or n or 1)), tokens / budget)
    return Work(first, rows.prefix, answers, len(first) < len(fullest), batches, tokens + round(batches * rows.prefix))
