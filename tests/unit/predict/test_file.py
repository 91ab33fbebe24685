"""Files that go in come out with predictions, in every format, or not at all."""

import csv
import datetime
import gzip
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.data.read import Columns
from lasttoken.data.tables import file_table
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.calibration import Calibration
from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predict.file import Input, Output, Summary
from lasttoken.predict.file import predict_file as write_predictions
from lasttoken.predictor import Predictor

TEXT = Columns(text=("text",))


def said(probs: list[list[float]]) -> Said:
    return Said(np.array(probs), np.zeros(len(probs), dtype=np.int64))


class Length:
    """A classifier by rule: texts of four characters or more are probably long. It remembers what it was given."""

    def __init__(self, multi: bool = False, names: tuple[str, str] = ("long", "short")):
        self.labels = LabelSpace(names, multi)
        self.seen: list[list[str]] = []

    encode, on_accelerator = staticmethod(list), False

    def predict_encoded(self, texts: Sequence[str], *progress: Any) -> Said:
        """(N, 2): .75 and .25, or with `multi` .75 for what holds an l or an s and .25 else."""
        self.seen.append(list(texts))
        if self.labels.multi:
            return said([[0.25 + 0.5 * ("l" in text), 0.25 + 0.5 * ("s" in text)] for text in texts])
        return said([[0.75, 0.25] if len(text) >= 4 else [0.25, 0.75] for text in texts])

    def save(self, folder: Path) -> None:
        raise NotImplementedError(folder)


