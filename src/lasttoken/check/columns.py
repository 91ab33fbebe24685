"""Whether the columns that were named as text and label look like a text and a label."""

from __future__ import annotations

from collections.abc import Iterator

from lasttoken.check.finding import Finding
from lasttoken.check.texts import cut
from lasttoken.data.dataset import Rows

LABELS_A_ROW = 0.5  # above which labels are no classes
WORDLESS = 0.95  # share of texts without a letter above which they are no texts
FEWEST_ROWS = 20  # below which nothing is said


def roles(rows: Rows) -> Iterator[Finding]:
    """A label column of texts or ids, and a text column without words. rows: all of them labelled."""
    if len(rows) < FEWEST_ROWS:
        return
    known, different = set(rows.labels or ()), len(set(rows.texts))
    if not rows.multi and len(known) > LABELS_A_ROW * len(rows):
        swapped = "; are --text and --label swapped?" if different < len(known) / 2 else ""
        yield Finding(
            "columns",
            f"{len(known):,} different labels in {len(rows):,} rows, and {different:,} different texts{swapped}",
            (),
            "name the column of the text with --text, and that of the label with --label",
        )
    bare = [text for text in rows.texts if text.strip() and not any(c.isalpha() for c in text)]
    if len(bare) > WORDLESS * len(rows):
        yield Finding(
            "columns",
            f"{len(bare):,} of {len(rows):,} texts have no letter, such as {cut(bare[0])!r}; is this the text column?",
            (),
            "name the column of the text with --text",
        )
