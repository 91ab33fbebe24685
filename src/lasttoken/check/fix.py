"""A copy of a file without what nobody misses: rows without text or label, repeated rows, characters that are not seen."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from lasttoken.check.finding import Finding
from lasttoken.check.texts import UNSEEN
from lasttoken.data.dataset import Rows
from lasttoken.data.read import Columns
from lasttoken.data.tables import file_table, format_of
from lasttoken.data.write import chunks, header_of, opened_file, writer

SAFE = ("empty", "unlabelled", "duplicates")  # findings whose rows can go


def write_fixed(
    source: Path,
    target: Path,
    rows: Rows,
    findings: Sequence[Finding],
    *,
    columns: Columns,
    encoding: str = "utf-8",
    overwrite: bool = False,
) -> tuple[int, int]:
    """(rows left out, texts that lost characters that are not seen) of a copy of `source` with all its columns at `target`.

    rows: those of `source`, in its order. Raises ArtifactError where the target may not or cannot be written.
    """
    dropped = {place.id for finding in findings if finding.kind in SAFE for place in finding.places}
    table = file_table(source, columns.wanted, format=None, encoding=encoding, whole=True)
    header, done, cleaned = list[str](), 0, 0
    with (
        opened_file(target, overwrite=overwrite) as stream,
        writer(format_of(target), stream, table=table) as write,
    ):
        for records in chunks(table, 4096):
            header = header or header_of(table, records)
            kept = []
            for i, (_, row) in enumerate(records, start=done):
                if rows.ids[i] in dropped:
                    continue
                better = {name: without_controls(row[name]) for name in columns.text if isinstance(row[name], str)}
                cleaned += any(row[name] != text for name, text in better.items())
                kept.append(row | better)
            write(header, kept)
            done += len(records)
    return len(dropped), cleaned


def without_controls(text: str) -> str:
    """The text without control characters but line ends and tabs, and without those that are not seen."""
    return "".join(c for c in text if (unicodedata.category(c) != "Cc" or c in "\n\r\t") and c not in UNSEEN)
