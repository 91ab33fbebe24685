from pathlib import Path

import numpy as np
import pytest

from lasttoken.errors import ArtifactError
from lasttoken.evaluation.calibration import fit_calibration
from lasttoken.evaluation.metrics import METRICS, confusion
from lasttoken.evaluation.predictions import Predictions, decide, read_predictions, read_texts, write_predictions
from lasttoken.labels import NOTHING, LabelSpace

SINGLE = Predictions(["r0", "r1"], np.array([1, 0]), np.array([[0.25, 0.75], [0.5, 0.5]]), LabelSpace(("no", "yes")))
MULTI = Predictions(
    ["r0", "r1"],
    np.array([[True, True], [False, False]]),
    np.array([[0.1, 0.9], [0.5, 0.4]]),
    LabelSpace(("a", "b"), multi=True),
)


def test_the_first_of_equally_probable_columns_is_chosen() -> None:
    assert decide(SINGLE.probs, multi=False).tolist() == [1, 0]


def test_with_many_labels_a_half_is_a_yes() -> None:
    assert decide(MULTI.probs, multi=True).tolist() == [[False, True], [True, False]]


def test_a_row_that_says_nothing_is_given_no_label(tmp_path: Path) -> None:
    """As of a generated answer that names none: wrong whatever is true, and of no class."""
    probs, truth = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([0, 0, 1])
    said = Predictions(["a", "b", "c"], truth, probs, SINGLE.labels)
    assert said.chosen.tolist() == [NOTHING, 0, NOTHING]
    assert {name: METRICS[name](truth, probs) for name in ("accuracy", "micro_f1", "macro_f1")} == {
        "accuracy": 1 / 3,
        "micro_f1": 0.5,  # two given rightly or wrongly ... of 1 given and 3 true: 2 * 1 / 4
        "macro_f1": 1 / 3,  # (2 * 1 / (1 + 2) + 0) / 2
    }
    assert confusion(truth, said.chosen, 2).tolist() == [[1, 0], [0, 0]]
    calibration, held, _ = fit_calibration(np.tile(probs, (40, 1)), np.tile(truth, 40), method="temperature")
    assert calibration(probs).sum(axis=1).tolist() == pytest.approx([0, 1, 0])
    assert held.sum(axis=1).tolist() == pytest.approx([0, 1, 0] * 40)
    write_predictions(said, tmp_path / "test.parquet")
    assert read_predictions(tmp_path / "test.parquet").chosen.tolist() == [NOTHING, 0, NOTHING]


@pytest.mark.parametrize("written", [SINGLE, MULTI])
def test_what_is_written_is_read(written: Predictions, tmp_path: Path) -> None:
    write_predictions(written, tmp_path / "test.parquet")
    read = read_predictions(tmp_path / "test.parquet")
    assert read.ids == ["r0", "r1"]
    assert read.labels == written.labels
    assert read.targets.dtype == written.targets.dtype
    assert read.targets.tolist() == written.targets.tolist()
    assert read.probs.dtype == np.float64
    assert read.probs.tolist() == written.probs.tolist()


def test_texts_are_stored_only_where_given(tmp_path: Path) -> None:
    write_predictions(SINGLE, tmp_path / "with.parquet", texts=["one", "two\nlines"])
    write_predictions(SINGLE, tmp_path / "without.parquet")
    assert read_texts(tmp_path / "with.parquet") == ["one", "two\nlines"]
    assert read_texts(tmp_path / "without.parquet") is None
    assert read_predictions(tmp_path / "with.parquet").probs.tolist() == SINGLE.probs.tolist()


@pytest.mark.parametrize("space", [SINGLE.labels, MULTI.labels])
def test_no_rows_survive_the_journey(space: LabelSpace, tmp_path: Path) -> None:
    targets = np.zeros((0, 2), dtype=bool) if space.multi else np.zeros(0, dtype=np.int64)
    write_predictions(Predictions([], targets, np.zeros((0, 2)), space), tmp_path / "none.parquet", texts=[])
    read = read_predictions(tmp_path / "none.parquet")
    assert (len(read), read.probs.shape, read.targets.shape) == (0, (0, 2), targets.shape)
    assert read_texts(tmp_path / "none.parquet") == []


def test_too_few_texts_are_a_bug_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 texts for 2 rows"):
        write_predictions(SINGLE, tmp_path / "test.parquet", texts=["one"])


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.parquet: not a predictions file .*run the fit again"):
        read_predictions(tmp_path / "gone.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ArtifactError, match=r"damaged\.parquet: not a predictions file .*run the fit again"):
        read_texts(tmp_path / "damaged.parquet")


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["r0"]}), tmp_path / "other.parquet")
    with pytest.raises(
        ArtifactError, match=r"other\.parquet: not a predictions file of lasttoken .*; run the fit again"
    ):
        read_predictions(tmp_path / "other.parquet")


def test_a_predictions_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_predictions(SINGLE, tmp_path / "whole.parquet")
    pq.write_table(pq.read_table(tmp_path / "whole.parquet").drop_columns(["probs"]), tmp_path / "part.parquet")
    with pytest.raises(ArtifactError, match=r"part\.parquet: not a predictions file of lasttoken \(No match .*probs"):
        read_predictions(tmp_path / "part.parquet")


def test_probabilities_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ArtifactError, match="1 rows have probabilities that are not finite, first id 'r1'"):
        Predictions(["r0", "r1"], SINGLE.targets, np.array([[0.5, 0.5], [np.nan, 0.5]]), SINGLE.labels)


def test_targets_of_the_other_kind_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"targets are \(2,\), probs \(2, 2\), multi is True"):
        Predictions(MULTI.ids, SINGLE.targets, MULTI.probs, MULTI.labels)
