"""Splits given and made: which row goes where, what is said of it, and what is refused."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lasttoken.data.dataset import Rows
from lasttoken.data.folds import make_folds
from lasttoken.data.split import check_known, check_singles, divided, make_splits, splits_from
from lasttoken.data.splits_file import data_digest, write_splits
from lasttoken.data.stratify import iterative, stratified
from lasttoken.errors import DataError


def rows(labels: str | list, *, groups: str | None = None, splits: list[str] | None = None, prefix: str = "") -> Rows:
    """Rows of one-letter labels 'AAB', or of label sets ['AB', '']."""
    ids = [f"{prefix}{i}" for i in range(len(labels))]
    multi = isinstance(labels, list)
    truth = [tuple(names) for names in labels]
    return Rows(ids, [f"text {i}" for i in ids], truth, multi, None if groups is None else list(groups), splits)


def refusal(given: Rows, **options) -> str:
    with pytest.raises(DataError) as caught:
        make_splits(given, seed=0, **options)
    return str(caught.value)


# Made by label


def test_every_class_is_shared_out_by_itself() -> None:
    parts, _ = divided(rows("A" * 100 + "B" * 50 + "C" * 10), seed=0)
    assert Counter(parts) == {"train": 112, "valid": 16, "test": 32}
    assert Counter(parts[:100]) == {"train": 70, "valid": 10, "test": 20}
    assert Counter(parts[100:150]) == {"train": 35, "valid": 5, "test": 10}
    assert Counter(parts[150:]) == {"train": 7, "valid": 1, "test": 2}


def test_sizes_come_out_where_every_class_is_small() -> None:
    columns = np.repeat(np.arange(100), 3)  # shares of 3 rows are 2.1, .3 and .6: all are rounded
    parts = stratified(columns, (0.7, 0.1, 0.2), np.random.default_rng(0))
    assert np.abs(np.bincount(parts) - [210, 30, 60]).max() <= 1  # what is owed is carried from class to class
    assert np.bincount(columns[parts == 0]).min() >= 2


def test_a_class_of_two_rows_is_in_train() -> None:
    for seed in range(20):
        parts, _ = divided(rows("A" * 20 + "BB"), seed=seed, valid=0.3, test=0.6)
        assert "train" in parts[20:]


def test_one_group_for_all_rows_is_refused_by_its_name() -> None:
    told = "all 20 rows are of one group, 'g', and a group stays together; name another column with --group"
    given = rows("AB" * 10, groups="g" * 20)
    assert refusal(given).startswith(told)
    with pytest.raises(DataError, match=told):
        make_folds(given, 5, seed=0)


def test_seed_decides_and_repeats() -> None:
    given = rows("AB" * 50)
    assert divided(given, seed=3)[0].tolist() == divided(given, seed=3)[0].tolist()
    assert divided(given, seed=3)[0].tolist() != divided(given, seed=4)[0].tolist()


def test_the_split_of_a_seed_stays_what_it_is() -> None:
    # made by this function: a change means that runs of earlier versions can no longer be repeated
    parts, _ = divided(rows("AB" * 10), seed=0)
    assert np.flatnonzero(parts == "valid").tolist() == [0, 1]
    assert np.flatnonzero(parts == "test").tolist() == [9, 12, 18, 19]


def test_made_splits_hold_the_rows_in_their_order() -> None:
    made = make_splits(rows("AB" * 10), seed=0)
    assert made.origin == "made here: 70/10/20 stratified by label, seed 0"
    assert made.labels.names == ("A", "B")
    assert [len(part) for part in (made.train, made.valid, made.test)] == [14, 2, 4]
    for part in (made.train, made.valid, made.test):
        numbers = [int(row) for row in part.ids]
        assert numbers == sorted(numbers)
        assert part.targets.tolist() == [i % 2 for i in numbers]
        assert list(part.texts) == [f"text {i}" for i in numbers]


def test_a_class_of_one_row_is_refused() -> None:
    assert refusal(rows("AAAAAAAAAABBBBBBBBBBC")) == (
        "1 label has one row only: 'C'; add rows, merge it into another label, or remove it"
    )
    assert refusal(rows("AAAABBBBCDEFGH")).startswith("6 labels have one row only: 'C', 'D', 'E', 'F', 'G', ...;")


def test_too_few_rows_are_refused() -> None:
    assert refusal(rows("AABB")) == (
        "4 rows cannot be divided so that train has every label: valid would be empty; "
        "give more rows, or a file for valid"
    )


def test_a_single_class_is_refused() -> None:
    assert refusal(rows("A" * 20)) == "the 14 rows of train hold only label 'A'; two labels or more are needed"
    assert refusal(rows([""] * 20)) == "the 14 rows of train hold no label at all; two labels or more are needed"


def test_rows_without_labels_are_refused() -> None:
    with pytest.raises(DataError, match=r"the rows have no labels to train on or evaluate with; name the label column"):
        divided(Rows(["0"], ["a"], None, False), seed=0)


@pytest.mark.parametrize(("valid", "test"), [(0.0, 0.2), (0.1, -0.2), (0.5, 0.5), (float("nan"), 0.2)])
def test_shares_that_leave_nothing_are_refused(valid: float, test: float) -> None:
    with pytest.raises(DataError, match="each share must be above 0, and their sum below 1"):
        divided(rows("AB" * 10), seed=0, valid=valid, test=test)


# Made by label sets


def test_label_sets_are_stratified_label_by_label() -> None:
    rng = np.random.default_rng(1)
    held = rng.random((400, 6)) < [0.5, 0.3, 0.1, 0.05, 0.05, 0.02]
    labels = ["".join(name for name, has in zip("ABCDEF", row, strict=True) if has) for row in held]
    parts, _ = divided(rows(labels), seed=0)
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        # a label is off its share by its own last row and by those that rarer labels of the same rows brought along
        assert np.abs(held[parts == name].sum(axis=0) - share * held.sum(axis=0)).max() <= 3
        assert abs((parts == name).sum() - share * 400) <= 12  # labels are balanced before sizes
    made = make_splits(rows(labels), seed=0)
    assert made.origin == "made here: 70/10/20 by iterative stratification over labels, seed 0"
    assert made.train.targets.shape == (len(made.train), 6)
    assert made.train.targets.dtype == bool


def test_the_one_row_of_a_rare_label_stays_in_train() -> None:
    for seed in range(20):
        parts, _ = divided(rows(["A"] * 20 + ["B"] * 20 + ["ABC"]), seed=seed, valid=0.4, test=0.4)
        assert parts[40] == "train"


def test_rarest_label_is_placed_first() -> None:
    # 'rare' (column 1) is in 2 of 10 rows: with halves each part must get one of them, whatever the draws
    memberships = [[0, 1], [0, 1], *[[0]] * 8]
    for seed in range(20):
        parts = iterative(memberships, (0.5, 0.5), np.random.default_rng(seed))
        assert parts[0] != parts[1]
        assert np.bincount(parts).tolist() == [5, 5]


# Made by group


def test_groups_stay_whole_and_labels_balanced() -> None:
    rng = np.random.default_rng(2)
    groups = np.sort(rng.integers(0, 60, size=600))
    kind = rng.random(60) < 0.3  # each group is mostly of one label
    labels = np.where(rng.random(600) < 0.9, kind[groups], ~kind[groups])
    given = Rows(
        [str(i) for i in range(600)], ["t"] * 600, [("AB"[j],) for j in labels * 1], False, groups.astype(str).tolist()
    )
    parts, _ = divided(given, seed=0)
    for group in range(60):
        assert len(set(parts[groups == group])) == 1
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert abs((parts == name).mean() - share) < 0.01  # groups of ten rows are small change in 600
        assert abs(labels[parts == name].mean() - labels.mean()) < 0.05
    assert make_splits(given, seed=0).origin == "made here: 70/10/20 by group, balanced by label, seed 0"


def test_groups_of_label_sets_stay_whole() -> None:
    given = rows(["A", "AB", "B", "", "A", "B"] * 10, groups="".join(c * 6 for c in "abcdefghij"))
    parts, _ = divided(given, seed=0)
    assert Counter(parts) == {"train": 42, "valid": 6, "test": 12}
    assert all(len(set(parts[i : i + 6])) == 1 for i in range(0, 60, 6))


def test_large_groups_are_placed_first() -> None:
    given = rows("AB" * 50, groups="a" * 10 + "b" * 40 + "c" * 6 + "d" * 30 + "e" * 4 + "f" * 10)
    for seed in range(10):  # placed in any other order, some group of 30 or 40 finds no room
        assert Counter(divided(given, seed=seed)[0]) == {"train": 70, "valid": 10, "test": 20}


def test_three_groups_fill_three_parts() -> None:
    assert set(divided(rows("AB" * 15, groups="a" * 10 + "b" * 10 + "c" * 10), seed=0)[0]) == {"train", "valid", "test"}


def test_too_few_groups_are_refused() -> None:
    assert refusal(rows("AB" * 15, groups="a" * 20 + "b" * 10)).startswith(
        "30 rows in 2 groups cannot be divided so that train has every label: "
    )
    assert "valid would be empty" in refusal(rows("AABBCC", groups="aabbcc"))  # each label needs its group in train


# Given


def test_given_splits_are_used() -> None:
    made = make_splits(rows("ABABAB", splits=["train", "train", "dev", "validation", "test", "test"]), seed=0)
    assert (made.train.ids, made.valid.ids, made.test.ids) == (["0", "1"], ["2", "3"], ["4", "5"])
    assert made.origin == "given: train, valid and test"


@pytest.mark.parametrize("missing", ["valid", "test"])
def test_a_missing_part_is_made_out_of_train(missing: str) -> None:
    other = "test" if missing == "valid" else "valid"
    made = make_splits(rows("AB" * 30, splits=["train"] * 40 + [other] * 20), seed=0)
    assert getattr(made, other).ids == [str(i) for i in range(40, 60)]
    assert len(getattr(made, missing)) == (4 if missing == "valid" else 8)
    share = "10" if missing == "valid" else "20"
    assert (
        made.origin == f"given: train and {other}; {missing} made here: {share}% of train stratified by label, seed 0"
    )


def test_a_split_column_of_train_alone_is_divided() -> None:
    made = make_splits(rows("AB" * 10, splits=["train"] * 20), seed=0)
    assert made.origin == (
        "given: train; valid made here: 10% of train and test made here: 20% of train stratified by label, seed 0"
    )
    assert len(made.test) == 4


def test_unknown_split_names_are_refused() -> None:
    assert refusal(rows("ABAB", splits=["a", "b", "a", "test"])) == (
        "split 'a' (2 rows), 'b' (1 row) is none of train, validation, valid, dev, val, test; "
        "rename it or remove the rows"
    )


def test_splits_without_train_are_refused() -> None:
    said = "the split has valid and test rows but no train rows; mark the rows to train on as 'train'"
    assert refusal(rows("AB", splits=["valid", "test"])) == said


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_label_that_train_lacks_is_named(part: str) -> None:
    other = "test" if part == "valid" else "valid"
    given = rows("ABABCCD", splits=["train", "train", other, other, part, part, part])
    assert refusal(given) == (
        f"2 labels are in {part} but not in train: 'C' (2 rows), 'D' (1 row); "
        f"add such rows to train or remove them from {part}"
    )


def test_a_given_split_that_cuts_a_group_is_refused() -> None:
    given = rows("ABABAB", groups="aabbcb", splits=["train", "train", "train", "valid", "test", "test"])
    assert refusal(given) == (
        "group 'b' is in train and in valid and in test (1 group is split like this); "
        "keep each group in one part, or name no group column"
    )


# Files


def test_files_are_the_parts() -> None:
    made = splits_from(rows("AB" * 3), rows("BA", prefix="v"), rows("AAB", prefix="t"), seed=0)
    assert (len(made.train), made.valid.ids, made.test.ids) == (6, ["v0", "v1"], ["t0", "t1", "t2"])
    assert made.test.targets.tolist() == [0, 0, 1]
    assert made.origin == "given: train, valid and test"


def test_files_that_are_missing_are_made_out_of_train() -> None:
    made = splits_from(rows("AB" * 20), None, rows("AB", prefix="t"), seed=5, valid_fraction=0.25)
    assert (len(made.train), len(made.valid), made.test.ids) == (30, 10, ["t0", "t1"])
    assert made.origin == "given: train and test; valid made here: 25% of train stratified by label, seed 5"
    alone = splits_from(rows("AB" * 10), None, None, seed=0)
    assert alone.origin == "made here: 70/10/20 stratified by label, seed 0"


def test_a_label_of_one_row_in_the_test_file_alone_is_named_as_that() -> None:
    train, test = rows("AB" * 10), rows("ABC", prefix="t")
    with pytest.raises(DataError) as caught:
        splits_from(train, None, test, seed=0)
    assert str(caught.value) == (
        "1 label is in test but not in train: 'C' (1 row); add such rows to train or remove them from test"
    )
    with pytest.raises(DataError, match="1 label has one row only: 'C'"):
        splits_from(rows("AB" * 10 + "C"), None, rows("AB", prefix="t"), seed=0)


def test_a_number_that_is_written_otherwise_is_told() -> None:
    with pytest.raises(DataError, match=r"'1\.0' \(2 rows\) \('1\.0' may be '1' written differently\); add such rows"):
        check_known(["0", "1"], [("1.0",), ("1.0",)], "test")


def test_a_misspelt_label_is_told() -> None:
    with pytest.raises(DataError, match=r"'biling' \(1 row\) \('biling' may be 'billing' misspelt\); add such rows to"):
        check_known(["refund", "billing"], [("billing",), ("biling",)], "test")
    single = Rows(list("abc"), list("def"), [("billing",), ("billing",), ("biling",)], False, None, None)
    with pytest.raises(DataError, match=r"^1 label has one row only: 'biling' \('biling' may be 'billing' misspelt\);"):
        check_singles(single, single.labels or [], np.array(["train"] * 3))


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (rows("AB" * 5), rows("AB"), "id '0' is in train and in test; ids must differ across the parts"),
        (rows("AB" * 5), rows(["AB"], prefix="t"), "train has one label per row but test has several"),
        (rows(["A", "B"] * 5), rows("A", prefix="t"), "test has one label per row but train has several"),
        (rows("AB" * 5, groups="a" * 10), rows("A", prefix="t"), "only one of train and test has groups"),
        (rows("AB" * 5), rows("A", prefix="t", splits=["test"]), "the test file has a split column"),
        (rows("AB", groups="ab"), rows("A", groups="a", prefix="t"), "group 'a' is in train and in test"),
        (rows("AB"), rows("AC", prefix="t"), "1 label is in test but not in train: 'C' (1 row)"),
        (rows("AA"), rows("A", prefix="t"), "the 2 rows of train hold only label 'A'"),
    ],
)
def test_files_that_disagree_are_refused(train: Rows, test: Rows, said: str) -> None:
    with pytest.raises(DataError) as caught:
        splits_from(
            train, rows(["A"] if train.multi else "A", prefix="v", groups="v" if train.groups else None), test, seed=0
        )
    assert str(caught.value).startswith(said)


# The record


def test_written_splits_name_the_part_of_every_row(tmp_path: Path) -> None:
    made = splits_from(rows("AB"), rows("A", prefix="v"), rows("B", prefix="t"), seed=0)
    write_splits(made, tmp_path / "splits.parquet")
    assert pq.read_table(tmp_path / "splits.parquet").to_pydict() == {
        "id": ["0", "1", "v0", "t0"],
        "split": ["train", "train", "valid", "test"],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["splits.parquet"]


def test_digest_changes_with_every_id_text_target_and_part() -> None:
    def digest(train: Rows, valid: str = "A", test: str = "B") -> str:
        return data_digest(splits_from(train, rows(valid, prefix="v"), rows(test, prefix="t"), seed=0))

    same = rows("ABA")
    assert digest(same) == digest(rows("ABA"))
    others = [
        digest(Rows(["0", "1", "x"], same.texts, same.labels, False)),
        digest(Rows(same.ids, ["text 0", "text 1", "text 2 "], same.labels, False)),
        digest(rows("ABB")),
        digest(rows("ACA"), test="C"),
        digest(same, valid="B"),
        digest(same, test="A"),
        digest(same, valid="AA", test="B"),
        digest(Rows(["01", "1", "2"], ["text 0", *same.texts[1:]], same.labels, False)),
    ]
    assert len({digest(same), *others}) == 9


def test_digest_is_of_these_bytes() -> None:
    def text(word: str) -> bytes:
        return len(word).to_bytes(8, "little") + word.encode()

    def number(value: int) -> bytes:
        return value.to_bytes(8, "little")

    made = splits_from(rows("AB"), rows("A", prefix="v"), rows("B", prefix="t"), seed=0)
    content = bytes([False]) + number(2) + text("A") + text("B")
    content += (
        text("train") + number(2) + text("0") + text("text 0") + text("1") + text("text 1") + number(0) + number(1)
    )
    content += text("valid") + number(1) + text("v0") + text("text v0") + number(0)
    content += text("test") + number(1) + text("t0") + text("text t0") + number(1)
    assert data_digest(made) == hashlib.sha256(content).hexdigest()


def test_a_column_of_numbers_or_ids_is_told_from_classes() -> None:
    given = Rows([str(i) for i in range(40)], ["x"] * 40, [(f"0.{i}",) for i in range(40)], False)
    assert refusal(given) == (
        "40 of 40 labels have one row only, such as '0.0': they look like numbers or ids, not classes; "
        "name another label column, or put numbers into bins first"
    )


def test_test_rows_that_are_validation_rows_are_refused() -> None:
    rows = Rows(list("abcdefg"), list("uvwxyyx"), [("p",), ("q",)] * 3 + [("p",)], False)
    parts = ["train"] * 3 + ["valid"] * 2 + ["test"] * 2  # test holds the texts y and x, both of valid
    with pytest.raises(
        DataError, match="the texts of all 2 test rows are in valid too, which the model is selected on"
    ):
        make_splits(replace(rows, splits=parts), seed=0)
    assert len(make_splits(replace(rows, splits=[*parts[:3], "valid", "train", "test", "test"]), seed=0).test) == 2
