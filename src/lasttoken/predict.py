"""Predictions for a file: every row as it was, followed by what a classifier says of it.

Rows are read, predicted and written `chunk` at a time, so that memory does not grow with the file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken.data.read import Columns, composer
from lasttoken.data.tables import FORMATS, Table, file_table, format_of, known_formats, stream_table
from lasttoken.data.write import Place, Row, chunks, header_of, is_standard, opened, writer
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy
from lasttoken.journal import Journal, Truncation
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Classifier

LABEL, PROBABILITY = "predicted_label", "predicted_probability"
ABSTAINED, SET = "abstained", "predicted_set"


@dataclass(frozen=True)
class Summary:
    """What was predicted."""

    rows: int
    empty: int  # of them, rows whose text is empty or white space alone
    truncated: str | None  # what the length limit cut off, in a sentence
    seconds: float
    abstained: int = 0  # rows that were left to a person
    without: int = 0  # rows that were given no label, those left to a person aside


def predict_file(
    classifier: Classifier,
    source: Place,
    target: Place,
    *,
    columns: Columns,
    policy: Policy | None = None,
    encoding: str = "utf-8",
    format_in: str | None = None,
    format_out: str | None = None,
    probs: bool = False,
    separator: str | None = None,
    overwrite: bool = False,
    chunk: int = 4096,
    ready: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """The count of rows of `source` that went to `target` with their prediction, in their order.

    policy: how probabilities are calibrated and decided on (`read_policy(run)`); None takes them as they are.

    All columns pass through; added are `predicted_label` (null where a generated answer named none),
    `predicted_probability` of that label, and with `probs` one
    `p(NAME)` for each label. Where the policy may abstain, `abstained` says so of a row, which then has no label; where it
    makes sets of labels they are `predicted_set`. With a multi-label classifier `predicted_label` is a list, in csv and tsv joined by
    `separator` (";" where it is None), and there is no `predicted_probability`. Formats (csv, tsv, jsonl, parquet) go
    by the ending where they are not named; standard output has that of the input. Text files are written in UTF-8.
    `columns` tells text, template and id; what it says of labels and splits is not looked at. `ready` is called once
    source and target are known to be good, before the first prediction; `progress` is told the number of rows that are
    done, after each chunk. Raises DataError on the first row that cannot be read or written,
    ArtifactError where the target exists or cannot be written.
    """
    started = time.monotonic()
    table = table_of(source, columns, format=format_in, encoding=encoding)
    format = output_format(source, target, format_in=format_in, format_out=format_out)
    joined = (separator or ";") if format in ("csv", "tsv") else None
    policy = policy or Policy()
    added = added_names(classifier.labels, policy.rule, probs=probs, joined=joined)
    header, cut = list[str](), Truncation()
    done = empty = left = without = 0
    lists = {LABEL: classifier.labels.multi, SET: True}
    with opened(target, overwrite) as stream, writer(format, stream, table=table, lists=lists) as write:
        for records in chunks(table, chunk):
            header = header or header_of(table, records, added=added)
            check_names(table, records, header=header, added=added, fixed=format != "jsonl")
            texts = texts_of(records, columns, table=table)
            if ready and not done:
                ready()
            journal = Journal()  # one a chunk, because it keeps something of each row
            said = predicted(classifier, policy, texts, journal, table=table, probs=probs, joined=joined)
            cut += journal.truncation
            write(header, [row | more for (_, row), more in zip(records, said, strict=True)])
            done, empty = done + len(texts), empty + sum(not text.strip() for text in texts)
            left += sum(more.get(ABSTAINED, False) for more in said)
            without += sum(not more[LABEL] and not more.get(ABSTAINED, False) for more in said)
            if progress:
                progress(done)
    truncated = str(cut) if cut else None
    return Summary(done, empty, truncated, time.monotonic() - started, left, without)


# Reading


def table_of(source: Place, columns: Columns, *, format: str | None, encoding: str) -> Table:
    """All columns of a file or stream, which has those of the text and the id."""
    needed = [*columns.text, *([] if columns.id is None else [columns.id])]
    if is_standard(source):
        return stream_table(sys.stdin.buffer, needed, format=format, encoding=encoding, whole=True)
    if isinstance(source, str | os.PathLike):
        return file_table(Path(source), needed, format=format, encoding=encoding, whole=True)
    return stream_table(source, needed, format=format, encoding=encoding, whole=True)


def output_format(source: Place, target: Place, *, format_in: str | None, format_out: str | None) -> str:
    """The format to write: as named, else by the ending of the target, else that of the input."""
    if format_out is not None:
        if format_out not in known_formats():
            raise DataError(f"no writer of format {format_out!r}; known are {', '.join(known_formats())}")
        return format_out
    if isinstance(target, str | os.PathLike) and not is_standard(target):
        ending = Path(target).suffix.lower()
        if ending not in FORMATS:
            raise DataError(
                f"{target}: its ending names no format to write; end the name in one of {', '.join(FORMATS)}, "
                "or name the format: --out-format csv"
            )
        return FORMATS[ending]
    if format_in is not None:
        return format_in
    assert isinstance(source, str | os.PathLike)  # a stream without a format was refused when it was opened
    return format_of(Path(source))


def texts_of(records: Sequence[tuple[int, Row]], columns: Columns, *, table: Table) -> list[str]:
    """The texts (N,) of some rows. Raises DataError, naming the row, where a cell is no text."""
    compose, texts = composer(columns), list[str]()
    for number, row in records:
        try:
            texts.append(compose([row[column] for column in columns.text]))
        except DataError as error:
            raise DataError(f"{table.at(number)}: {error}") from error
    return texts


# What is added


def added_names(labels: LabelSpace, rule: Rule, *, probs: bool, joined: str | None) -> list[str]:
    """The columns that are added, in their order. Raises DataError on a label that `joined` would tear in two."""
    sets = rule.coverage > 0
    torn = [name for name in labels.names if (labels.multi or sets) and joined and joined in name]
    if torn:
        raise DataError(
            f"label {torn[0]!r} holds {joined!r}, which is to stand between labels; "
            "name another separator, or write .jsonl, which keeps lists"
        )
    own = [LABEL, *([] if labels.multi else [PROBABILITY])]
    own += [ABSTAINED] if rule.abstain_below else []
    own += [SET] if sets else []
    return [*own, *(map(column_of, labels.names) if probs else ())]


def column_of(label: str) -> str:
    """The name of the column that holds a label's probability."""
    return f"p({label})"


