"""Rows from every kind of source, and one clear sentence for every kind of bad input."""

import io
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.data.dataset import Rows
from lasttoken.data.read import Columns, check_texts, read_rows, without_empty
from lasttoken.errors import DataError

REVIEW = Columns(text=("text",), label=("label",))
TEXT = Columns(text=("text",))


def refusal(source, columns: Columns = REVIEW, **options) -> str:
    """The sentence with which `source` is refused."""
    with pytest.raises(DataError) as caught:
        read_rows(source, columns=columns, **options)
    return str(caught.value)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Sources


def test_csv_gives_rows_in_file_order(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", 'label,text,extra\npos,"good, very\ngood",1\n\nneg,bad,2\n')
    rows = read_rows(path, columns=REVIEW)
    assert rows.ids == ["0", "1"]
    assert rows.texts == ["good, very\ngood", "bad"]
    assert rows.labels == [("pos",), ("neg",)]
    assert (rows.multi, rows.groups, rows.splits) == (False, None, None)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["grün", "b\u2028b", 'c "c"'], "label": ["x", "y", "x"]})
    written(tmp_path / "r.csv", frame.to_csv(index=False))
    written(tmp_path / "r.tsv", frame.to_csv(index=False, sep="\t"))
    lines = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records"))
    written(tmp_path / "r.jsonl", lines)
    written(tmp_path / "r.ndjson", lines.replace("\n", "\r\n\n"))
    frame.to_parquet(tmp_path / "r.parquet")
    sources = [tmp_path / f"r.{ending}" for ending in ("csv", "tsv", "jsonl", "ndjson", "parquet")]
    for source in [*sources, str(sources[0]), frame, datasets.Dataset.from_pandas(frame)]:
        rows = read_rows(source, columns=REVIEW)
        assert rows.texts == ["grün", "b\u2028b", 'c "c"']
        assert rows.labels == [("x",), ("y",), ("x",)]
        assert rows.ids == ["0", "1", "2"]


def test_named_format_overrides_the_ending(tmp_path: Path) -> None:
    path = written(tmp_path / "r.txt", "text\tlabel\na\tx\n")
    assert read_rows(path, columns=REVIEW, format="tsv").labels == [("x",)]


def test_streams_are_read_in_the_named_format(tmp_path: Path) -> None:
    assert read_rows(io.StringIO("text,label\na,x\n"), columns=REVIEW, format="csv").texts == ["a"]
    assert read_rows(io.BytesIO(b'{"text": "a"}\n'), columns=TEXT, format="jsonl").texts == ["a"]
    wrapped = io.TextIOWrapper(io.BytesIO("text\ngrün\n".encode("latin-1")))  # what sys.stdin is
    assert read_rows(wrapped, columns=TEXT, format="csv", encoding="latin-1").texts == ["grün"]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "r.parquet")
    stream = io.BytesIO((tmp_path / "r.parquet").read_bytes())
    assert read_rows(stream, columns=TEXT, format="parquet").texts == ["a"]


def test_stream_without_format_is_refused() -> None:
    expected = "<stream>: a stream has no file ending; name its format with --format: csv, tsv, jsonl, parquet"
    assert refusal(io.StringIO("text\n")) == expected
    assert "format 'xml' cannot be read as text" in refusal(io.StringIO("text\n"), format="xml")


def test_source_of_another_type_is_refused() -> None:
    assert (
        refusal(7) == "rows cannot be read from an object of type int; give a path, a stream, a DataFrame or a Dataset"
    )


def test_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", b"\xef\xbb\xbftext,label\na,x\n")
    assert read_rows(path, columns=REVIEW).texts == ["a"]