class Failing(Length):
    """Predicts one chunk, then raises."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error

    def predict_encoded(self, texts: Sequence[str], *progress: Any) -> Said:
        if self.seen:
            raise self.error
        return super().predict_encoded(texts, *progress)


def predict_file(
    predictor: Predictor,
    source: Any,
    target: Any,
    *,
    columns: Columns,
    format_in: str | None = None,
    format_out: str | None = None,
    **more: Any,
) -> Summary:
    """`predict_file`, its options side by side."""
    reading = {name: more.pop(name) for name in ("encoding", "quoting") if name in more}
    running = {name: more.pop(name) for name in ("chunk", "progress") if name in more}
    reads, writes = Input(columns, format_in, **reading), Output(format_out, **more)
    return write_predictions(predictor, source, target, reads=reads, writes=writes, **running)


def written(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def csv_of(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter=delimiter, strict=True))


def refusal(kind: type[Exception], source, target, **options) -> str:
    """The sentence with which a prediction is refused."""
    classifier = options.pop("classifier", Length())
    with pytest.raises(kind) as caught:
        predict_file(Predictor(classifier), source, target, **{"columns": TEXT, **options})
    return str(caught.value)


def only(folder: Path, *names: str) -> bool:
    """Whether a folder holds these files and no others."""
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


# Round trips


def test_csv_keeps_every_cell_and_appends_the_prediction(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", 'n,text,note\r\n1,"a ""b"",\nc", x \r\n2,ü,"one\rtwo"\r\n')
    summary = predict_file(Predictor(Length()), source, tmp_path / "out.csv", columns=TEXT)
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        'n,text,note,predicted_label,predicted_probability\n1,"a ""b"",\nc", x ,long,0.75\n2,ü,"one\rtwo",short,0.75\n'
    )
    assert isinstance(summary, Summary)
    assert (summary.rows, summary.empty) == (2, 0)
    assert 0 < summary.seconds < 60


def test_tsv_keeps_tabs_and_line_ends(tmp_path: Path) -> None:
    source = written(tmp_path / "r.tsv", 'text\tn\n"a\tb\nc"\t1,5\n')
    predict_file(Predictor(Length()), source, tmp_path / "out.tsv", columns=TEXT, probs=True)
    assert csv_of(tmp_path / "out.tsv", "\t") == [
        ["text", "n", "predicted_label", "predicted_probability", "p(long)", "p(short)"],
        ["a\tb\nc", "1,5", "long", "0.75", "0.75", "0.25"],
    ]


def test_jsonl_keeps_types_and_the_columns_of_each_row(tmp_path: Path) -> None:
    source = written(
        tmp_path / "r.jsonl",
        '{"n": 1, "text": "ü", "tags": ["a", {"b": null}]}\n{"text": "long", "n": 1.0, "yes": true}\n',
    )
    predict_file(Predictor(Length()), source, tmp_path / "out.jsonl", columns=TEXT)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines() == [
        '{"n": 1, "text": "ü", "tags": ["a", {"b": null}], "predicted_label": "short", "predicted_probability": 0.75}',
        '{"text": "long", "n": 1.0, "yes": true, "predicted_label": "long", "predicted_probability": 0.75}',
    ]


def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    content = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int8()),
            "text": pa.array(["long", "s", None]).dictionary_encode(),
            "at": pa.array([1, 2, None], pa.timestamp("ns", tz="UTC")),
            "price": pa.array([Decimal("1.20"), None, Decimal("3.00")]),
            "vector": pa.array([[1.5], None, []], pa.list_(pa.float32())),
            "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
            "raw": pa.array([b"\xff", None, b""]),
            "p(long)": ["no", "probability", "yet"],
        }
    ).replace_schema_metadata({"origin": "here"})
    pq.write_table(content, tmp_path / "r.parquet")
    summary = predict_file(Predictor(Length()), tmp_path / "r.parquet", tmp_path / "out.parquet", columns=TEXT, chunk=2)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    found = file.read()
    assert found.select(content.column_names).to_pylist() == content.to_pylist()
    assert found.schema.field("predicted_label").type == pa.string()
    assert found.schema.field("predicted_probability").type == pa.float64()
    assert [found.schema.field(name) for name in content.column_names] == list(content.schema)
    assert found.schema.metadata == {b"origin": b"here"}
    assert found["predicted_label"].to_pylist() == ["long", "short", None]
    assert file.num_row_groups == 2
    assert summary.empty == 1


def test_index_of_a_data_frame_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["long", "s"]}, index=pd.Index(["x", "y"], name="key"))
    frame.to_parquet(tmp_path / "r.parquet")
    predict_file(Predictor(Length()), tmp_path / "r.parquet", tmp_path / "out.parquet", columns=TEXT)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.index.tolist() == ["x", "y"]
    assert found["predicted_label"].tolist() == ["long", "short"]


@pytest.mark.parametrize("first", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("second", ["csv", "tsv", "jsonl", "parquet"])
def test_cells_survive_every_change_of_format(tmp_path: Path, first: str, second: str) -> None:
    rows = [{"text": 'a\r\n"b"\t, c\u2028', "n": "1"}, {"text": "s", "n": ""}, {"text": "ß" * 4, "n": "\r"}]
    source, target = tmp_path / f"r.{first}", tmp_path / f"out.{second}"
    if first == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif first == "jsonl":
        written(source, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        with source.open("w", encoding="utf-8", newline="") as stream:
            pen = csv.writer(stream, "excel" if first == "csv" else "excel-tab", quoting=csv.QUOTE_ALL)
            pen.writerows([["text", "n"], *([row["text"], row["n"]] for row in rows)])
    predict_file(Predictor(Length()), source, target, columns=TEXT, chunk=2)
    found = [row for _, row in file_table(target, ["text"], format=None, encoding="utf-8", whole=True).records]
    assert [list(row) for row in found] == [["text", "n", "predicted_label", "predicted_probability"]] * 3
    assert [{name: row[name] for name in ("text", "n")} for row in found] == rows
    assert [(row["predicted_label"], float(row["predicted_probability"])) for row in found] == [
        *(("long", 0.75), ("short", 0.75), ("long", 0.75))
    ]


def test_cells_that_are_no_text_are_spelled_out(tmp_path: Path) -> None:
    content = pa.table(
        {
            "text": ["s"],
            "day": [datetime.date(2024, 2, 29)],
            "at": [datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.UTC)],
            "for": [datetime.timedelta(hours=1)],
            "price": [Decimal("1.20")],
            "nan": [float("nan")],
            "yes": [True],
            "none": pa.array([None], pa.int64()),
            "list": [[1, None]],
        }
    )
    pq.write_table(content, tmp_path / "r.parquet")
    predict_file(Predictor(Length()), tmp_path / "r.parquet", tmp_path / "out.jsonl", columns=TEXT)
    predict_file(Predictor(Length()), tmp_path / "r.parquet", tmp_path / "out.csv", columns=TEXT)
    (row,) = lines_of(tmp_path / "out.jsonl")
    assert list(row.values())[:9] == [
        *("s", "2024-02-29", "2024-02-29T01:02:03+00:00", "1:00:00", "1.20", None, True, None, [1, None])
    ]
    assert csv_of(tmp_path / "out.csv")[1][:9] == [
        *("s", "2024-02-29", "2024-02-29T01:02:03+00:00", "1:00:00", "1.20", "", "True", "", "[1, null]")
    ]


def test_bytes_fit_parquet_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["s"], "raw": [b"\xff"]}), tmp_path / "r.parquet")
    for ending in ("csv", "jsonl"):
        said = refusal(DataError, tmp_path / "r.parquet", tmp_path / f"out.{ending}")
        assert said == f"{tmp_path}/r.parquet: a cell is of type bytes, which is no text; write .parquet"
    assert only(tmp_path, "r.parquet")


# Streams


def test_streams_in_and_out(tmp_path: Path) -> None:
    target = io.BytesIO()
    predict_file(Predictor(Length()), io.BytesIO(b"text\nlong\n"), target, columns=TEXT, format_in="csv")
    assert target.getvalue() == b"text,predicted_label,predicted_probability\nlong,long,0.75\n"
    target = io.BytesIO()
    predict_file(
        Predictor(Length()), io.BytesIO(b"text\nlong\n"), target, columns=TEXT, format_in="csv", format_out="parquet"
    )
    assert pq.read_table(io.BytesIO(target.getvalue()))["predicted_label"].to_pylist() == ["long"]
    again = io.BytesIO()
    columns = Columns(text=("predicted_label",))
    said = refusal(DataError, io.BytesIO(target.getvalue()), again, columns=columns, format_in="parquet")
    assert said == "<stream>: row 0: has a column 'predicted_label' already; rename it, that name is to be added"
    assert again.getvalue() == b""


COMMAND = """
import sys
from pathlib import Path
import numpy as np
from lasttoken.data.read import Columns
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predict.file import Input, Output, predict_file
from lasttoken.predictor import Predictor
assert not {"torch", "transformers", "sklearn", "pandas", "pyarrow", "datasets"} & sys.modules.keys()
class Same:
    labels = LabelSpace(("no", "yes"))
    encode, on_accelerator = staticmethod(list), False
    def predict_encoded(self, texts, *progress):
        return Said(np.tile([0.25, 0.75], (len(texts), 1)), np.zeros(len(texts), dtype=np.int64))
    def save(self, folder):
        raise NotImplementedError
