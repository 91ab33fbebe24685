"""Who predicts parts of a job and commits them: in this process, in another, or on another machine.

A part's file appears by a rename, or one PUT on a store, so its name is the commit. Nothing written depends on the time
of day or on who wrote it: a worker that is killed leaves nothing half done, and another writes the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lasttoken.data.write import Row, writer
from lasttoken.errors import DataError
from lasttoken.predict.file import (
    LABEL,
    SET,
    added_names,
    cells_of,
    check_names,
    check_words,
    has_word,
    texts_of,
)
from lasttoken.predict.job import JOB, Job, WholeFile, errors_of
from lasttoken.predict.parts import CHUNK, Part, Records, Unit
from lasttoken.predictor import Predictor
from lasttoken.record.folder import json_bytes

GetPredictor = Callable[[], Predictor]  # called where the predictor is used; it can be sent to another process


@dataclass(frozen=True)
class Done:
    """A part that is committed."""

    name: str
    rows: int  # in the output
    bad: int  # that cannot be read


class Worker:
    """A predictor at work on a job."""

    def __init__(self, job: Job, about: bytes | None, predictor: Predictor):
        """about: what job.json is to hold; None: it is there."""
        self.job, self.about, self.predictor = job, about, predictor

    def work(self, unit: Unit) -> Iterator[Done]:
        """Predict and commit the parts of a unit, one after another.

        A part that cannot be written does not keep the next ones from it: the first DataError is raised at the end. One that
        holds for the whole file, and one in reading, is raised at once.
        """
        failed: DataError | None = None
        for part in unit.parts(self.job):
            try:
                files, done = self.predicted(part)
            except WholeFile:
                raise
            except DataError as error:
                failed = failed or error
                if self.job.strict:
                    break
                continue
            if self.about is not None:  # not before: a mistake that shows in the first part leaves nothing behind
                self.job.out.commit(JOB, self.about)
                self.about = None
            for name, content in files.items():
                self.job.out.commit(name, content)
            yield done
        if failed is not None:
            raise failed

    def predicted(self, part: Part) -> tuple[dict[str, bytes], Done]:
        """(files to commit, in this order: its errors, then the part itself; its counts)."""
        job, predictor, writes = self.job, self.predictor, self.job.writes
        rule = predictor.policy.rule
        format = part.name.rpartition(".")[2]
        between = writes.separator if format in ("csv", "tsv") else None  # labels of a row with several
        try:
            added = added_names(predictor.labels, rule, probs=writes.probs, joined=between)
        except DataError as error:
            raise WholeFile(str(error)) from error
        if taken := set(added) & set(part.columns):
            raise WholeFile(
                f"{part.file.name}: has a column {sorted(taken)[0]!r} already; rename it, that name is to be added"
            )
        header = [*part.columns, *added]
        records, texts = readable(job, part, header, added, fixed=format != "jsonl")
        content = io.BytesIO()
        lists = {LABEL: predictor.labels.multi, SET: True}
        with writer(format, content, table=part.table, lists=lists) as write:
            for start in range(0, max(1, len(records)), CHUNK):
                chunk, some = records[start : start + CHUNK], texts[start : start + CHUNK]
                words = [has_word(text) for text in some]
                said = cells_of(predictor(some), words, rule, writes, joined=between) if some else []
                write(header, [row | more for (_, row), more in zip(chunk, said, strict=True)])
        errors = {errors_of(part.name): b"".join(json_bytes(row) for row in part.bad)} if part.bad else {}
        return errors | {part.name: content.getvalue()}, Done(part.name, len(records), len(part.bad))


def readable(
    job: Job, part: Part, header: Sequence[str], added: Sequence[str], *, fixed: bool
) -> tuple[Records, list[str]]:
    """(records, their texts) of those that have a text and fit the output; the others join `part.bad`.

    Raises DataError at the first of those with `strict`.
    """

    def texts_in(records: Records) -> list[str]:
        check_names(part.table, records, header=header, added=added, fixed=fixed)
        texts = texts_of(records, job.reads.columns, table=part.table)
        if job.writes.empty == "refuse":
            check_words(records, texts, part.table)
        return texts

    good, texts = list[tuple[int, Row]](), list[str]()
    for start in range(0, len(part.records), CHUNK):
        chunk = part.records[start : start + CHUNK]
        try:
            texts += texts_in(chunk)
            good += chunk
        except DataError:
            if job.strict:
                raise
            for record in chunk:  # one by one: which of them it is
                try:
                    texts += texts_in([record])
                    good.append(record)
                except DataError as error:
                    part.bad.append({"file": part.file.name, part.table.unit: record[0], "error": str(error)})
    part.bad.sort(key=lambda row: row[part.table.unit])
    return good, texts