def test_long_documents_pass(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", f"text,label\n{'word ' * 600_000},x\n")  # 3 MB: over csv's limit and one block
    assert len(read_rows(path, columns=REVIEW).texts[0]) == 3_000_000


def test_characters_and_line_ends_may_lie_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lasttoken.data.lines.BLOCK", 1)
    path = written(tmp_path / "r.csv", "text,label\r\ngrün €,x\r\nb,y")
    assert read_rows(path, columns=REVIEW).texts == ["grün €", "b"]
    assert "r.csv:3: 1 fields, expected 2" in refusal(written(path, "text,label\r\na,x\r\nb\r\n"))
    assert "byte 0xe9 at offset 12 is not UTF-8" in refusal(written(path, b"text,label\na\xe9\xe9b,x\n"))


# Texts


def test_several_text_columns_are_joined_by_a_blank_line() -> None:
    frame = pd.DataFrame({"title": ["T", None], "body": ["B", "only body"]})
    assert read_rows(frame, columns=Columns(text=("title", "body"))).texts == ["T\n\nB", "only body"]


def test_template_fills_in_columns_and_nothing_else() -> None:
    frame = pd.DataFrame({"ti.tle": ["{body}", None, None], "body": ["B", "b", np.nan]})
    columns = Columns(text=("ti.tle", "body"), template="{{{ti.tle}}}. {body}!")
    assert read_rows(frame, columns=columns, keep_empty=True).texts == ["{{body}}. B!", "{}. b!", ""]


def test_numbers_are_texts_but_lists_are_not() -> None:
    assert read_rows(pd.DataFrame({"text": [5, 6]}), columns=TEXT).texts == ["5", "6"]
    assert refusal(pd.DataFrame({"text": ["a", ["b"]]}), TEXT) == (
        "the data frame: row 1: the text column holds ['b'], a list; give text or a number"
    )


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"text": ()}, "no text column is named"),
        ({"text": ("a",), "label": "b"}, "label takes a tuple of column names, got 'b'; write ('b',)"),
        ({"text": "body"}, "text takes a tuple of column names, got 'body'; write ('body',)"),
        ({"text": ("a",), "label": ()}, "no label column is named"),
        ({"text": ("a", "a")}, "a column is named twice among text"),
        ({"text": ("a",), "label": ("a",)}, "column 'a' is both text and label"),
        ({"text": ("a",), "label": ("b", "c"), "separator": ";"}, "it splits the cells of one label column"),
        ({"text": ("a",), "label": ("b",), "separator": ""}, "separator ''"),
        ({"text": ("a", "b"), "template": "{a}"}, "fills in ['a'], text names ['a', 'b']; make them the same"),
        ({"text": ("a",), "template": "{a:>9}"}, "only plain {column} fields are filled in"),
        ({"text": ("a",), "template": "{a"}, "write a literal brace twice"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(told: dict, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        Columns(**told)
    assert sentence in str(caught.value)


def test_empty_texts_are_counted_and_named_or_dropped(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", 'text,label,id\na,x,p\n"  ",y,q\n,x,r\nb,y,s\n')
    columns = Columns(text=("text",), label=("label",), id="id", group="id")
    expected = f"{path}: 2 rows have an empty text, id 'q', 'r'; fill them in, or drop them with --drop-empty"
    assert refusal(path, columns) == expected
    rows, dropped = without_empty(read_rows(path, columns=columns, keep_empty=True), "a.csv")
    assert dropped == "2 rows without text"
    assert (rows.ids, rows.texts, rows.labels, rows.groups) == (["p", "s"], ["a", "b"], [("x",), ("y",)], ["p", "s"])


def test_rows_of_no_text_at_all_are_refused() -> None:
    rows = Rows(["0", "1"], ["", " "], None, False)
    with pytest.raises(DataError, match="2 rows have an empty text, id '0', '1'"):
        check_texts(rows)
    with pytest.raises(DataError, match=r"a\.csv: none of the 2 rows has any text"):
        without_empty(rows, "a.csv")


def test_rows_without_their_label_are_dropped_like_those_without_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "", "c", "d"], "label": [1.0, 2.0, None, 1.0], "part": list("ttvt")})
    read = read_rows(frame, columns=Columns(text=("text",), label=("label",), group="part"), keep_empty=True)
    assert read.labels == [("1.0",), ("2.0",), (), ("1.0",)]
    rows, dropped = without_empty(read, "a.csv")
    assert dropped == "1 row without text and 1 row without label"
    assert (rows.ids, rows.labels, rows.groups) == (["0", "3"], [("1.0",), ("1.0",)], ["t", "t"])
    path = written(tmp_path / "r.csv", "text,label\na,\nb, \n")
    with pytest.raises(DataError, match=r"a\.csv: none of the 2 rows has any label; check which column holds it"):
        without_empty(read_rows(path, columns=REVIEW, keep_empty=True), "a.csv")
    several = read_rows(path, columns=Columns(text=("text",), label=("label",), separator=";"), keep_empty=True)
    assert without_empty(several, "a.csv") == (several, "")  # of several labels a row may have none


