"""Whether the columns that were named as text and label look like a text and a label."""

from __future__ import annotations

from collections.abc import Iterator

from lasttoken.check.finding import Finding
from lasttoken.check.texts import cut
from lasttoken.data.dataset import Rows

MOST = 0.5  # labels a row, above which labels are no classes
ENOUGH = 20  # rows below which nothing is said


def roles(rows: Rows) -> Iterator[Finding]:
    """A label column of texts or ids, and a text column without words. rows: all of them labelled."""
    if len(rows) < ENOUGH:
        return
    known, different = {names for names in rows.labels or ()}, len(set(rows.texts))
    if not rows.multi and len(known) > MOST * len(rows):
        swapped = "; are --text and --label swapped?" if different < MOST * len(known) else ""
        yield Finding(
            "columns",
            f"{len(known):,} different labels in {len(rows):,} rows, and {different:,} different texts{swapped}",
            (),
            "name the column of the text with --text, and that of the label with --label",
        )
    bare = sum(not any(c.isalpha() for c in text) for text in rows.texts)
    if bare > 0.95 * len(rows):
        yield Finding(
            "columns",
            f"{bare:,} of {len(rows):,} texts have no letter, such as {cut(rows.texts[0])!r}; is this the text column?",
            (),
            "name the column of the text with --text",
        )