format_in, format_out = (word if word != "None" else None for word in sys.argv[1:])
predict_file(Predictor(Same()), "-", Path("-"), reads=Input(Columns(text=("text",)), format_in), writes=Output(format_out))
"""


def piped(content: bytes, format_in: str, format_out: str = "None") -> bytes:
    """What comes out of a process of its own, through real pipes."""
    command = [sys.executable, "-c", COMMAND, format_in, format_out]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dash_is_standard_input_and_output_in_the_format_of_the_input() -> None:
    line = '{"text": "ü", "predicted_label": "yes", "predicted_probability": 0.75}\n'
    assert piped('{"text": "ü"}\n'.encode(), "jsonl").decode() == line
    made = piped(b"text\nx\n", "csv", "parquet")
    assert pq.read_table(io.BytesIO(made)).to_pylist() == [
        {"text": "x", "predicted_label": "yes", "predicted_probability": 0.75}
    ]


def test_standard_output_has_the_format_that_the_ending_of_the_input_names(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    predict_file(Predictor(Length()), written(tmp_path / "r.tsv", "text\nlong\n"), "-", columns=TEXT)
    assert capfdbinary.readouterr().out == b"text\tpredicted_label\tpredicted_probability\nlong\tlong\t0.75\n"


def test_stream_without_format_is_refused() -> None:
    said = refusal(DataError, io.BytesIO(b"text\n"), io.BytesIO())
    assert said == "<stream>: a stream has no file ending; name its format with --format: csv, tsv, jsonl, parquet"


def test_other_encodings_are_read_and_utf_8_is_written(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes("text\nü\n".encode("latin-1"))
    predict_file(Predictor(Length()), tmp_path / "r.csv", tmp_path / "out.csv", columns=TEXT, encoding="latin-1")
    assert csv_of(tmp_path / "out.csv")[1][0] == "ü"


# What is predicted


def test_several_labels_are_joined_in_text_and_listed_elsewhere(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nn\nls\nl\n")
    for ending in ("csv", "jsonl", "parquet"):
        predict_file(
            Predictor(Length(multi=True)), source, tmp_path / f"out.{ending}", columns=TEXT, probs=True, chunk=1
        )
    predict_file(Predictor(Length(multi=True)), source, tmp_path / "out.tsv", columns=TEXT, separator="|")
    assert csv_of(tmp_path / "out.csv") == [
        ["text", "predicted_label", "p(long)", "p(short)"],
        ["n", "", "0.25", "0.25"],
        ["ls", "long;short", "0.75", "0.75"],
        ["l", "long", "0.75", "0.25"],
    ]
    assert [line[1] for line in csv_of(tmp_path / "out.tsv", "\t")] == ["predicted_label", "", "long|short", "long"]
    expected = [
        {"text": "n", "predicted_label": [], "p(long)": 0.25, "p(short)": 0.25},
        {"text": "ls", "predicted_label": ["long", "short"], "p(long)": 0.75, "p(short)": 0.75},
        {"text": "l", "predicted_label": ["long"], "p(long)": 0.75, "p(short)": 0.25},
    ]
    assert lines_of(tmp_path / "out.jsonl") == expected
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected


def test_label_that_holds_the_separator_is_refused_where_it_would_be_torn(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nls\n")
    torn = Length(multi=True, names=("a;b", "c"))
    assert refusal(DataError, source, tmp_path / "out.csv", classifier=torn) == (
        "label 'a;b' holds ';', which is to stand between labels; "
        "name another separator, or write .jsonl, which keeps lists"
    )
    predict_file(Predictor(torn), source, tmp_path / "out.csv", columns=TEXT, separator="|")
    assert csv_of(tmp_path / "out.csv")[1] == ["ls", "a;b|c"]
    predict_file(Predictor(torn), source, tmp_path / "out.jsonl", columns=TEXT)
    assert lines_of(tmp_path / "out.jsonl")[0]["predicted_label"] == ["a;b", "c"]


def test_texts_are_made_of_several_columns_as_in_training(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "title,id,body\nT,7,B\n,8,only\n")
    joined, filled = Length(), Length()
    columns = Columns(text=("title", "body"), id="id")
    predict_file(Predictor(joined), source, tmp_path / "one.csv", columns=columns)
    columns = Columns(text=("title", "body"), template="{body}: {title}!")
    predict_file(Predictor(filled), source, tmp_path / "two.csv", columns=columns)
    assert joined.seen == [["T\n\nB", "only"]]
    assert filled.seen == [["B: T!", "only: !"]]
    assert [line[:3] for line in csv_of(tmp_path / "two.csv")[1:]] == [["T", "7", "B"], ["", "8", "only"]]


@pytest.mark.parametrize(
    ("empty", "labels"),
    [("blank", ["long", "", "", "", "short"]), ("label", ["long", "short", "short", "long", "short"])],
)
def test_rows_without_a_word_are_kept_and_counted(tmp_path: Path, empty: str, labels: list[str]) -> None:
    source = written(tmp_path / "r.csv", 'n,text\n1,long\n2,\n3," \n"\n4,"?!, -"\n5,\U0001f44d\n')
    summary = predict_file(
        Predictor(Length()), source, tmp_path / "out.csv", columns=TEXT, chunk=2, empty=empty, probs=True
    )
    assert (summary.rows, summary.empty, summary.without) == (5, 3, 0)
    rows = csv_of(tmp_path / "out.csv")[1:]
    assert [row[2] for row in rows] == labels
    assert [row[3:] == ["", "", ""] for row in rows] == [label == "" for label in labels]


def test_rows_without_a_word_keep_the_types_of_the_columns(tmp_path: Path) -> None:
    """The first rows settle the types in Parquet, also where none of them has a word."""
    source = written(tmp_path / "r.jsonl", '{"text": ""}\n{"text": "..."}\n{"text": "long"}\n')
    predict_file(Predictor(Length()), source, tmp_path / "out.parquet", columns=TEXT, chunk=2, probs=True)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["predicted_label"].to_pylist() == [None, None, "long"]
    assert found.schema.field("p(long)").type == pa.float64()
    several = Length(multi=True)
    predict_file(Predictor(several), source, tmp_path / "out.jsonl", columns=TEXT)
    assert [row["predicted_label"] for row in lines_of(tmp_path / "out.jsonl")] == [[], [], ["long"]]


def test_rows_without_a_word_may_be_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n...\n")
    assert refusal(DataError, source, tmp_path / "out.csv", empty="refuse") == (
        f"{source}:3: no letter, digit or emoji in the text; mend it, or let --empty blank pass it through"
    )
    assert only(tmp_path, "r.csv")


def test_rows_come_in_chunks_and_keep_their_order(tmp_path: Path) -> None:
    texts = ["x" * (1 + i % 7) for i in range(1000)]
    source = written(tmp_path / "r.jsonl", "".join(json.dumps({"i": i, "text": t}) + "\n" for i, t in enumerate(texts)))
    classifier, told = Length(), list[tuple[int, int]]()
    for ending in ("jsonl", "parquet", "csv"):
        classifier.seen.clear()
        told.clear()
        target = tmp_path / f"out.{ending}"
        predict_file(
            Predictor(classifier), source, target, columns=TEXT, chunk=300, progress=lambda *seen: told.append(seen)
        )
        assert [len(chunk) for chunk in classifier.seen] == [300, 300, 300, 100]
        assert [text for chunk in classifier.seen for text in chunk] == texts
        ends = dict(told)  # the rows in all as they were last told beside each number of rows done
        assert list(ends) == [0, 300, 600, 900, 1000]
        assert all(abs(total - 1000) <= 10 for total in ends.values())  # from the bytes of the lines that were taken
        assert ends[1000] == 1000
    expected = [(i, "long" if len(text) >= 4 else "short") for i, text in enumerate(texts)]
    assert [(row["i"], row["predicted_label"]) for row in lines_of(tmp_path / "out.jsonl")] == expected
    found = pq.ParquetFile(tmp_path / "out.parquet")
    assert [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)] == [300, 300, 300, 100]
    assert [(row["i"], row["predicted_label"]) for row in found.read().to_pylist()] == expected
    assert [(int(row[0]), row[2]) for row in csv_of(tmp_path / "out.csv")[1:]] == expected


def test_the_rows_in_all_are_told_of_parquet_and_not_of_what_has_no_size(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["long"] * 7}), tmp_path / "r.parquet")
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(b"text\nlong\nlong\n"))
    (tmp_path / "list.json").write_text(json.dumps([{"text": "long"}] * 7), encoding="utf-8")
    (tmp_path / "wide.csv").write_text("text\nlong\nlong\n", encoding="utf-16")
    for source, total in (("r.parquet", 7), ("r.csv.gz", 0), ("list.json", 0), ("wide.csv", 0)):
        wide = {"encoding": "utf-16"} if source == "wide.csv" else {}
        seen = set[int]()
        target = tmp_path / f"{source}.jsonl"
        told = partial(lambda seen, _, all: seen.add(all), seen)
        predict_file(Predictor(Length()), tmp_path / source, target, columns=TEXT, progress=told, **wide)
        assert seen == {total}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_memory_is_that_of_a_chunk(tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"r.{ending}"
    rows = ({"text": f"{i} " + "word " * 200, "n": i} for i in range(20_000))  # 20 MB
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), source, row_group_size=500)
    elif ending == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        source.write_text("text,n\n" + "".join(f"{row['text']},{row['n']}\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / f"out.{ending}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15e6  # of Python's memory; the texts alone are 20 MB


PEAK = """
import sys, tracemalloc
import numpy as np
from lasttoken.data.read import Columns
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predict.file import Input, Output, predict_file
from lasttoken.predictor import Predictor
class Same:
    labels = LabelSpace(("no", "yes"))
    encode, on_accelerator = staticmethod(list), False
    def predict_encoded(self, texts, *progress):
        return Said(np.tile([0.25, 0.75], (len(texts), 1)), np.zeros(len(texts), dtype=np.int64))
    def save(self, folder):
        raise NotImplementedError