def test_nothing_is_dropped_from_rows_that_all_have_text() -> None:
    rows = Rows(["0"], ["a"], None, False)
    assert without_empty(rows, "a.csv") == (rows, "")


# Labels


def test_labels_that_are_no_strings_become_their_words() -> None:
    def names(values: list) -> list[str]:
        rows = read_rows(pd.DataFrame({"text": ["a", "b"], "label": values}), columns=REVIEW)
        return [name for row in rows.labels or () for name in row]

    assert names([5, 6]) == ["5", "6"]
    assert names([5.0, 6.5]) == ["5.0", "6.5"]
    assert names([True, False]) == ["True", "False"]
    assert names([" x", "X"]) == [" x", "X"]  # neither stripped nor folded


def test_no_label_column_means_no_truth() -> None:
    rows = read_rows(pd.DataFrame({"text": ["a"], "label": ["x"]}), columns=TEXT)
    assert (rows.labels, rows.multi) == (None, False)


def test_lists_are_label_sets(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", '{"text": "a", "label": ["y", "x", "y"]}\n{"text": "b", "label": []}\n')
    rows = read_rows(path, columns=REVIEW)
    assert (rows.labels, rows.multi) == ([("x", "y"), ()], True)
    pq.write_table(pa.table({"text": ["a", "b"], "label": [["y", "x"], []]}), tmp_path / "r.parquet")
    assert read_rows(tmp_path / "r.parquet", columns=REVIEW).labels == [("x", "y"), ()]
    frame = pd.DataFrame({"text": ["a", "b"], "label": [np.array(["y", "x"]), {2}]})
    assert read_rows(frame, columns=REVIEW).labels == [("x", "y"), ("2",)]


def test_lists_among_single_labels_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", '{"text": "a", "label": ["y"]}\n{"text": "b", "label": "x"}\n')
    assert refusal(path) == f"{path}:2: label column 'label' holds 'x' where other rows hold lists; write a list"
    written(path, '{"text": "a", "label": ["y", ""]}\n')
    assert refusal(path) == f"{path}:1: label column 'label' holds an empty name in ['y', '']; remove it"
    written(path, '{"text": "a", "label": {"y": 1}}\n')
    assert refusal(path) == f"{path}:1 holds {{'y': 1}}, a dict; give text or a number"


def test_separator_makes_label_sets(tmp_path: Path) -> None:
    columns = Columns(text=("text",), label=("label",), separator=";")
    path = written(tmp_path / "r.csv", "text,label\na,C;A\nb,\nc,A\n")
    rows = read_rows(path, columns=columns)
    assert (rows.labels, rows.multi) == ([("A", "C"), (), ("A",)], True)
    written(path, "text,label\na,A;\n")
    assert (
        refusal(path, columns)
        == f"{path}:2: label column 'label' holds 'A;'; write names joined by ';', none of them empty"
    )
    assert "row 0: the row has nothing in column 'label'" in refusal(
        pd.DataFrame({"text": ["a"], "label": [None]}), columns
    )


def test_indicator_columns_make_label_sets() -> None:
    columns = Columns(text=("text",), label=("toxic", "rude"))
    frame = pd.DataFrame({"text": ["a", "b", "c"], "toxic": ["1", "0", "true"], "rude": [True, False, True]})
    rows = read_rows(frame, columns=columns)
    assert (rows.labels, rows.multi) == ([("rude", "toxic"), (), ("rude", "toxic")], True)
    frame["rude"] = [1, 0, 0]
    assert read_rows(frame, columns=columns).labels == [("rude", "toxic"), (), ("toxic",)]


def test_indicator_that_is_not_0_or_1_is_named_by_row_and_column(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,toxic,rude\na,0,1\nb,0,yes\n")
    expected = f"{path}:3: label column 'rude' holds 'yes'; write 0 or 1 in each of its cells"
    assert refusal(path, Columns(text=("text",), label=("toxic", "rude"))) == expected


def test_indicators_may_be_numbers_of_any_kind() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "toxic": [1.0, 0.0], "rude": [True, False]})  # floats after a merge
    assert read_rows(frame, columns=Columns(text=("text",), label=("toxic", "rude"))).labels == [("rude", "toxic"), ()]


