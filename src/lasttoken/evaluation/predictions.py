"""The waist of the package: probabilities of N rows over C labels, and the truth.

Whatever reads them does not know how they were made.
"""

# pyarrow has no type stubs, so whatever it returns is unknown here
# pyright: basic

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lasttoken.errors import ArtifactError
from lasttoken.labels import LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said of N rows, and what is true of them."""

    ids: Sequence[str]  # (N,)
    targets: np.ndarray  # (N,) int64, or (N, C) bool
    probs: np.ndarray  # (N, C) float64
    labels: LabelSpace

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.labels))
        if self.probs.shape != expected:
            raise ValueError(f"probs are {self.probs.shape}, expected {expected}")
        if self.targets.shape != (expected if self.labels.multi else expected[:1]):
            raise ValueError(f"targets are {self.targets.shape}, probs {expected}, multi is {self.labels.multi}")
        if not np.isfinite(self.probs).all():
            rows = np.flatnonzero(~np.isfinite(self.probs).all(axis=1))
            raise ArtifactError(
                f"{len(rows)} rows have probabilities that are not finite, first id {self.ids[rows[0]]!r}"
            )

    def __len__(self) -> int:
        return len(self.ids)


def decide(probs: np.ndarray, multi: bool) -> np.ndarray:
    """Decisions: the most probable column (N,) int64, or with `multi` every column at .5 or more, (N, C) bool."""
    return probs >= 0.5 if multi else probs.argmax(axis=1)


def write_predictions(predictions: Predictions, path: Path, *, texts: Sequence[str] | None = None) -> None:
    """A Parquet file of columns id, target (list of names), probs (list of C) and, where given, text.

    texts: (N,), row-aligned. The label names are in the file's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if texts is not None and len(texts) != len(predictions):
        raise ValueError(f"{len(texts)} texts for {len(predictions)} rows")
    space = predictions.labels
    if space.multi:
        targets = [list(names) for names in space.decode_sets(predictions.targets)]
    else:
        targets = [[name] for name in space.decode(predictions.targets)]
    columns = {
        "id": pa.array(list(predictions.ids), pa.string()),
        "target": pa.array(targets, pa.list_(pa.string())),
        "probs": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(predictions.probs, dtype=np.float64).ravel()), len(space)
        ),
    }
    if texts is not None:
        columns["text"] = pa.array(list(texts), pa.string())
    described = json.dumps({"names": space.names, "multi": space.multi})
    pq.write_table(pa.table(columns).replace_schema_metadata({"lasttoken": described}), path)


def read_predictions(path: Path) -> Predictions:
    """What `write_predictions` was given. Raises ArtifactError on a file that is missing or damaged."""
    table, space = stored(path, ["id", "target", "probs"])
    names = table["target"].to_pylist()
    targets = space.encode_sets(names) if space.multi else space.encode([row[0] for row in names])
    probs = table["probs"].combine_chunks().flatten().to_numpy().reshape(len(table), len(space))
    return Predictions(table["id"].to_pylist(), targets, probs, space)


def read_texts(path: Path) -> list[str] | None:
    """The texts (N,) that were stored with the predictions, None where they were not. Raises ArtifactError likewise."""
    import pyarrow.parquet as pq

    stored(path, ["id"])  # refuses what is no predictions file
    if "text" not in pq.read_schema(path).names:
        return None
    return stored(path, ["text"])[0]["text"].to_pylist()


def stored(path: Path, columns: list[str]) -> tuple[pa.Table, LabelSpace]:
    """These columns of a predictions file, and its labels. Raises ArtifactError where it is none or lacks one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = json.loads(pq.read_schema(path).metadata[b"lasttoken"])
        table = pq.read_table(path, columns=columns)
        return table, LabelSpace(tuple(described["names"]), described["multi"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"{path}: not a predictions file of lasttoken ({reason}); run the fit again") from error
