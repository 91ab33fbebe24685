"""Predictions for a file: every input row, with prediction columns appended.

Rows are read, predicted and written `chunk` at a time, so that memory does not grow with the file.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np

from lasttoken.data.read import Columns, composer
from lasttoken.data.tables import FORMATS, Table, file_table, format_of, known_formats, stream_table
from lasttoken.data.write import Place, Row, chunks, header_of, is_standard, opened, writer
from lasttoken.errors import DataError
from lasttoken.evaluation.decisions import Rule
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.paths import local
from lasttoken.predict.options import Input, Output
from lasttoken.predictor import Answers, Predictor
from lasttoken.text.truncation import Truncation

LABEL, PROBABILITY = "predicted_label", "predicted_probability"
ABSTAINED, SET = "abstained", "predicted_set"


@dataclass(frozen=True)
class Summary:
    """Counts of a prediction run, and warnings about its source."""

    rows: int
    empty: int  # of them, rows whose text has no word: no letter, digit or emoji
    truncated: str | None  # a sentence on truncation by the length limit
    seconds: float
    abstained: int = 0  # rows abstained on
    without: int = 0  # rows that were given no label, those left to a person and those without a word aside
    told: tuple[str, ...] = ()  # warnings about the source


def predict_file(
    predictor: Predictor,
    source: Place,
    target: Place,
    *,
    reads: Input,
    writes: Output | None = None,
    chunk: int = 4096,
    progress: Progress = unheard,
) -> Summary:
    """Write every row of `source`, in order, with its prediction to `target`; returns the counts.

    All columns pass through. Added are `predicted_label` (null where a generated answer named none),
    `predicted_probability` of that label, and with `probs` one `p(NAME)` for each label. Where the policy may abstain,
    `abstained` says so of a row, which then has no label; where it makes sets of labels they are `predicted_set`. With
    several labels a row `predicted_label` is a list, and there is no `predicted_probability`. Text files are written in UTF-8.
    progress: is told the rows done and the rows in all, estimated from the bytes read; 0 where they are not known. Raises
    DataError on the first row that cannot be read or written, ArtifactError where the target exists or cannot be written.
    """
    writes = writes or Output()
    columns, probs, empty = reads.columns, writes.probs, writes.empty
    started = time.monotonic()
    table = table_of(source, columns, format=reads.format, encoding=reads.encoding, quoting=reads.quoting)
    format = output_format(source, target, format_in=reads.format, format_out=writes.format)
    joined = writes.separator if format in ("csv", "tsv") else None
    added = added_names(predictor.labels, predictor.policy.rule, probs=probs, joined=joined)
    header, cut = list[str](), Truncation()
    done = bare = left = without = 0
    lists = {LABEL: predictor.labels.multi, SET: True}
    with opened(target, writes.overwrite) as stream, writer(format, stream, table=table, lists=lists) as write:
        for records in chunks(table, chunk):
            header = header or header_of(table, records, added=added)
            check_names(table, records, header=header, added=added, fixed=format != "jsonl")
            texts = texts_of(records, columns, table=table)
            words = [has_word(text) for text in texts]
            if empty == "refuse":
                check_words(records, texts, table)
            expected = 0 if table.expect is None else table.expect(done + len(texts))
            answers = predictor(texts, Journal(progress=shifted(progress, done, expected)))
            cut += answers.truncation
            said = cells_of(answers, words, predictor.policy.rule, writes, joined=joined)
            write(header, [row | more for (_, row), more in zip(records, said, strict=True)])
            done, bare = done + len(texts), bare + words.count(False)
            left += sum(more.get(ABSTAINED, False) for more in said)
            judged = [more for more, word in zip(said, words, strict=True) if word or empty == "label"]
            without += sum(not more[LABEL] and not more.get(ABSTAINED, False) for more in judged)
            progress(done, expected)
    truncated = str(cut) if cut else None
    return Summary(done, bare, truncated, time.monotonic() - started, left, without, tuple(table.told))


def shifted(progress: Progress, before: int, total: int) -> Callable[[str, int, int], None]:
    """The progress of a chunk's prediction as that of the file. before: rows of earlier chunks; total: rows of the file."""
    return lambda _, done, __: progress(before + done, total)


# Reading


def table_of(source: Place, columns: Columns, *, format: str | None, encoding: str, quoting: str = "auto") -> Table:
    """All columns of a file or stream, which has those of the text and the id."""
    needed = [*columns.text, *([] if columns.id is None else [columns.id])]
    if is_standard(source):
        source = sys.stdin.buffer
    if isinstance(source, str | os.PathLike):
        return file_table(local(source), needed, format=format, encoding=encoding, quoting=quoting, whole=True)
    return stream_table(source, needed, format=format, encoding=encoding, quoting=quoting, whole=True)


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


def has_word(text: str) -> bool:
    """Whether a text holds a letter, a digit or an emoji; texts without get no label."""
    return any(c.isalnum() or category(c) == "So" for c in text)


def check_words(records: Sequence[tuple[int, Row]], texts: Sequence[str], table: Table) -> None:
    """Raise DataError where a text has no letter, digit or emoji."""
    for (number, _), text in zip(records, texts, strict=True):
        if not has_word(text):
            raise DataError(
                f"{table.at(number)}: no letter, digit or emoji in the text; mend it, or let --empty blank pass it through"
            )


# What is added


def unlabelled(row: Row) -> Row:
    """What is added to a row whose text has no word: no label, no probability; whether it was abstained on stays."""
    nothing = {list: [], float: math.nan}  # NaN, which is written as nothing, keeps a column of numbers one
    return {name: nothing.get(type(value)) if name != ABSTAINED else value for name, value in row.items()}


def cells_of(answers: Answers, words: Sequence[bool], rule: Rule, writes: Output, *, joined: str | None) -> list[Row]:
    """What is added to each row; nothing but its columns to those whose text has no word, unless they are labelled too."""
    said = added_cells(answers, rule, probs=writes.probs, joined=joined)
    if writes.empty != "blank":
        return said
    return [more if word else unlabelled(more) for more, word in zip(said, words, strict=True)]


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


def added_cells(answers: Answers, rule: Rule, *, probs: bool, joined: str | None) -> list[Row]:
    """What is added to each row. `joined` stands between the names of a row with several; None keeps them a list."""
    space = answers.space

    def written(chosen: np.ndarray) -> list[list[str] | str]:
        return [list(names) if joined is None else joined.join(names) for names in space.decode_sets(chosen)]

    if space.multi:
        rows: list[Row] = [{LABEL: names} for names in written(answers.decisions)]
    else:
        highest = answers.probs[np.arange(len(answers)), answers.decisions].tolist()
        rows = [
            {LABEL: name, PROBABILITY: math.nan if name is None else p}
            for name, p in zip(answers.labels, highest, strict=True)
        ]
    if rule.abstain_below:
        rows = [
            row | {ABSTAINED: nothing} | ({LABEL: None} if nothing else {})
            for row, nothing in zip(rows, answers.abstained.tolist(), strict=True)
        ]
    if answers.sets is not None:
        rows = [row | {SET: names} for row, names in zip(rows, written(answers.sets), strict=True)]
    if probs:
        names = [column_of(name) for name in space.names]
        lines = answers.probs.tolist()
        rows = [row | dict(zip(names, line, strict=True)) for row, line in zip(rows, lines, strict=True)]
    return rows
