"""Predictions: probabilities of N rows over C labels, decisions and targets, independent of the method that made them."""

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


HALF = 0.5  # default threshold


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities, decisions and targets of N rows."""

    ids: Sequence[str]  # (N,)
    targets: np.ndarray  # (N,) int64, or (N, C) bool
    probs: np.ndarray  # (N, C) float64
    labels: LabelSpace
    decisions: np.ndarray | None = None  # shaped as targets, NOTHING where no label is given; None: those of `decide`
    fold: np.ndarray | None = None  # (N,) int64 from 0, which fold of a cross-validation judged the row; None: no folds

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.labels))
        if self.probs.shape != expected:
            raise ValueError(f"probs are {self.probs.shape}, expected {expected}")
        if self.targets.shape != (expected if self.labels.multi else expected[:1]):
            raise ValueError(f"targets are {self.targets.shape}, probs {expected}, multi is {self.labels.multi}")
        if self.decisions is not None and self.decisions.shape != self.targets.shape:
            raise ValueError(f"decisions are {self.decisions.shape}, targets {self.targets.shape}")
        if self.fold is not None and (self.fold.shape != expected[:1] or not np.bincount(self.fold).all()):
            raise ValueError(f"folds are {self.fold.shape}, rows {expected[0]}; every fold from 0 needs rows")
        check_finite(self.probs, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The rows of several predictions one after another; at least one part, of the same labels."""
        first = parts[0]
        decisions = None if first.decisions is None else np.concatenate([part.chosen for part in parts])
        folds = [part.fold for part in parts if part.fold is not None]
        return cls(
            [row for part in parts for row in part.ids],
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.probs for part in parts]),
            first.labels,
            decisions,
            np.concatenate(folds) if len(folds) == len(parts) else None,
        )

    @property
    def chosen(self) -> np.ndarray:
        """The decisions, shaped as targets: (N,) int64, or (N, C) bool."""
        return decide(self.probs, self.labels.multi) if self.decisions is None else self.decisions

    def take(self, rows: np.ndarray) -> Predictions:
        """The chosen rows (M,) int, in that order."""
        decisions = None if self.decisions is None else self.decisions[rows]
        places: list[int] = rows.tolist()
        ids = [self.ids[i] for i in places]
        fold = None if self.fold is None else np.unique(self.fold[rows], return_inverse=True)[1]  # none left empty
        return Predictions(ids, self.targets[rows], self.probs[rows], self.labels, decisions, fold)


def check_finite(probs: np.ndarray, ids: Sequence[str]) -> None:
    """Raises ArtifactError where probabilities (N, C) of the rows `ids` are NaN or infinite."""
    if not np.isfinite(probs).all():
        rows = np.flatnonzero(~np.isfinite(probs).all(axis=1))
        raise ArtifactError(
            f"{len(rows)} rows have probabilities that are not finite, first id {ids[rows[0]]!r}; train again"
        )


def decide(probs: np.ndarray, multi: bool) -> np.ndarray:
    """Decisions: the most probable column (N,) int64, or with `multi` every column at .5 or more, (N, C) bool."""
    return probs >= HALF if multi else most_probable(probs)


def most_probable(probs: np.ndarray) -> np.ndarray:
    """The most probable column (N,) int64; NOTHING where all are 0 (a generated answer that names no label)."""
    return np.where(probs.any(axis=1), probs.argmax(axis=1), NOTHING)


def write_predictions(
    predictions: Predictions, path: Path, *, texts: Sequence[str] | None = None, raw: np.ndarray | None = None
) -> None:
    """A Parquet file of columns id, target and decided (lists of names), probs (list of C), and where given raw and text.

    After a cross-validation `fold` is the fold, from 1, whose model did not see the row and judged it.
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
    if predictions.fold is not None:
        columns["fold"] = pa.array(predictions.fold + 1, pa.int64())
    if texts is not None:
        columns["text"] = pa.array(list(texts), pa.string())
    described = json.dumps({"names": space.names, "multi": space.multi})
    with path.open("wb") as stream:  # given a path such as a:1, Arrow would parse it as a URI
        pq.write_table(pa.table(columns).replace_schema_metadata({"lasttoken": described}), stream)


def read_predictions(path: Path) -> Predictions:
    """The predictions that `write_predictions` stored. Raises ArtifactError on a missing or damaged file."""
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
    fold = stored(path, ["fold"])[0]["fold"].to_numpy() - 1 if has_column(path, "fold") else None
    return Predictions(table["id"].to_pylist(), columns_of("target"), probs, space, columns_of("decided"), fold)


def read_raw(path: Path) -> np.ndarray:
    """The probabilities (N, C) before calibration. Raises ArtifactError where they were not stored."""
    table, space = stored(path, ["raw"])
    return arrays(table["raw"], len(space))


def arrays(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of lists of one width as (N, width). Raises ArtifactError where they are not."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(flat) != len(column) * width:
        raise ArtifactError(
            f"probabilities are not lists of {width}: not a predictions file of lasttoken; run the fit again"
        )
    return flat.reshape(len(column), width).astype(np.float64)


def read_texts(path: Path) -> list[str] | None:
    """The texts (N,) stored with the predictions, None without. Raises ArtifactError as `read_predictions`."""
    return stored(path, ["text"])[0]["text"].to_pylist() if has_column(path, "text") else None


def has_column(path: Path, name: str) -> bool:
    """Whether a predictions file has this column. Raises ArtifactError as `read_predictions`."""
    import pyarrow.parquet as pq

    stored(path, ["id"])  # raises on any other file
    with path.open("rb") as stream:
        return name in pq.read_schema(stream).names


def stored(path: Path, columns: list[str]) -> tuple[pa.Table, LabelSpace]:
    """(these columns of a predictions file, its labels). Raises ArtifactError on another file or a missing column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            described = json.loads(pq.read_schema(stream).metadata[b"lasttoken"])
            table = pq.read_table(stream, columns=columns)
        return table, LabelSpace(tuple(described["names"]), described["multi"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"{path}: not a predictions file of lasttoken ({reason}); run the fit again") from error
