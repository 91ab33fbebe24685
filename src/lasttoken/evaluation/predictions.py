"""The waist of the package: probabilities of N rows over C labels, and the truth. Below here nothing knows how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken.errors import ArtifactError
from lasttoken.labels import LabelSpace


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
        if not np.isfinite(self.probs).all():
            rows = np.flatnonzero(~np.isfinite(self.probs).all(axis=1))
            raise ArtifactError(f"{len(rows)} rows have probabilities that are not finite, first id {self.ids[rows[0]]!r}")

    def __len__(self) -> int:
        return len(self.ids)


def decide(probs: np.ndarray, multi: bool) -> np.ndarray:
    """Decisions: the most probable column (N,) int64, or with `multi` every column at .5 or more, (N, C) bool."""
    return probs >= 0.5 if multi else probs.argmax(axis=1)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """A Parquet file of columns id, target (list of names) and probs (list of C); the label names are in its metadata."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    space = predictions.labels
    if space.multi:
        targets = [list(names) for names in space.decode_sets(predictions.targets)]
    else:
        targets = [[name] for name in space.decode(predictions.targets)]
    probs = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(predictions.probs).ravel()), len(space))
    table = pa.table({"id": pa.array(list(predictions.ids), pa.string()), "target": targets, "probs": probs})
    described = json.dumps({"names": space.names, "multi": space.multi})
    pq.write_table(table.replace_schema_metadata({"lasttoken": described}), path)


def read_predictions(path: Path) -> Predictions:
    """The inverse of `write_predictions`. Raises ArtifactError on a file that is missing or damaged."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        described = json.loads(table.schema.metadata[b"lasttoken"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a predictions file of lasttoken ({error}); run the fit again") from error
    space = LabelSpace(tuple(described["names"]), described["multi"])
    names = table["target"].to_pylist()
    targets = space.encode_sets(names) if space.multi else space.encode([row[0] for row in names])
    probs = table["probs"].combine_chunks().flatten().to_numpy().reshape(len(table), len(space))
    return Predictions(table["id"].to_pylist(), targets, probs, space)
