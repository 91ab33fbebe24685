"""Folds of a cross-validation: every row judged once, groups whole, no label judged that was not learnt."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lasttoken.config.parse import parse
from lasttoken.config.settings import Data
from lasttoken.data.dataset import Rows, Splits
from lasttoken.data.folds import make_folds
from lasttoken.data.load import load_data
from lasttoken.data.splits_file import data_digest, write_splits
from lasttoken.data.subset import with_fewer
from lasttoken.errors import ConfigError, DataError
from lasttoken.journal import Journal


def rows(labels: str | list, *, groups: str | None = None, splits: list[str] | None = None) -> Rows:
    """Rows of one-letter labels 'AAB', or of label sets ['AB', '']."""
    ids = [str(i) for i in range(len(labels))]
    multi = isinstance(labels, list)
    return Rows(
        ids,
        [f"text {i}" for i in ids],
        [tuple(n) for n in labels],
        multi,
        None if groups is None else [*groups],
        splits,
    )


def check(made: Splits, whole: Rows) -> None:
    """What holds of all folds: rows judged once, and apart from what they are judged by; groups whole; labels learnt."""
    assert Counter(row for fold in made.folds for row in fold.test.ids) == dict.fromkeys(made.test.ids, 1)
    group = dict(zip(whole.ids, whole.groups or whole.ids, strict=True))
    for fold in (*made.folds, made):
        parts = [set(part.ids) for part in (fold.train, fold.valid)]
        parts += [set(fold.test.ids)] if fold is not made else []
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(whole)
        homes = [{group[row] for row in part} for part in parts]
        assert sum(map(len, homes)) == len(set.union(*homes))
        learnt = (
            fold.train.targets.sum(axis=0)
            if whole.multi
            else np.bincount(fold.train.targets, minlength=len(made.labels))
        )
        assert (learnt > 0).all()
        assert fold.labels == made.labels


def test_every_row_is_judged_once_and_classes_are_shared_out() -> None:
    whole = rows("A" * 20 + "B" * 10 + "C" * 2)
    made = make_folds(whole, 5, seed=0)
    check(made, whole)
    assert list(made.test.ids) == whole.ids
    assert [Counter(fold.test.targets.tolist())[0] for fold in made.folds] == [4] * 5
    assert [Counter(fold.test.targets.tolist())[1] for fold in made.folds] == [2] * 5
    assert sorted(Counter(fold.test.targets.tolist())[2] for fold in made.folds) == [0, 0, 0, 1, 1]
    assert made.origin == "5-fold cross-validation, stratified by label, seed 0"
    assert made.summary == "32 rows, each judged once; 5-fold cross-validation, stratified by label, seed 0"
    assert made.fold_of is not None
    assert [int(made.fold_of[int(row)]) for row in made.folds[3].test.ids] == [3] * len(made.folds[3].test)
    assert make_folds(whole, 5, seed=0).fold_of.tolist() == made.fold_of.tolist()  # type: ignore[union-attr]
    assert make_folds(whole, 5, seed=1).fold_of.tolist() != made.fold_of.tolist()  # type: ignore[union-attr]


def test_validation_rows_are_a_share_of_all_rows() -> None:
    made = make_folds(rows("AB" * 50), 5, seed=0, valid=0.2)
    assert [(len(fold.train), len(fold.valid), len(fold.test)) for fold in made.folds] == [(60, 20, 20)] * 5
    assert (len(made.train), len(made.valid), len(made.test)) == (80, 20, 100)


def test_groups_stay_whole_and_a_group_with_a_label_of_its_own_is_never_judged() -> None:
    whole = rows("AAB" * 10 + "CCC", groups="".join(letter * 3 for letter in "abcdefghijk"))
    made = make_folds(whole, 3, seed=0)
    check(made, whole)
    assert list(made.test.ids) == [str(i) for i in range(30)]
    assert made.origin == (
        "3-fold cross-validation, by group, balanced by label, seed 0; 3 rows are trained on and never judged, since no "
        "other group has a label of theirs"
    )


def test_several_labels_a_row() -> None:
    whole = rows(["A", "AB", "B", ""] * 10 + ["AC"])
    made = make_folds(whole, 4, seed=0)
    check(made, whole)
    assert len(made.test) == 40
    assert made.origin.endswith("1 row is trained on and never judged, since no other row has a label of theirs")
    held = [fold.test.targets.sum(axis=0).tolist() for fold in made.folds]
    assert all(4 <= a <= 6 and 4 <= b <= 6 for a, b, _ in held)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, int]:
    count, multi = draw(st.integers(12, 60)), draw(st.booleans())
    one = st.sampled_from("ABCD")
    several = st.sets(one).map(lambda names: "".join(sorted(names)))
    labels = draw(st.lists(several if multi else one, min_size=count, max_size=count))
    groups = draw(st.none() | st.lists(st.sampled_from("abcdefghijklmnop"), min_size=count, max_size=count))
    whole = rows(labels if multi else "".join(labels), groups=None if groups is None else "".join(groups))
    return whole, draw(st.integers(2, 6))


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 3))
def test_what_holds_of_all_folds(problem: tuple[Rows, int], seed: int) -> None:
    whole, folds = problem
    try:
        made = make_folds(whole, folds, seed=seed)
    except DataError as error:
        told = ("cannot be divided", "one row only", "two labels or more")
        assert any(words in str(error) for words in told)  # noqa: PT017
        assume(False)
        raise
    check(made, whole)


def refusal(given: Rows, folds: int, **options: float) -> str:
    with pytest.raises(DataError) as caught:
        make_folds(given, folds, seed=0, **options)
    return str(caught.value)


def test_what_cannot_be_divided() -> None:
    assert refusal(rows("AABB", splits=["train", "train", "test", "test"]), 2) == (
        "the source says which rows are train, valid or test, and cross-validation judges every row; leave folds out, or "
        "the split column"
    )
    assert refusal(rows("AB" * 3), 7) == "6 rows cannot be divided into 7 folds; ask for fewer folds"
    two = rows("AB" * 6, groups="aaaaaabbbbbb")
    assert refusal(two, 3) == "12 rows in 2 groups cannot be divided into 3 folds; ask for fewer folds"
    assert "1 label has one row only: 'C'" in refusal(rows("AB" * 10 + "C"), 5)
    assert refusal(rows("AB" * 10), 5, valid=0.8).startswith("5 folds and valid 0.8: two folds or more, and a share")
    assert "valid would be empty" in refusal(rows("ABAB"), 2)
    with pytest.raises(DataError, match="a cross-validation trains on all rows"):
        with_fewer(make_folds(rows("AB" * 10), 5, seed=0), 5, seed=0)


def test_settings_that_folds_leave_nothing_to_say() -> None:
    for name, value in (
        ("test", "t.csv"),
        ("valid", "v.csv"),
        ("split", "part"),
        ("train_rows", 20),
        ("test_share", 0.3),
    ):
        with pytest.raises(ConfigError, match=rf"folds = 5 judges every row .* leave out {name}, or folds"):
            parse(Data, {"source": "a.csv", "folds": 5, name: value})
    with pytest.raises(ConfigError, match="folds: input should be greater than or equal to 2, got 1"):
        parse(Data, {"folds": 1})


def test_folds_of_a_file_with_a_hierarchy(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    lines = [f"text {i},{('x/a;y', 'x/b')[i % 2]}" for i in range(40)]
    table.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    data = Data(source=str(table), separator=";", hierarchy="/", folds=4)
    made = load_data(data, seed=0, journal=Journal())
    assert made.labels.names == ("x", "x/a", "x/b", "y")
    assert all(fold.above == made.above for fold in made.folds)
    assert made.above
    assert made.doubts == ()  # train and test of the whole are the same rows, which is no leak


def test_texts_in_several_folds_are_told(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    lines = [f"{'the same' if i < 4 else f'text {i}'},{'ab'[i % 2]}" for i in range(40)]
    table.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    made = load_data(Data(source=str(table), folds=4), seed=0, journal=Journal())
    assert made.doubts == (
        "4 of 40 texts are in another fold too, word for word; scores on them show memory: remove them "
        "(`lasttoken check --fix` does where labels agree), or keep equal texts in one fold: --group with the text column",
    )


def test_the_file_of_splits_and_the_digest(tmp_path: Path) -> None:
    made, other = (make_folds(rows("AB" * 10), 5, seed=seed) for seed in (0, 1))
    assert data_digest(made) != data_digest(other)
    assert data_digest(made) == data_digest(make_folds(rows("AB" * 10), 5, seed=0))
    write_splits(made, tmp_path / "splits.parquet")
    found = pq.read_table(tmp_path / "splits.parquet").to_pydict()
    assert len(found["id"]) == 20
    assert Counter(found["split"]) == {"train": 18, "valid": 2}
    fold = dict(zip(found["id"], found["fold"], strict=True))
    assert {fold[row] for row in made.folds[2].test.ids} == {3}