def check_names(
    table: Table, records: Sequence[tuple[int, Row]], *, header: Sequence[str], added: Sequence[str], fixed: bool
) -> None:
    """Raise DataError on a column of the name of an added one, or, where columns are `fixed`, one outside `header`."""
    taken, known = set(added), set(header)
    for number, row in records:
        if not taken.isdisjoint(row):
            name = next(name for name in row if name in taken)
            raise DataError(f"{table.at(number)}: has a column {name!r} already; rename it, that name is to be added")
        if fixed and not row.keys() <= known:
            name = next(name for name in row if name not in known)
            raise DataError(
                f"{table.at(number)}: column {name!r} is not in the first rows, which settle the columns; "
                "write .jsonl, whose rows may differ"
            )


def predicted(
    classifier: Classifier,
    policy: Policy,
    texts: Sequence[str],
    journal: Journal,
    *,
    table: Table,
    probs: bool,
    joined: str | None,
) -> list[Row]:
    """What is added to each row. `joined` stands between the names of a row with several; None keeps them a list."""
    labels, rule = classifier.labels, policy.rule
    values = classifier.predict_proba(texts, journal)  # (N, C)
    if values.shape != (len(texts), len(labels)):
        raise ValueError(f"probabilities are {values.shape}, expected {(len(texts), len(labels))}")
    if not np.isfinite(values).all():
        raise ArtifactError(f"{table.name}: the model gives probabilities that are not finite; train it again")
    raw = values
    values, decisions = policy(raw, labels.multi)

    def written(chosen: np.ndarray) -> list[list[str] | str]:
        return [list(names) if joined is None else joined.join(names) for names in labels.decode_sets(chosen)]

    if labels.multi:
        rows: list[Row] = [{LABEL: names} for names in written(decisions)]
    else:
        highest = values[np.arange(len(texts)), decisions].tolist()
        rows = [
            {LABEL: name or None, PROBABILITY: p} for name, p in zip(labels.decode(decisions), highest, strict=True)
        ]
    if rule.abstain_below:
        left = rule.abstains(values, labels.multi).tolist()
        rows = [
            row | {ABSTAINED: nothing} | ({LABEL: None} if nothing else {})
            for row, nothing in zip(rows, left, strict=True)
        ]
    if rule.coverage:
        rows = [row | {SET: names} for row, names in zip(rows, written(policy.sets(raw)), strict=True)]
    if probs:
        names = [column_of(name) for name in labels.names]
        rows = [row | dict(zip(names, line, strict=True)) for row, line in zip(rows, values.tolist(), strict=True)]
    return rows
