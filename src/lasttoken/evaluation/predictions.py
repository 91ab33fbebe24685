"""The waist of the package: probabilities of N rows over C labels, the decisions made of them, and the truth.

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
from lasttoken.labels import NOTHING, LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa


HALF = 0.5  # from which a label is given, where nothing else was chosen


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said of N rows, and what is true of them."""

    ids: Sequence[str]  # (N,)
    targets: np.ndarray  # (N,) int64, or (N, C) bool
    probs: np.ndarray  # (N, C) float64
    labels: LabelSpace
    decisions: np.ndarray | None = None  # shaped as targets, NOTHING where no label is given; None: those of `decide`

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.labels))
        if self.probs.shape != expected:
            raise ValueError(f"probs are {self.probs.shape}, expected {expected}")
        if self.targets.shape != (expected if self.labels.multi else expected[:1]):
            raise ValueError(f"targets are {self.targets.shape}, probs {expected}, multi is {self.labels.multi}")
        if self.decisions is not None and self.decisions.shape != self.targets.shape:
            raise ValueError(f"decisions are {self.decisions.shape}, targets {self.targets.shape}")
        check_finite(self.probs, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def chosen(self) -> np.ndarray:
        """The decisions, shaped as targets: (N,) int64, or (N, C) bool."""
        return decide(self.probs, self.labels.multi) if self.decisions is None else self.decisions

    def take(self, rows: np.ndarray) -> Predictions:
        """The chosen rows (M,) int, in that order."""
        decisions = None if self.decisions is None else self.decisions[rows]
        places: list[int] = rows.tolist()
        ids = [self.ids[i] for i in places]
        return Predictions(ids, self.targets[rows], self.probs[rows], self.labels, decisions)


def check_finite(probs: np.ndarray, ids: Sequence[str]) -> None:
    """Raises ArtifactError where probabilities (N, C) of the rows `ids` are NaN or infinite, of which no label follows."""
    if not np.isfinite(probs).all():
        rows = np.flatnonzero(~np.isfinite(probs).all(axis=1))
        raise ArtifactError(
            f"{len(rows)} rows have probabilities that are not finite, first id {ids[rows[0]]!r}; train again"
        )


def decide(probs: np.ndarray, multi: bool) -> np.ndarray:
    """Decisions: the most probable column (N,) int64, or with `multi` every column at .5 or more, (N, C) bool."""
    return probs >= HALF if multi else most_probable(probs)


def most_probable(probs: np.ndarray) -> np.ndarray:
    """The most probable column (N,) int64; NOTHING where all are 0, as of an answer that names no label."""
    return np.where(probs.any(axis=1), probs.argmax(axis=1), NOTHING)


def write_predictions(
    predictions: Predictions, path: Path, *, texts: Sequence[str] | None = None, raw: np.ndarray | None = None
) -> None:
    """A Parquet file of columns id, target and decided (lists of names), probs (list of C), and where given raw and text.

    texts: (N,), raw: probabilities (N, C) before calibration, row-aligned. The label names are in the file's metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if texts is not None and len(texts) != len(predictions):
        raise ValueError(f"{len(texts)} texts for {len(predictions)} rows")
    space = predictions.labels

    def names_of(values: np.ndarray) -> pa.Array:
        sets = space.decode_sets(values) if space.multi else [[name] if name else [] for name in space.decode(values)]
        return pa.array([list(names) for names in sets], pa.list_(pa.string()))

    def lists_of(probs: np.ndarray) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(probs, dtype=np.float64).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, len(space))

    columns = {
        "id": pa.array(list(predictions.ids), pa.string()),
        "target": names_of(predictions.targets),
        "decided": names_of(predictions.chosen),
        "probs": lists_of(predictions.probs),
    }
    if raw is not None:
        columns["raw"] = lists_of(raw)
    if texts is not None:
        columns["text"] = pa.array(list(texts), pa.string())
    described = json.dumps({"names": space.names, "multi": space.multi})
    pq.write_table(pa.table(columns).replace_schema_metadata({"lasttoken": described}), path)


def read_predictions(path: Path) -> Predictions:
    """What `write_predictions` was given. Raises ArtifactError on a file that is missing or damaged."""
    table, space = stored(path, ["id", "target", "decided", "probs"])

    def columns_of(name: str) -> np.ndarray:
        names = table[name].to_pylist()
        if space.multi:
            return space.encode_sets(names)
        given = np.array([len(row) > 0 for row in names], dtype=bool)
        columns = np.full(len(names), NOTHING, dtype=np.int64)
        columns[given] = space.encode([row[0] for row in names if row])
        return columns

    probs = arrays(table["probs"], len(space))
    return Predictions(table["id"].to_pylist(), columns_of("target"), probs, space, columns_of("decided"))


def read_raw(path: Path) -> np.ndarray:
    """The probabilities (N, C) before calibration. Raises ArtifactError where they were not stored."""
    table, space = stored(path, ["raw"])
    return arrays(table["raw"], len(space))


def arrays(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of lists of one width as (N, width)."""
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), width)


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
