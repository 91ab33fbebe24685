"""Checks with a model's tokenizer: text lengths, truncation, and labels that share their first token."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from lasttoken.check.finding import Finding, Place, shown
from lasttoken.data.dataset import Rows
from lasttoken.text.tokenizer import encode

BAR = 30  # characters of the longest bar


def lengths(rows: Rows, tokenizer: Any, *, limit: int) -> Iterator[Finding]:
    """Text lengths in tokens, and the texts that are truncated at `limit`."""
    encoded = encode(tokenizer, rows.texts, limit=limit)
    whole = encoded.lengths + encoded.lost
    words = sum(len(text.split()) for text in rows.texts)
    middle, high, longest = np.quantile(whole, [0.5, 0.95, 1.0])
    yield Finding(
        "lengths",
        f"median {middle:.0f} tokens per text, 95th percentile {high:.0f}, maximum {longest:.0f}; "
        f"{whole.sum() / max(1, words):.2f} tokens per word",
        (),
        serious=False,
        chart=histogram(whole),
    )
    if cut := encoded.truncation():
        places = np.flatnonzero(encoded.lost)
        order = places[np.argsort(-encoded.lost[places], kind="stable")]
        yield Finding(
            "truncated",
            str(cut),
            tuple(Place(rows.ids[i], f"{encoded.lost[i]} of {whole[i]} tokens") for i in order.tolist()),
            "raise --max-length, as far as the model's window and memory go",
            serious=bool(cut.cut > 0.05 * len(rows)),
        )


def histogram(lengths: np.ndarray) -> tuple[str, ...]:
    """Text histogram of lengths (N,): one line per bin, its upper end doubling, with the share of rows and a bar."""
    ends = 2 ** np.arange(3, 3 + max(1, math.ceil(math.log2(max(8, lengths.max())) - 2)))
    counts = np.bincount(np.searchsorted(ends, lengths), minlength=len(ends))
    full = counts.max()
    width = len(f"{ends[-1]:,}")
    bars = ("█" * math.ceil(BAR * count / full) for count in counts)
    shares = counts / len(lengths)
    return tuple(
        f"to {end:>{width},} tokens {share:6.1%} {bar}".rstrip()
        for end, share, bar in zip(ends.tolist(), shares, bars, strict=True)
    )


def beginnings(rows: Rows, tokenizer: Any) -> Iterator[Finding]:
    """Label names that share their first token. Scores are exact either way; generation needs more tokens."""
    known = sorted({name for names in rows.labels or () for name in names})
    first: defaultdict[int, list[str]] = defaultdict(list)
    for name in known:
        ids = tokenizer(" " + name, add_special_tokens=False)["input_ids"]
        if ids:
            first[int(ids[0])].append(name)
    groups = [group for group in first.values() if len(group) > 1]
    if groups:
        yield Finding(
            "first-token",
            f"{sum(map(len, groups))} of {len(known)} label names share their first token with another: {shown(groups[0])}",
            (),
            "no harm to scores; a verbalizer (method.verbalizer) makes answers of instruction shorter and more distinct",
            serious=False,
        )