if sys.argv[1].endswith("parquet"):
    import pandas, pyarrow.parquet  # their own 30 MB are no part of what is measured
tracemalloc.start()
summary = predict_file(Predictor(Same()), sys.argv[1], sys.argv[2], reads=Input(Columns(text=("text",))), chunk=500)
assert summary.rows == 20_000
print(tracemalloc.get_traced_memory()[1])
"""


# Rows that differ


def test_row_with_a_column_that_comes_too_late_is_refused_where_columns_are_fixed(tmp_path: Path) -> None:
    source = written(tmp_path / "r.jsonl", '{"text": "s"}\n{"text": "s", "a": 1}\n{"b": 2, "text": "s"}\n')
    predict_file(Predictor(Length()), source, tmp_path / "out.csv", columns=TEXT)
    assert csv_of(tmp_path / "out.csv")[0] == ["text", "a", "b", "predicted_label", "predicted_probability"]
    assert [line[:3] for line in csv_of(tmp_path / "out.csv")[1:]] == [["s", "", ""], ["s", "1", ""], ["s", "", "2"]]
    for ending in ("csv", "parquet"):
        assert refusal(DataError, source, tmp_path / f"late.{ending}", chunk=2) == (
            f"{source}:3: column 'b' is not in the first rows, which settle the columns; "
            "write .jsonl, whose rows may differ"
        )
    predict_file(Predictor(Length()), source, tmp_path / "out.jsonl", columns=TEXT, chunk=2)
    assert only(tmp_path, "r.jsonl", "out.csv", "out.jsonl")


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("1", "1.5", "double after int64"),
        ("null", "1", "int64 after null"),
        ('{"a": 1}', '{"b": 1}', "struct<b: int64> after struct<a: int64>"),
        ('"a"', "1", "incompatible types: string vs int64"),
        ("1", "99999999999999999999", "too large"),
    ],
)
def test_column_of_several_types_does_not_become_parquet(tmp_path: Path, first: str, second: str, reason: str) -> None:
    source = written(tmp_path / "r.jsonl", f'{{"text": "s", "x": {first}}}\n{{"text": "s", "x": {second}}}\n')
    said = refusal(DataError, source, tmp_path / "out.parquet", chunk=1)
    assert said.startswith(f"{source}: column 'x' is not of one type (")
    assert reason in said
    assert said.endswith("); write .jsonl, which keeps each cell as it is")
    assert only(tmp_path, "r.jsonl")


def test_later_cells_take_the_type_that_has_room_for_them(tmp_path: Path) -> None:
    source = written(tmp_path / "r.jsonl", '{"text": "s", "x": 1.5}\n{"text": "s", "x": 2}\n{"text": "s"}\n')
    predict_file(Predictor(Length()), source, tmp_path / "out.parquet", columns=TEXT, chunk=1)
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == [1.5, 2.0, None]


# Refusals


@pytest.mark.parametrize("name", ["predicted_label", "predicted_probability", "p(short)"])
def test_column_of_the_name_of_an_added_one_is_refused(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "r.csv", f"text,{name}\nlong,x\n")
    said = refusal(DataError, source, tmp_path / "out.csv", probs=True)
    assert said == f"{source}:2: has a column {name!r} already; rename it, that name is to be added"
    assert only(tmp_path, "r.csv")


def test_column_of_such_a_name_may_stand_where_none_is_added(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text,p(short),predicted_probability\nls,x,y\n")
    predict_file(Predictor(Length(multi=True)), source, tmp_path / "out.parquet", columns=TEXT)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"text": "ls", "p(short)": "x", "predicted_probability": "y", "predicted_label": ["long", "short"]}
    ]


def test_existing_target_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n")
    target = written(tmp_path / "out.csv", "mine")
    said = f"{target} exists; name another file, or replace it with --overwrite"
    assert refusal(ArtifactError, source, target) == said
    written(source, "text\nlong\ns\n")
    with pytest.raises(RuntimeError):
        predict_file(Predictor(Failing(RuntimeError("a bug"))), source, target, columns=TEXT, overwrite=True, chunk=1)
    assert target.read_text(encoding="utf-8") == "mine"
    assert only(tmp_path, "r.csv", "out.csv")
    predict_file(Predictor(Length()), source, target, columns=TEXT, overwrite=True)
    assert csv_of(target)[1] == ["long", "long", "0.75"]


def test_file_may_replace_itself(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\ns\n")
    predict_file(Predictor(Length()), source, source, columns=TEXT, overwrite=True, chunk=1)
    assert [line[1] for line in csv_of(source)] == ["predicted_label", "long", "short"]


def test_target_that_cannot_be_written_is_refused_before_predicting(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n")
    classifier = Length()
    absent, folder = tmp_path / "absent" / "out.csv", tmp_path / "folder.csv"
    folder.mkdir()
    assert refusal(ArtifactError, source, absent, classifier=classifier) == (
        f"{absent}: no folder {absent.parent}; make it first, or check the path"
    )
    assert "is a folder or a device" in refusal(ArtifactError, source, folder, classifier=classifier, overwrite=True)
    assert "no writer of format 'xml'" in refusal(DataError, source, "-", classifier=classifier, format_out="xml")
    assert refusal(DataError, source, tmp_path / "out.xlsx", classifier=classifier) == (
        f"{tmp_path}/out.xlsx: its ending names no format to write; end the name in one of "
        ".csv, .tsv, .jsonl, .ndjson, .parquet, or name the format: --out-format csv"
    )
    assert classifier.seen == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("r.csv", "text,n\na,1\nb\n", "r.csv:3: 1 fields, expected 2"),
        ("r.jsonl", '{"text": "a"}\n{"text": \n', "r.jsonl:2: not JSON"),
        ("r.jsonl", '{"text": "a"}\n{"txt": "a"}\n', "r.jsonl:2: no column 'text'; did you mean 'txt'?"),
        ("r.jsonl", '{"text": "a"}\n{"text": ["a"]}\n', "r.jsonl:2: the text column holds ['a'], a list"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_bad_line_is_named_and_leaves_nothing(
    tmp_path: Path, name: str, content: str, sentence: str, ending: str
) -> None:
    source = written(tmp_path / name, content)
    assert sentence in refusal(DataError, source, tmp_path / f"out.{ending}", chunk=1)
    assert only(tmp_path, name)


def test_missing_column_offers_near_names(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "texts,n\na,1\n")
    expected = f"{source}: no column 'text'; did you mean 'texts'? there are: texts, n"
    assert refusal(DataError, source, tmp_path / "out.csv") == expected
    columns = Columns(text=("texts",), id="m")
    assert "no column 'm'; " in refusal(DataError, source, tmp_path / "out.csv", columns=columns)
    assert only(tmp_path, "r.csv")


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    empty, bare = written(tmp_path / "empty.csv", ""), written(tmp_path / "bare.csv", "text\n")
    assert "the file is empty; it needs a header and rows" in refusal(DataError, empty, tmp_path / "out.csv")
    assert "there are no rows, only column names" in refusal(DataError, bare, tmp_path / "out.csv")
    assert "there are no rows" in refusal(DataError, io.BytesIO(), tmp_path / "out.csv", format_in="jsonl")
    assert only(tmp_path, "empty.csv", "bare.csv")
    assert "no such file; did you mean bare.csv?" in refusal(DataError, tmp_path / "bar.csv", tmp_path / "out.csv")


def test_probabilities_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Broken(Length):
        def predict_encoded(self, texts: Sequence[str], *progress: Any) -> Said:
            return said([[np.nan, np.nan] for _ in texts])

    source = written(tmp_path / "r.csv", "text\nlong\n")
    told = refusal(ArtifactError, source, tmp_path / "out.csv", classifier=Broken())
    assert told == "1 rows have probabilities that are not finite, first id '0'; train again"


# What goes wrong on the way


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("a bug")])
def test_whatever_stops_the_classifier_leaves_nothing(tmp_path: Path, ending: str, error: BaseException) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\ns\n")
    with pytest.raises(type(error)):
        predict_file(Predictor(Failing(error)), source, tmp_path / f"out.{ending}", columns=TEXT, chunk=1)
    assert only(tmp_path, "r.csv")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, ending: str) -> None:
    source = written(tmp_path / "r.csv", "text\n" + "".join(f"{i:01000}\n" for i in range(1000)))
    target = tmp_path / f"out.{ending}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))  # bytes that a file may have, as a full disk would
    try:
        said = refusal(ArtifactError, source, target, chunk=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said == f"{target} could not be written (File too large); nothing was kept of it"
    assert only(tmp_path, "r.csv")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_stream_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n")
    with open("/dev/full", "wb", buffering=0) as full:
        said = refusal(ArtifactError, source, full)
    assert said == "the output could not be written whole (No space left on device); run again"


def test_pipe_whose_reader_has_gone_is_left_to_the_caller(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n")
    reader, end = os.pipe()
    os.close(reader)
    with open(end, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        predict_file(Predictor(Length()), source, pipe, columns=TEXT)


# With a policy


def test_labels_are_decided_as_the_run_does(tmp_path: Path) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\nno\n")
    policy = Policy(Calibration("temperature", False, {"temperature": np.array(0.5)}))
    predict_file(Predictor(Length(), policy), source, tmp_path / "out.csv", columns=Columns(("text",)))
    header, first, _ = csv_of(tmp_path / "out.csv")
    assert header == ["text", "predicted_label", "predicted_probability"]
    assert float(first[2]) == pytest.approx(0.75**2 / (0.75**2 + 0.25**2))


def test_thresholds_of_several_labels(tmp_path: Path) -> None:
    source = written(tmp_path / "r.jsonl", '{"text": "l"}\n{"text": "x"}\n')
    policy = Policy(rule=Rule(thresholds=np.array([0.9, 0.2])))
    predict_file(Predictor(Length(multi=True), policy), source, tmp_path / "out.jsonl", columns=Columns(("text",)))
    assert [row["predicted_label"] for row in lines_of(tmp_path / "out.jsonl")] == [["short"], ["short"]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_left_to_a_person_have_no_label_and_sets_are_lists(tmp_path: Path, ending: str) -> None:
    source = written(tmp_path / "r.csv", "text\nlong\n")
    policy = Policy(rule=Rule(abstain_below=0.8, set_from=0.2, coverage=0.9))
    target = tmp_path / f"out.{ending}"
    assert predict_file(Predictor(Length(), policy), source, target, columns=Columns(("text",))).abstained == 1
    if ending == "csv":
        assert csv_of(target)[1] == ["long", "", "0.75", "True", "long;short"]
    else:
        (row,) = lines_of(target) if ending == "jsonl" else pq.read_table(target).to_pylist()
        assert (row["predicted_label"], row["abstained"], row["predicted_set"]) == (None, True, ["long", "short"])


def test_rows_that_a_quotation_mark_joins_are_told(tmp_path: Path) -> None:
    source = written(tmp_path / "in.tsv", "text\tn\none\t1\n" + '"two\t2\nthree"\t3\n' + "four\t4\n")
    summary = predict_file(Predictor(Length()), source, tmp_path / "out.tsv", columns=TEXT)
    assert summary.rows == 3
    assert [told.partition(",")[0] for told in summary.told] == [
        f"{source}:3: the quoted cell that begins here spans 2 lines"
    ]
    summary = predict_file(Predictor(Length()), source, tmp_path / "none.tsv", columns=TEXT, quoting="none")
    assert (summary.rows, summary.told) == (4, ())
    records = file_table(tmp_path / "none.tsv", ["text"], format=None, encoding="utf-8").records
    assert [cells for _, cells in records] == [["one"], ['"two'], ['three"'], ["four"]]


def test_a_list_of_json_becomes_lines(tmp_path: Path) -> None:
    source = written(tmp_path / "in.json", '[{"text": "one", "n": 1},\n {"text": "three", "n": null}]')
    predict_file(Predictor(Length()), source, tmp_path / "out.jsonl", columns=TEXT)
    assert [(row["n"], row["predicted_label"]) for row in lines_of(tmp_path / "out.jsonl")] == [
        (1, "short"),
        (None, "long"),
    ]
    with pytest.raises(DataError, match=r"in\.json: row 0: no column 'body'; there are: text, n"):
        predict_file(Predictor(Length()), source, tmp_path / "no.jsonl", columns=Columns(text=("body",)))
    stream = io.BytesIO()
    predict_file(Predictor(Length()), source, stream, columns=TEXT)
    assert json.loads(stream.getvalue().splitlines()[1])["predicted_label"] == "long"
    with pytest.raises(DataError, match="its ending names no format to write"):
        predict_file(Predictor(Length()), source, tmp_path / "out.json", columns=TEXT)


def test_an_answer_that_names_no_label_has_no_probability(tmp_path: Path) -> None:
    class Silent(Length):
        def predict_encoded(self, texts: Sequence[str], *progress: Any) -> Said:
            return said([[0.0, 0.0] if text == "?" else [0.0, 1.0] for text in texts])

    source = written(tmp_path / "r.jsonl", '{"text": "?"}\n{"text": "s"}\n')
    predict_file(Predictor(Silent()), source, tmp_path / "out.jsonl", columns=TEXT, empty="label")
    answers = [(row["predicted_label"], row["predicted_probability"]) for row in lines_of(tmp_path / "out.jsonl")]
    assert answers == [(None, None), ("short", 1.0)]