def test_missing_labels_are_counted_and_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label\n" + "a,x\nb,\n" * 7)
    assert refusal(path) == (
        f"{path}: lines 3, 5, 7, 9, 11, ...: 7 rows have nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    )
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", float("nan"), None]})
    expected = (
        "the data frame: rows 1, 2: 2 rows have nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    )
    assert refusal(frame) == expected
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64")})
    assert "row 1: the row has nothing in column 'label'" in refusal(frame)


def test_a_blank_among_several_labels_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text,label\none,a|b\ntwo,\n", encoding="utf-8")
    assert refusal(path) == (
        f"{path}:3: the row has nothing in column 'label'; fill it in or remove the row (--drop-empty); "
        "if a row may have several labels joined by '|', or none: --separator '|'"
    )


def test_equal_labels_and_groups_are_one_object(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label,group\na,long label,long group\nb,long label,long group\n")
    rows = read_rows(path, columns=Columns(text=("text",), label=("label",), group="group"))
    assert rows.labels is not None
    assert rows.groups is not None
    assert rows.labels[0] is rows.labels[1]
    assert rows.groups[0] is rows.groups[1]


# Ids, groups, splits


def test_ids_groups_and_splits_come_from_their_columns() -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "i": [7, 8, 9], "g": ["u", "u", "v"], "s": ["train", "dev", "test"]})
    rows = read_rows(frame, columns=Columns(text=("text",), id="i", group="g", split="s"))
    assert (rows.ids, rows.groups, rows.splits) == (["7", "8", "9"], ["u", "u", "v"], ["train", "valid", "test"])


def test_prefix_tells_the_rows_of_several_files_apart() -> None:
    assert read_rows(pd.DataFrame({"text": ["a", "b"]}), columns=TEXT, prefix="test:").ids == ["test:0", "test:1"]


def test_unknown_split_is_refused() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "s": ["train", "holdout"]})
    assert refusal(frame, Columns(text=("text",), split="s")) == (
        "the data frame: split 'holdout' (1 row) is none of train, validation, valid, dev, val, test; "
        "rename it or remove the rows"
    )


def test_duplicate_ids_are_counted_and_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,id\na,p\nb,q\nc,q\nd,q\ne,p\n")
    assert refusal(path, Columns(text=("text",), id="id")) == (
        f"{path}: id 'p' occurs 2 times, and 1 other id too; make ids unique, or name no id column"
    )


def test_missing_id_or_group_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,id,g\na,p,1\nb,,\n")
    assert "r.csv:3: the row has nothing in column 'id'" in refusal(path, Columns(text=("text",), id="id"))
    assert "r.csv:3: the row has nothing in column 'g'" in refusal(path, Columns(text=("text",), group="g"))


# The Hugging Face Hub and datasets


