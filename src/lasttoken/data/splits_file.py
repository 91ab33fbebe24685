"""What a run stores of its data: the split of each row, and one digest of all rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.record.atomic import writing_file


def write_splits(splits: Splits, path: Path) -> None:
    """A Parquet file of columns id and split, one line a row, those of train first.

    After a cross-validation train and valid are of the final model, and `fold` is the fold from 1 that judged the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = parts_of(splits)[: 2 if splits.folds else 3]
    ids = [row for _, part in named for row in part.ids]
    names = [name for name, part in named for _ in range(len(part))]
    columns = {"id": pa.array(ids, pa.string()), "split": pa.array(names, pa.string())}
    if splits.folds:
        fold = {row: number for number, one in enumerate(splits.folds, start=1) for row in one.test.ids}
        columns["fold"] = pa.array([fold.get(row) for row in ids], pa.int64())
    with writing_file(path) as stream:
        pq.write_table(pa.table(columns), stream)


def data_digest(splits: Splits) -> str:
    """Hexadecimal SHA-256 of label names, hierarchy, splits, ids, texts and targets, in order, and of the folds.

    Every string is preceded by its length, so that different data sets never give the same bytes.
    """
    digest = hashlib.sha256()

    def add(text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)

    space = splits.labels
    digest.update(bytes([space.multi]) + len(space).to_bytes(8, "little"))
    for name in space.names:
        add(name)
    for label, parent in sorted(splits.hierarchy.parents.items()) if splits.hierarchy else ():
        add(label)
        add(parent or "")
    for name, part in parts_of(splits):
        add(name)
        digest.update(len(part).to_bytes(8, "little"))
        for row, text in zip(part.ids, part.texts, strict=True):
            add(row)
            add(text)
        digest.update(part.targets.astype("?" if space.multi else "<i8").tobytes())
    for fold in splits.folds:
        add(data_digest(fold))
    return digest.hexdigest()


def parts_of(splits: Splits) -> list[tuple[str, Dataset]]:
    """The parts with their names, in order."""
    return [("train", splits.train), ("valid", splits.valid), ("test", splits.test)]
