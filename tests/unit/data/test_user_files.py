"""Files as spreadsheets, labelling tools and other programs write them: read where their form is plain, else told."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.config.settings import Data
from lasttoken.data.dataset import UNLABELLED, Rows
from lasttoken.data.lines import BINARY
from lasttoken.data.load import load_data
from lasttoken.data.quick_checks import unsplit
from lasttoken.data.read import Columns, read_rows, without_empty
from lasttoken.data.split import joined
from lasttoken.errors import DataError
from lasttoken.journal import Journal

REVIEW = Columns(text=("text",), label=("label",))
PLAIN = "if quotes are ordinary characters in this file, use --quoting none"


def read(path: Path, content: str | bytes, **options) -> Rows:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path, columns=options.pop("columns", REVIEW), **options)


def refusal(path: Path, content: str | bytes, **options) -> str:
    """The sentence with which the content is refused."""
    with pytest.raises(DataError) as caught:
        read(path, content, **options)
    return str(caught.value)


# Quotation marks


def test_a_quotation_mark_that_joins_rows_is_told_with_its_line(tmp_path: Path) -> None:
    content = 'text\tlabel\nfine\tA\n"stray here\tA\nnext one"\tB\nlast\tA\n'
    rows = read(tmp_path / "r.tsv", content)
    assert len(rows) == 3
    said = (
        f"{tmp_path}/r.tsv:3: the quoted cell that begins here spans 2 lines, which could be rows of their own; {PLAIN}"
    )
    assert rows.told == (said,)
    assert rows.take([0]).told == (said,)
    assert joined({"train": rows, "test": Rows(["t"], ["x"], [("A",)], False)}).told == (said,)
    whole = read(tmp_path / "r.tsv", content, quoting="none")
    assert whole.texts == ["fine", '"stray here', 'next one"', "last"]
    assert whole.labels == [("A",), ("A",), ("B",), ("A",)]
    assert whole.told == ()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_several_cells_that_join_rows_are_counted(tmp_path: Path, ending: str) -> None:
    mark = "," if ending == "csv" else "\t"
    lines = ["text,label", '"one,A', "two,A", 'three",A', "four,A", "", '"five,B', "", 'six",B']
    (told,) = read(tmp_path / f"r.{ending}", "\n".join(lines).replace(",", mark)).told
    assert f"r.{ending}:2: the quoted cell that begins here spans 3 lines" in told
    assert "rows of their own, as do those of 1 more such cells; if" in told


@pytest.mark.parametrize(
    "cell",
    [
        '"two\nlines"',
        '"Dear Sir, thanks\nyours, Ann"',
        '"a\n\nb"',
        '"he said ""no""\nand left"',
        '"a,b,c\nd"',
        '"one line, all"',
    ],
)
def test_quoted_cells_of_several_lines_are_nothing_to_tell(tmp_path: Path, cell: str) -> None:
    rows = read(tmp_path / "r.csv", f"text,label\n{cell},x\nb,y\n")
    assert (len(rows), rows.told) == (2, ())


def test_quotes_that_cannot_be_read_name_the_option(tmp_path: Path) -> None:
    assert refusal(tmp_path / "r.tsv", 'text\tlabel\n"fine" she said\tA\n').endswith(PLAIN)
    assert refusal(tmp_path / "r.tsv", 'text\tlabel\n"never closed\tA\nb\tA\n').endswith(PLAIN)
    assert refusal(tmp_path / "r.tsv", 'text\tn\tlabel\n"a\t1\tA\nb" c\t2\tA\n').endswith(PLAIN)
    assert refusal(tmp_path / "r.tsv", '"text\tlabel\na"\tA\n') == (
        f"{tmp_path}/r.tsv:1: a quoted column name spans several lines; {PLAIN}"
    )
    assert "quoting 'all' is unknown; use auto or none" in refusal(tmp_path / "r.tsv", "text\n", quoting="all")


def test_training_tells_of_joined_rows_and_reads_them_apart_when_told(tmp_path: Path) -> None:
    lines = [f"text {i}\t{'AB'[i % 2]}" for i in range(40)]
    lines[7], lines[9] = f'"{lines[7]}', lines[9].replace("\t", '"\t')
    (tmp_path / "r.tsv").write_text("\n".join(["text\tlabel", *lines]), encoding="utf-8")
    for quoting, rows, told in (("auto", 38, 1), ("none", 40, 0)):
        journal = Journal()
        data = Data(source=str(tmp_path / "r.tsv"), quoting=quoting)
        splits = load_data(data, seed=0, journal=journal)
        assert len(splits.train) + len(splits.valid) + len(splits.test) == rows
        assert sum("r.tsv:9: the quoted cell that begins here spans 3 lines" in note for note in journal.notes) == told


# Encodings


def test_the_encoding_of_windows_is_named(tmp_path: Path) -> None:
    content = "text,label\n“a” — café,x\n".encode("cp1252")
    assert refusal(tmp_path / "r.csv", content).endswith("name it: --encoding cp1252")
    assert read(tmp_path / "r.csv", content, encoding="cp1252").texts == ["“a” — café"]
    for other, encoding in ((content + b"\x81", "utf-8"), (b"text,label\n\x81", "cp1252")):
        assert "name it: --encoding cp1250, shift_jis or gb18030" in refusal(
            tmp_path / "r.csv", other, encoding=encoding
        )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named_and_read(tmp_path: Path, encoding: str) -> None:
    content = "text,label\ncafé,x\n".encode(encoding)
    assert f"name it: --encoding {encoding}" in refusal(tmp_path / "r.csv", content) + "\n"
    assert read(tmp_path / "r.csv", content, encoding=encoding).texts == ["café"]


def test_the_mark_of_utf8_under_another_encoding_is_told(tmp_path: Path) -> None:
    said = refusal(tmp_path / "r.csv", b"\xef\xbb\xbftext,label\na,x\n", encoding="latin-1")
    assert said == f"{tmp_path}/r.csv: begins with a UTF-8 byte order mark; name the encoding: --encoding utf-8"
    assert read(tmp_path / "r.jsonl", b'\xef\xbb\xbf{"text": "a", "label": "x"}\n').texts == ["a"]


@pytest.mark.parametrize("begins", BINARY)
def test_what_is_no_text_is_named_in_files_and_streams(tmp_path: Path, begins: bytes) -> None:
    said = f"this is {BINARY[begins]}"
    assert refusal(tmp_path / "r.csv", begins + b" more\n") == f"{tmp_path}/r.csv: {said}"
    with pytest.raises(DataError, match=r"^<stream>: this is "):
        read_rows(io.BytesIO(begins + b" more\n"), columns=REVIEW, format="csv")


# Headers and delimiters


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_of_every_kind_are_read(tmp_path: Path, mark: str, ending: str, line_end: str) -> None:
    rows = read(
        tmp_path / f"r.{ending}", line_end.join([f"text{mark}label{mark}", f"a b{mark}x{mark}", f"c{mark}y{mark}"])
    )
    assert (rows.texts, rows.labels) == (["a b", "c"], [("x",), ("y",)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("body;label\na;x\n", "no column 'text'; there are: body, label"),
        ("sep=;\ntext;label\na;x\n", "its first line, sep=;, is for Excel alone; remove it"),
        ('{"text": "a", "label": "x"}\n', "its first line is JSON, not column names; end the file's name in .jsonl"),
        ('[\n{"text": "a"}]', "its first line is JSON, not column names; end the file's name in .jsonl"),
        ("text,label\n", "there are no rows, only column names; check that the file is complete"),
        ("text,label,label\na,x,y\n", "two columns are named 'label'; give every column its own name"),
    ],
)
def test_headers_that_are_none_are_told_in_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    assert refusal(tmp_path / "r.csv", content) == f"{tmp_path}/r.csv: {said}"


# JSON


LIST = '[{"text": "a", "label": "x"},\n {"text": "b", "label": "y"}]'
LINES = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("content", [LIST, LINES, "\n" + LIST, "\n" + LINES])
def test_json_is_read_as_a_list_or_by_lines(tmp_path: Path, ending: str, content: str) -> None:
    rows = read(tmp_path / f"r.{ending}", content)
    assert (rows.texts, rows.labels, rows.ids) == (["a", "b"], [("x",), ("y",)], ["0", "1"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", ": there are no rows; check that the file is complete"),
        ('[{"text": "a"}, 7]', ": row 0: no column 'label'; there are: text"),
        ('[{"text": "a", "label": "x"}, 7]', ': row 1: a int, expected an object such as {"text": ...}'),
        (
            '[{"text": "a",\n "label"}]',
            ": not JSON (Expecting ':' delimiter at line 2, column 9); it should be a list of objects, or one object a line",
        ),
        (
            '{\n "text": "a"}',
            ":1: not JSON (Expecting property name enclosed in double quotes at column 2); "
            "each line is one object, or the file one list of them",
        ),
        (
            '[{"text": "\\ud83d", "label": "x"}]',
            ": row 0: the escape \\ud83d is half a character; write the pair or take it out",
        ),
    ],
)
def test_json_that_is_no_list_of_rows_is_told(tmp_path: Path, content: str, said: str) -> None:
    assert refusal(tmp_path / "r.json", content) == f"{tmp_path}/r.json{said}"


def test_a_json_row_without_the_label_is_a_missing_value(tmp_path: Path) -> None:
    content = '{"text": "a"}\n{"text": "b", "label": "x"}\n{"label": "x"}\n{"text": "c", "label": null}\n'
    rows, dropped = without_empty(read(tmp_path / "r.jsonl", content, keep_empty=True), "r.jsonl")
    assert (rows.ids, rows.texts, dropped) == (["1"], ["b"], "1 row without text and 2 rows without label")
    assert refusal(tmp_path / "r.jsonl", content) == f"{tmp_path}/r.jsonl:1: no column 'label'; there are: text"
    said = refusal(tmp_path / "r.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n')
    assert said.endswith(
        ":2: no column 'label'; there are: text; rows without text or label can be left out: --drop-empty"
    )
    nowhere = refusal(tmp_path / "r.jsonl", '{"text": "a", "lable": "x"}\n{"text": "b"}\n', keep_empty=True)
    assert nowhere == f"{tmp_path}/r.jsonl: no column 'label'; did you mean 'lable'? there are: text, lable"


def test_a_missing_cell_of_several_labels_is_not_the_empty_set(tmp_path: Path) -> None:
    content = (
        '{"text": "a"}\n{"text": "b", "label": []}\n{"text": "c", "label": ["x", "y"]}\n{"text": "d", "label": null}\n'
    )
    read_whole = read(tmp_path / "r.jsonl", content, keep_empty=True)
    assert read_whole.labels == [UNLABELLED, (), ("x", "y"), UNLABELLED]
    rows, dropped = without_empty(read_whole, "r.jsonl")
    assert (rows.labels, dropped) == ([(), ("x", "y")], "2 rows without label")
    by_separator = Columns(text=("text",), label=("label",), separator=";")
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x;y", None]})
    assert read_rows(frame, columns=by_separator, keep_empty=True).labels == [("x", "y"), UNLABELLED]


# Labelling tools


def task(text: str, *answers: list[str], cancelled: bool = False) -> dict:
    """A Label Studio task with one annotation for each answer."""
    results = [[{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": a}}] for a in answers]
    annotations = [{"was_cancelled": cancelled, "result": result} for result in results]
    return {"id": 1, "data": {"text": text}, "annotations": annotations, "predictions": []}


def test_label_studio_tasks_are_read(tmp_path: Path) -> None:
    tasks = [task("a", ["x"]), task("b", ["y"], ["y"])]
    for name, content in (("r.json", json.dumps(tasks)), ("r.jsonl", "\n".join(map(json.dumps, tasks)))):
        rows = read(tmp_path / name, content)
        assert (rows.texts, rows.labels, rows.multi) == (["a", "b"], [("x",), ("y",)], False)
    several = read(
        tmp_path / "r.json", json.dumps([task("a", ["x", "y"]), task("b", ["y"]), task("c")]), keep_empty=True
    )
    assert (several.labels, several.multi) == ([("x", "y"), ("y",), UNLABELLED], True)
    skipped = read(tmp_path / "r.json", json.dumps([*tasks, task("c", ["x"], cancelled=True)]), keep_empty=True)
    assert skipped.labels == [("x",), ("y",), ()]
    other = Columns(text=("text",), label=("topic",))
    said = refusal(tmp_path / "r.json", json.dumps(tasks), columns=other)
    assert said == f"{tmp_path}/r.json: row 0: no column 'topic'; there are: id, text, label"
    said = refusal(tmp_path / "r.json", json.dumps([task("a", ["x"], ["y"])]))
    assert (
        said == f"{tmp_path}/r.json: row 0: 2 annotations that differ, {{'label': 'x'}} and another; keep one of them"
    )


def test_rows_that_only_look_like_tasks_keep_their_columns(tmp_path: Path) -> None:
    row = {"text": "a", "label": "x", "data": {"text": "other"}, "annotations": []}
    assert read(tmp_path / "r.jsonl", json.dumps(row)).texts == ["a"]


def test_choices_in_a_cell_are_lists(tmp_path: Path) -> None:
    minimal = [
        {"text": "a", "label": {"choices": ["x", "y"]}},
        {"text": "b", "label": "y"},
        {"text": "c", "label": {"choices": []}},
    ]
    rows = read(tmp_path / "r.json", json.dumps(minimal))
    assert (rows.labels, rows.multi) == ([("x", "y"), ("y",), ()], True)
    csv = 'text,label\na,"{""choices"":[""x"",""y""]}"\nb,y\n'
    assert read(tmp_path / "r.csv", csv).labels == [("x", "y"), ("y",)]
    assert "nothing in column 'label'" in refusal(tmp_path / "r.csv", csv + "c,\n")
    assert "write names joined by ';', none of them empty" in refusal(
        tmp_path / "r.jsonl",
        '{"text": "a", "label": {"choice": "x"}}',
        columns=Columns(text=("text",), label=("label",), separator=";"),
    )
    assert "holds {'choice': 'x'}, a dict" in refusal(tmp_path / "r.jsonl", '{"text": "a", "label": {"choice": "x"}}')


def test_lists_written_as_json_text_are_lists(tmp_path: Path) -> None:
    rows = read(tmp_path / "r.csv", 'text,label\na,"[""x"", ""y""]"\nb,[]\nc,"[""y""]"\n')
    assert (rows.labels, rows.multi) == ([("x", "y"), (), ("y",)], True)
    for cells in (["[1]", "[2]"], ['["x"]', "y"], ["[", "[x]"], ["['x']", "['y']"], ["[" * 100_000, "y"]):
        rows = read_rows(pd.DataFrame({"text": ["a", "b"], "label": cells}), columns=REVIEW)
        assert (rows.labels, rows.multi) == ([(cell,) for cell in cells], False)


@pytest.mark.parametrize(
    ("names", "option"),
    [
        (["x", "y", "x#y"], "--separator '#'"),
        (["x#y", "y#x", "x", "z#y#x"], "--separator '#'"),
        (["x", "y", "x / y"], "--separator ' / '"),
        (["x", "y", "x;y"], "--separator ';'"),
    ],
)
def test_separators_of_labelling_tools_are_told(names: list[str], option: str) -> None:
    assert option in (unsplit(names) or "")


@pytest.mark.parametrize("names", [["C", "C#", "F#"], ["A/A1", "A/A2", "A"], ["and / or", "yes"], ["#1", "#2"]])
def test_names_that_hold_such_a_character_are_left_alone(names: list[str]) -> None:
    assert unsplit(names) is None


def test_lists_of_exactly_one_label_each_are_told(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "label": ["ab"[i % 2]]}) for i in range(40)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines), encoding="utf-8")
    splits = load_data(Data(source=str(tmp_path / "r.jsonl")), seed=0, journal=Journal())
    assert splits.doubts == (
        "every list holds exactly one label, but the problem is treated as multi-label; "
        "if each row has exactly one, write the label itself instead of a list",
    )


# Class labels of Parquet


def test_class_labels_of_parquet_are_their_names(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.List(label)})
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "r.parquet")
    rows = read_rows(tmp_path / "r.parquet", columns=REVIEW, keep_empty=True)
    assert rows.labels == [("pos",), ("neg",), ()]
    tags = read_rows(tmp_path / "r.parquet", columns=Columns(text=("text",), label=("tags",)))
    assert (tags.labels, tags.multi) == ([("neg", "pos"), (), ("pos",)], True)


@pytest.mark.parametrize("kind", ["List", "LargeList", "Sequence", None])
def test_lists_of_class_labels_are_known_in_every_version(tmp_path: Path, kind: str | None) -> None:
    one = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    feature = [one] if kind is None else {"feature": one, "_type": kind}
    described = {b"huggingface": json.dumps({"info": {"features": {"label": feature}}}).encode()}
    table = pa.table({"text": ["a", "b"], "label": [[1, 0], [1]]}).replace_schema_metadata(described)
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_rows(tmp_path / "r.parquet", columns=REVIEW).labels == [("neg", "pos"), ("pos",)]


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_metadata_that_names_no_classes_leaves_numbers(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_rows(tmp_path / "r.parquet", columns=REVIEW).labels == [("1",), ("0",)]


def test_categories_are_their_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["pos", "neg"])})
    frame.to_parquet(tmp_path / "frame.parquet")
    dictionary = pa.array(["pos", "neg"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["a", "b"], "label": dictionary}), tmp_path / "arrow.parquet")
    numbers = pd.DataFrame({"text": ["a", "b"], "label": np.array([1, 0])})
    for source in (frame, tmp_path / "frame.parquet", tmp_path / "arrow.parquet"):
        assert read_rows(source, columns=REVIEW).labels == [("pos",), ("neg",)]
    assert read_rows(numbers, columns=REVIEW).labels == [("1",), ("0",)]
