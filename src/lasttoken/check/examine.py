"""All findings about the rows of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lasttoken.check import columns, labels, texts, tokens
from lasttoken.check.finding import Finding
from lasttoken.data.dataset import Rows
from lasttoken.errors import DataError


def examine(
    rows: Rows,
    *,
    tokenizer: Any = None,
    limit: int = 512,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Finding]:
    """Every finding, the serious first. tokenizer: counts tokens; None skips findings about tokens.

    Rows without a label are reported, then excluded from the other checks.
    """
    if not isinstance(rows, Rows):
        raise DataError(f"examine takes what read_rows returns, not an object of type {type(rows).__name__}")
    found = [*(Finding("quoting", sentence) for sentence in rows.told), *texts.empty(rows)]
    rows = rows.take([i for i in range(len(rows)) if rows.has_label(i)])
    if not rows.ids:
        return found
    steps: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("columns", lambda: columns.roles(rows)),
        ("texts", lambda: texts.copies(rows)),
        ("labels", lambda: [*labels.names(rows), *labels.balance(rows), *labels.unseen(rows)]),
        ("near-duplicates", lambda: texts.near(rows)),
        ("mislabelled rows", lambda: labels.mislabelled(rows, seed=seed)),
        ("characters", lambda: [*texts.wrong_encoding(rows), *texts.characters(rows), *texts.leakage(rows)]),
    ]
    if tokenizer is not None:
        steps.append(
            ("tokens", lambda: [*tokens.lengths(rows, tokenizer, limit=limit), *tokens.beginnings(rows, tokenizer)])
        )
    for done, (what, step) in enumerate(steps):
        if progress is not None:
            progress(what, done, len(steps))
        found += step()
    return sorted(found, key=lambda finding: not finding.serious)
