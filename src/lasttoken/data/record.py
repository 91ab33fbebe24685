"""What a run keeps of its data: which row was in which part, and one digest of all it learnt from and was judged on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lasttoken.data.dataset import Dataset, Splits


def write_splits(splits: Splits, path: Path) -> None:
    """A Parquet file of columns id and split, one line a row, those of train first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = parts_of(splits)
    ids = [row for _, part in named for row in part.ids]
    names = [name for name, part in named for _ in range(len(part))]
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as stream:
        pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "split": pa.array(names, pa.string())}), stream)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def data_digest(splits: Splits) -> str:
    """SHA-256, in hexadecimal, over label names, what lies above them, and over parts, ids, texts and targets in their order.

    Every string is preceded by its length, so that no two data sets are the same bytes.
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
    return digest.hexdigest()


def parts_of(splits: Splits) -> list[tuple[str, Dataset]]:
    """The parts with their names, in order."""
    return [("train", splits.train), ("valid", splits.valid), ("test", splits.test)]
