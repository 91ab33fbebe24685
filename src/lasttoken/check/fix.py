"""Write a cleaned copy of a data file: empty, unlabelled and duplicate rows and invisible characters removed."""

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

SAFE = ("empty", "unlabelled", "duplicates")  # findings whose rows are removed


def write_fixed(
    source: Path,
    target: Path,
    rows: Rows,
    findings: Sequence[Finding],
    *,
    columns: Columns,
    encoding: str = "utf-8",
    quoting: str = "auto",
    overwrite: bool = False,
) -> tuple[int, int]:
    """Write the cleaned copy with all columns; return (rows removed, texts that lost invisible characters).

    rows: those of `source`, in its order. Raises ArtifactError if `target` cannot be written.
    """
    dropped = {place.id for finding in findings if finding.kind in SAFE for place in finding.places}
    table = file_table(
        source, columns.wanted, format=None, encoding=encoding, quoting=quoting, whole=True, optional=columns.wanted
    )
    header, done, cleaned = list[str](), 0, 0
    with (
        opened_file(target, overwrite=overwrite) as stream,
        writer(format_of(target, write=True), stream, table=table) as write,
    ):
        for records in chunks(table, 4096):
            header = header or header_of(table, records)
            kept = []
            for i, (_, row) in enumerate(records, start=done):
                if rows.ids[i] in dropped:
                    continue
                better = {name: without_controls(row[name]) for name in columns.text if isinstance(row.get(name), str)}
                cleaned += any(row[name] != text for name, text in better.items())
                kept.append(row | better)
            write(header, kept)
            done += len(records)
    return len(dropped), cleaned


def without_controls(text: str) -> str:
    """The text without control and invisible characters, except line ends, tabs and U+0080 to U+009F.

    The latter are quotes, dashes and euro signs decoded with the wrong encoding: deleting them would lose text.
    """
    return "".join(
        c for c in text if (unicodedata.category(c) != "Cc" or c in "\n\r\t" or not c.isascii()) and c not in UNSEEN
    )
