"""Whole tables: every column of a source, in its order, as well as those that are asked for."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.data.tables import file_table, stream_table
from lasttoken.errors import DataError, MissingColumn


def whole(path: Path, *wanted: str) -> list:
    return list(file_table(path, wanted, format=None, encoding="utf-8", whole=True).records)


def test_whole_csv_has_all_columns_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('n,text,\n1,"a\nb",x\n\n2,c,\n', encoding="utf-8")
    records = whole(path, "text")
    assert records == [(2, {"n": "1", "text": "a\nb", "": "x"}), (5, {"n": "2", "text": "c", "": ""})]
    assert list(records[0][1]) == ["n", "text", ""]


def test_whole_jsonl_keeps_the_columns_of_each_row() -> None:
    stream = io.BytesIO(b'{"b": 1, "text": "x"}\n{"text": "y", "a": [null]}\n')
    table = stream_table(stream, ["text"], format="jsonl", encoding="utf-8", whole=True)
    assert list(table.records) == [(1, {"b": 1, "text": "x"}), (2, {"text": "y", "a": [None]})]
    assert table.schema is None


def test_whole_parquet_has_all_columns_and_their_types(tmp_path: Path) -> None:
    content = pa.table({"n": pa.array([1, None], pa.int8()), "text": ["x", "y"]})
    pq.write_table(content, tmp_path / "r.parquet")
    table = file_table(tmp_path / "r.parquet", ["text"], format=None, encoding="utf-8", whole=True)
    assert table.schema == content.schema
    assert list(table.records) == [(0, {"n": 1, "text": "x"}), (1, {"n": None, "text": "y"})]


def test_whole_tables_lack_no_column_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("txet,n\na,1\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        whole(path, "text")
    assert str(caught.value) == f"{path}: no column 'text'; did you mean 'txet'? there are: txet, n"


def test_whole_table_needs_a_name_for_every_column(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text,,\na,1,2\n", encoding="utf-8")
    assert [cells for _, cells in file_table(path, ["text"], format=None, encoding="utf-8").records] == [["a"]]
    with pytest.raises(DataError, match="two columns are named ''; give every column its own name"):
        whole(path, "text")


def test_half_a_character_anywhere_in_a_whole_row_is_refused() -> None:
    stream = io.BytesIO(b'{"text": "x", "note": "\\ud83d"}\n')
    table = stream_table(stream, ["text"], format="jsonl", encoding="utf-8", whole=True)
    with pytest.raises(DataError, match=r"<stream>:1: the escape \\ud83d is half a character"):
        list(table.records)


def test_blanks_after_the_delimiter_belong_to_no_name_and_no_cell(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('id, text, label\n1, "one, two", goal\n2, three, price\n')
    table = file_table(path, ["text", "label"], format=None, encoding="utf-8")
    assert list(table.records) == [(2, ["one, two", "goal"]), (3, ["three", "price"])]
    path.write_text("id, text,label\n1, one, goal\n")  # not after each: they are part of the name
    with pytest.raises(
        MissingColumn, match=r"no column 'text'; did you mean ' text'\? there are: id, \" text\", label$"
    ):
        list(file_table(path, ["text"], format=None, encoding="utf-8").records)
    assert [cells for _, cells in file_table(path, [" text", "label"], format=None, encoding="utf-8").records] == [
        [" one", " goal"]
    ]