def parts(**sizes: int) -> datasets.DatasetDict:
    """A data set with class labels 'neg' and 'pos' and parts of these sizes."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {
        name: {"text": [f"{name} {i}" for i in range(n)], "label": [i % 2 for i in range(n)]}
        for name, n in sizes.items()
    }
    return datasets.DatasetDict({name: datasets.Dataset.from_dict(row, features) for name, row in rows.items()})


def test_parts_of_a_data_set_become_splits_and_class_labels_names() -> None:
    rows = read_rows(parts(test=1, validation=1, train=2), columns=REVIEW)
    assert rows.ids == ["train:0", "train:1", "valid:0", "test:0"]
    assert rows.texts == ["train 0", "train 1", "validation 0", "test 0"]
    assert rows.labels == [("neg",), ("pos",), ("neg",), ("neg",)]
    assert rows.splits == ["train", "train", "valid", "test"]


def test_parts_of_other_names_are_left_out_aloud() -> None:
    with pytest.warns(UserWarning, match="left out the parts unsupervised, which are none of train, validation"):
        rows = read_rows(parts(train=2, unsupervised=3), columns=REVIEW)
    assert rows.splits == ["train", "train"]


def test_parts_that_cannot_be_told_are_refused() -> None:
    assert "none of its parts (a, b) is train" in refusal(parts(a=1, b=1))
    assert "two parts (valid, dev) have the same use" in refusal(parts(dev=1, valid=1))
    assert refusal(parts(train=1), Columns(text=("txt",))) == (
        "the data set, train: no column 'txt'; did you mean 'text'? there are: text, label"
    )


def test_unlabelled_rows_of_a_data_set_are_missing_labels() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features)
    expected = (
        "the data set: test row 1: the row has nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    )
    assert refusal(datasets.DatasetDict(test=data)) == expected


def test_lists_of_class_labels_become_sets_of_names() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["a", "b"]))}
    )
    data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [[1, 0], []]}, features)
    rows = read_rows(data, columns=REVIEW)
    assert (rows.labels, rows.multi, rows.splits) == ([("a", "b"), ()], True, None)


def test_hub_data_set_comes_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: asked.append(args) or parts(train=1, test=1))
    assert read_rows("hub:owner/name:config", columns=REVIEW).ids == ["train:0", "test:0"]
    assert asked == [("owner/name", "config")]


def test_hub_data_set_that_cannot_be_had_says_how_to_work_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    said = refusal("hub:nobody/no-such-data:en")
    assert said.startswith("hub:nobody/no-such-data:en: data set 'nobody/no-such-data', config 'en', is not in the ")
    assert said.endswith("check the name, or work offline with a .csv, .jsonl or .parquet file")
    assert refusal("hub:") == "hub:: names no data set; write hub:owner/name or hub:owner/name:config"


# Bad files


def test_missing_file_offers_near_names(tmp_path: Path) -> None:
    written(tmp_path / "reviews.csv", "text\n")
    expected = f"{tmp_path / 'review.csv'}: no such file; did you mean reviews.csv?"
    assert refusal(tmp_path / "review.csv") == expected
    assert refusal(tmp_path / "zzz") == f"{tmp_path / 'zzz'}: no such file; check the path"
    nowhere = tmp_path / "no" / "r.csv"
    assert refusal(nowhere) == f"{nowhere}: no such file, and no folder {tmp_path / 'no'}; check the path"


def test_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: is a folder; name a file inside it of the kind .csv, ")
    written(tmp_path / "r.csv", "text\n")
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; name a file inside it, such as r.csv"


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_empty_file_is_refused(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"r.{ending}", b"")
    assert refusal(path) == f"{path}: the file is empty; it needs a header and rows"


def test_file_of_empty_lines_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "\n\n")
    assert refusal(path) == f"{path}: the file is empty; it needs a header and rows"
    assert "r.jsonl: there are no rows" in refusal(written(tmp_path / "r.jsonl", "\n\n"))


def test_header_without_rows_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label\n")
    expected = f"{path}: there are no rows, only column names; check that the file is complete"
    assert refusal(path) == expected
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / "r.parquet"
    )
    assert "r.parquet: there are no rows" in refusal(tmp_path / "r.parquet")
    assert "the data frame: there are no rows" in refusal(pd.DataFrame({"text": [], "label": []}))


def test_missing_column_offers_near_names_and_lists_all(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "id,text,labels\n1,a,x\n")
    assert refusal(path) == f"{path}: no column 'label'; did you mean 'labels'? there are: id, text, labels"
    assert refusal(path, Columns(text=("body",))) == f"{path}: no column 'body'; there are: id, text, labels"
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "r.parquet")
    assert "r.parquet: no column 'label'; there are: text" in refusal(tmp_path / "r.parquet")
    assert refusal(pd.DataFrame({"text": ["a"], 5: [1]})) == "the data frame: no column 'label'; there are: text, 5"


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label,text\na,x,b\n")
    assert refusal(path) == f"{path}: two columns are named 'text'; give every column its own name"
    frame = pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"])
    assert refusal(frame) == "the data frame: two columns are named 'text'; give every column its own name"


def test_nul_byte_is_named_by_line(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", b"text,label\na,x\nb\0b,y\n")
    assert refusal(path) == (
        f"{path}:3: a NUL byte, so the file is damaged or not text; if it is UTF-16, name it: --encoding utf-16-le"
    )
    assert "<stream>:2: a NUL byte" in refusal(io.StringIO("text,label\na\0,x\n"), format="csv")


@pytest.mark.parametrize(
    ("begins", "said"),
    [
        (b"PAR1", "this is a Parquet file; end its name in .parquet"),
        (b"PK\x03\x04", "this is a zip archive, as Excel workbooks are; save the sheet as CSV (UTF-8)"),
        (b"\x1f\x8b", "this is a gzip file; unpack it first: gunzip"),
    ],
)
def test_a_file_that_is_no_text_is_named_as_what_it_is(tmp_path: Path, begins: bytes, said: str) -> None:
    path = written(tmp_path / "r.csv", begins + b"\xff\0text,label\n")
    assert refusal(path) == f"{path}: {said}"


def test_semicolons_separate_where_the_columns_asked_for_say_so(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", 'text;price;label\n"one; two";1,5;x\nthree;2;y\n')
    rows = read_rows(path, columns=REVIEW)
    assert (rows.texts, rows.labels) == (["one; two", "three"], [("x",), ("y",)])
    assert "put quotes around a field that holds a semicolon" in refusal(written(path, "text;label\na;b;c\n"))
    plain = read_rows(written(path, "label,a;b,text\nx,1;2,c;d\n"), columns=REVIEW)  # commas do, where both would
    assert plain.texts == ["c;d"]
    assert refusal(written(path, "text;lable\na;x\n")).endswith(
        "no column 'label'; did you mean 'lable'? there are: text, lable"
    )


def test_a_label_of_white_space_alone_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label\na,x\nb, \n")
    assert (
        refusal(path) == f"{path}:3: the row has nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    )
    sets = Columns(text=("text",), label=("label",), separator=";")
    assert read_rows(path, columns=sets).labels == [("x",), ()]


def test_ragged_line_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", 'text,label\n"two\nlines",x\n\n"a\nb",x,y\n')
    assert refusal(path) == f"{path}:5: 3 fields, expected 2; put quotes around a field that holds a comma"
    said = "3 fields, expected 2; the line ends in a comma that the header lacks; add it there or remove it here"
    assert refusal(written(path, "text,label\na,x,\n")) == f"{path}:2: {said}"


def test_quote_that_is_never_closed_is_named_by_the_line_it_opens_on(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", 'text,label\na,x\n"b,y\nc,x\n')
    assert refusal(path) == (
        f"{path}:3: unexpected end of data; "
        "a field that begins with a quote ends with one, and quotes inside it are doubled; "
        "if quotes are ordinary characters in this file, use --quoting none"
    )


def test_empty_line_of_a_single_column_is_an_empty_text(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text\na\n\nb\n")
    assert (
        refusal(path, TEXT)
        == f"{path}: 1 row has an empty text, id '1', counted from 0; fill them in, or drop them with --drop-empty"
    )


def test_wrong_encoding_names_the_first_bad_byte_and_its_offset(tmp_path: Path) -> None:
    before = b"text,label\n" + b"a,x\n" * 300_000  # past the first block
    path = written(tmp_path / "r.csv", before + b"caf\xe9,y\n")
    assert refusal(path) == (
        f"{path}: byte 0xe9 at offset 1200014 is not UTF-8; "
        "if the file is in another encoding, name it: --encoding cp1252"
    )
    assert read_rows(path, columns=REVIEW, encoding="latin-1").texts[-1] == "café"


def test_encodings_of_two_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "text,label\ngrün,x\n".encode("utf-16"))
    assert (
        "byte 0xff at offset 0 is not UTF-8; if the file is in another encoding, name it: --encoding utf-16"
        in refusal(path)
    )
    assert read_rows(path, columns=REVIEW, encoding="utf-16").texts == ["grün"]
    written(path, "text,label\ngrün,x\n".encode("utf-16-le"))
    assert "UTF-16 stream does not start with BOM; name another encoding" in refusal(path, encoding="utf-16")


@pytest.mark.parametrize("encoding", ["utf-7000", "base64"])
def test_unknown_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "r.csv", "text,label\na,x\n")
    said = f"{path}: {encoding!r} is not an encoding that Python knows; try utf-8, cp1252 or utf-16"
    assert refusal(path, encoding=encoding) == said


@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_truncated_parquet_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000, "label": ["x"] * 1000}), path)
    content = path.read_bytes()
    written(path, content[: int(len(content) * kept)])
    assert f"{path}: not a Parquet file, or truncated (" in refusal(path)
    assert refusal(path).endswith("); write or copy it again")


def test_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(1000)], "label": ["x"] * 1000}), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # the pages come first, the footer that opens the file is whole
    assert f"{path}: not a Parquet file, or truncated (" in refusal(written(path, bytes(content)))


def test_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", '{"text": "a", "label": "x"}\n\n{"text": "b", label}\n')
    assert refusal(path) == (
        f"{path}:3: not JSON (Expecting property name enclosed in double quotes at column 15); "
        "each line is one object, or the file one list of them"
    )
    assert "r.jsonl:1: not JSON that can be read" in refusal(written(path, '{"text":' * 100_000))
    assert refusal(written(path, "7\n")) == f'{path}:1: a int, expected an object such as {{"text": ...}}'


def test_json_row_without_the_column_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "lable": "x"}\n')
    assert (
        refusal(path) == f"{path}:2: no column 'label'; did you mean 'lable'? there are: text, lable; "
        "rows without text or label can be left out: --drop-empty"
    )


def test_half_a_character_in_json_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "r.jsonl", '{"text": "\\ud83d\\ude00", "label": "x"}\n{"text": "\\ud83d", "label": "x"}\n'
    )
    assert refusal(path) == f"{path}:2: the escape \\ud83d is half a character; write the pair or take it out"


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.xlsx", "x")
    said = f"{path}: files ending in '.xlsx' cannot be read; use one of .csv, .tsv, .jsonl, .ndjson, .parquet, .json"
    assert refusal(path) == said
    assert "files without an ending cannot be read" in refusal(written(tmp_path / "rows", "x"))


# Cost

MILLION = """
import sys
from pathlib import Path
from lasttoken.data.read import Columns, read_rows
path = Path(sys.argv[1])
with path.open("w") as stream:
    stream.write("text,label,unused\\n")
    stream.writelines(f"a short text that is number {i},label {i % 50},{i}\\n" for i in range(1_000_000))
rows = read_rows(path, columns=Columns(text=("text",), label=("label",)))
assert len(rows) == 1_000_000 and rows.labels[-1] == ("label 49",)
assert not {"torch", "transformers", "sklearn", "pandas", "pyarrow", "datasets"} & sys.modules.keys()
status = Path("/proc/self/status")  # ru_maxrss would begin at that of the process which started this one
peaks = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
print(peaks[0] * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read where Linux tells it")
def test_a_million_short_rows_load_in_under_2_gb(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MILLION, str(tmp_path / "million.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2e9
