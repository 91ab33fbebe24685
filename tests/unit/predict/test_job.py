"""Jobs of parts: every row once, in order; what is committed is kept; what cannot be read is listed with its reason."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.cli.parts import amount
from lasttoken.data.read import Columns
from lasttoken.errors import ArtifactError, DataError
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.predict import parts as parts_module
from lasttoken.predict.driver import run_job
from lasttoken.predict.engines import Engine, Here
from lasttoken.predict.job import Job, JobSummary
from lasttoken.predict.options import Input, Output
from lasttoken.predict.parts import bounds
from lasttoken.predict.places import InputFile, OutputFolder, inputs_of, is_many
from lasttoken.predictor import Predictor


class Length:
    """A classifier by rule, which counts the texts it was given."""

    labels, encode, on_accelerator = LabelSpace(("long", "short")), staticmethod(list), False

    def __init__(self) -> None:
        self.seen = 0

    def predict_encoded(self, texts: Sequence[str]) -> Said:
        self.seen += len(texts)
        p = np.array([0.75 if len(text) > 6 else 0.25 for text in texts])
        return Said(np.column_stack([p, 1 - p]), np.zeros(len(texts), dtype=np.int64))


def run(
    source: str | Path,
    out: str | Path,
    *,
    model: Length | None = None,
    part: int = 4,
    engine: Engine | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    **options: Any,
) -> JobSummary:
    reads = Input(Columns(text=("text",)), options.pop("format", None))
    made_by = {"run": "digest", "settings": {"empty": options.get("empty", "blank")}}
    writes = Output(options.pop("out_format", None), options.pop("probs", False), empty=options.pop("empty", "blank"))
    files = inputs_of(str(source), str(out))
    job = Job(files, OutputFolder(str(out)), reads, writes, made_by, part=part, **options)
    given: Any = model or Length()
    return run_job(job, lambda: closing(engine or Here(lambda: Predictor(given))), progress=progress)


def table(path: Path, rows: int) -> Path:
    path.write_text("text,n\n" + "".join(f'"row, {i}",{i}\n' for i in range(rows)))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_row_once_and_in_order(tmp_path: Path) -> None:
    done = run(table(tmp_path / "a.csv", 10), tmp_path / "out", probs=True)
    assert (done.files, done.parts, done.rows, done.bad, done.kept) == (1, 3, 10, 0, 0)
    assert names(tmp_path / "out") == [*(f"00000-a-00000{i}.csv" for i in range(3)), "done.json", "job.json"]
    parts = [(tmp_path / f"out/00000-a-00000{i}.csv").read_text() for i in range(3)]
    rows = [row for part in parts for row in csv.DictReader(part.splitlines())]
    assert [row["n"] for row in rows] == [str(i) for i in range(10)]
    assert rows[0] == {
        "text": "row, 0", "n": "0", "predicted_label": "short", "predicted_probability": "0.75", "p(long)": "0.25", "p(short)": "0.75",
    }  # fmt: skip
    told = json.loads((tmp_path / "out/done.json").read_text())
    assert told == {"files": 1, "unread": 0, "parts": 3, "rows": 10, "bad": 0}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_progress_is_in_bytes_of_the_inputs(ending: str, tmp_path: Path) -> None:
    """So that the time left is known though the number of rows is not; also of parts that were there before."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        plain, target = table(tmp_path / f"{name}.csv", 10), tmp_path / "in" / f"{name}{ending}"
        if ending == ".parquet":
            pd.read_csv(plain).to_parquet(target, row_group_size=10)
        else:
            target.write_bytes(gzip.compress(plain.read_bytes()) if ending == ".csv.gz" else plain.read_bytes())
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    seen = list[tuple[int, int, int]]()
    run(tmp_path / "in", tmp_path / "out", progress=lambda *told: seen.append(told))
    assert [rows for rows, _, _ in seen] == [4, 8, 10, 14, 18, 20]
    assert {whole for _, _, whole in seen} == {size}
    done = [done for _, done, _ in seen]
    assert done[-1] == pytest.approx(size, abs=2)
    if ending != ".csv.gz":  # a packed file this small is read at once
        assert np.diff(done).min() > 0.05 * size
    next((tmp_path / "out").glob("00001-b-000001*")).unlink()
    again = list[tuple[int, int, int]]()
    run(tmp_path / "in", tmp_path / "out", progress=lambda *told: again.append(told))
    assert len(again) == 1  # what was there is not told: its time would be taken for that of a part
    assert 0.6 * size < again[0][1] < size + 2


def test_progress_is_told_in_rows_where_sizes_are_not_known() -> None:
    assert amount(40, 0, 0) == ("rows", 40, 0)
    assert amount(40, 1_200, 2_000_000) == ("kB of the input labelled", 1, 2000)
    assert amount(40, 1_200_000, 200_000_000) == ("MB of the input labelled", 1, 200)


def test_a_file_that_ends_early_counts_as_done(tmp_path: Path) -> None:
    """So that the time left of the others is right."""
    (tmp_path / "in").mkdir()
    table(tmp_path / "in/a.csv", 10)
    (tmp_path / "in/b.csv").write_bytes(table(tmp_path / "b.csv", 10).read_bytes() + b"\xff\xfe" * 500)
    table(tmp_path / "in/c.csv", 10)
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    seen = list[tuple[int, int, int]]()
    run(tmp_path / "in", tmp_path / "out", progress=lambda *told: seen.append(told))
    assert seen[-1][1:] == (pytest.approx(size, abs=3), size)


def test_a_job_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    source, out = table(tmp_path / "a.csv", 10), tmp_path / "out"
    run(source, out)
    whole = {name: (out / name).read_bytes() for name in names(out)}
    for gone in ("00000-a-000001.csv", "done.json"):
        (out / gone).unlink()
    (out / ".00000-a-000001.csv.1-aa.part").write_bytes(b"half")
    model = Length()
    done = run(source, out, model=model)
    assert (done.rows, done.kept, model.seen) == (10, 2, 4)
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_another_job_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    source, out = table(tmp_path / "a.csv", 10), tmp_path / "out"
    run(source, out)
    with pytest.raises(
        ArtifactError, match=r"holds a job that differs in --part \(4 there, 5 here\); give its command again"
    ):
        run(source, out, part=5)
    with pytest.raises(ArtifactError, match=r"differs in --empty \(blank there, label here\)"):
        run(source, out, empty="label")
    table(source, 11)
    with pytest.raises(ArtifactError, match=r"differs in inputs"):
        run(source, out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"holds 'notes.txt' and no job.json; name an empty or new folder"):
        run(source, tmp_path / "other")
    (out / "job.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"job.json: damaged"):
        run(source, out)


BAD = 'text,n\n"a",0\nb,1,2\nc,2\n"d",3\ne\nf,5\n'


def test_rows_that_cannot_be_read_are_listed_with_their_part(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BAD)
    done = run(tmp_path / "a.csv", tmp_path / "out", part=2)
    assert (done.rows, done.bad, done.parts) == (4, 2, 2)
    errors = [
        [json.loads(line) for line in (tmp_path / f"out/errors/00000-a-00000{i}.jsonl").read_text().splitlines()]
        for i in range(2)
    ]
    assert [[row["line"] for row in part] for part in errors] == [[3], [6]]
    assert errors[0][0] == {
        "file": str(tmp_path / "a.csv"),
        "line": 3,
        "error": f"{tmp_path / 'a.csv'}:3: 3 fields, expected 2; put quotes around a field that holds a comma",
    }
    again = run(tmp_path / "a.csv", tmp_path / "out", part=2)
    assert (again.rows, again.bad, again.kept) == (4, 2, 2)
    with pytest.raises(DataError, match="3 fields, expected 2"):
        run(tmp_path / "a.csv", tmp_path / "strict", part=2, strict=True)
    assert not (tmp_path / "strict").exists()


def test_bad_rows_of_json_and_behind_the_last_part(tmp_path: Path) -> None:
    lines = [
        '{"text": "a"}',
        "{nope",
        '{"text": {"a": 1}}',
        "[1]",
        '{"other": 1}',
        '{"text": "\\ud800"}',
        '{"text": "b"}',
        "7",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    done = run(tmp_path / "a.jsonl", tmp_path / "out", part=3)
    assert (done.rows, done.bad, done.parts) == (2, 6, 2)
    errors = [
        json.loads(line)
        for path in sorted((tmp_path / "out/errors").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert sorted(row["line"] for row in errors) == [2, 3, 4, 5, 6, 8]
    assert (tmp_path / "out/00000-a-000001.jsonl").read_bytes() == b""


def test_a_mistake_in_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body\nx\n")
    (tmp_path / "b.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n')
    with pytest.raises(DataError, match="no column 'text'"):
        run(tmp_path / "a.csv", tmp_path / "out")
    with pytest.raises(DataError, match=r"b.jsonl: no row can be read; the first: .*no column 'text'"):
        run(tmp_path / "b.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_a_folder_packed_or_not(tmp_path: Path) -> None:
    place = tmp_path / "in"
    (place / "deep").mkdir(parents=True)
    table(place / "b.csv", 3)
    with gzip.open(place / "deep/a.jsonl.gz", "wt") as stream:
        stream.write('{"text": "packed"}\n')
    with pa.OSFile(str(place / "c.jsonl.zst"), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as stream:
        stream.write(b'{"text": "also packed"}\n')
    pd.DataFrame({"text": ["x", "y"]}).to_parquet(place / "d.parquet")
    for name in ("_SUCCESS", ".hidden.csv", "notes.md"):
        (place / name).touch()
    done = run(place, tmp_path / "out")
    assert (done.files, done.rows) == (4, 7)
    assert [name for name in names(tmp_path / "out") if name[0] == "0"] == [
        "00000-b-000000.csv", "00001-c-000000.jsonl", "00002-d-000000.parquet", "00003-a-000000.jsonl",
    ]  # fmt: skip
    assert run(f"{place}/*.csv", tmp_path / "globbed").rows == 3
    with pytest.raises(DataError, match="no file ending in"):
        run(f"{place}/*.txt", tmp_path / "none")


def test_a_damaged_packed_file_is_told(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.jsonl.gz: not a packed file, or truncated"):
        run(tmp_path / "a.jsonl.gz", tmp_path / "out")


def test_parquet_goes_by_row_groups_and_skips_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pa.table({"text": [f"row {i}" for i in range(23)], "n": list(range(23))})
    with pq.ParquetWriter(tmp_path / "a.parquet", frame.schema) as file:
        for begin, end in ((0, 1), (1, 3), (3, 4), (4, 14), (14, 23)):
            file.write_table(frame.slice(begin, end - begin))
    assert list(bounds([1, 2, 1, 10, 9], 4)) == [2, 3, 4]
    done = run(tmp_path / "a.parquet", tmp_path / "out")
    assert (done.parts, done.rows) == (1 + 3 + 3, 23)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [4, 4, 4, 2, 4, 4, 1]
    assert pd.concat(map(pd.read_parquet, parts))["n"].tolist() == list(range(23))
    parts[2].unlink()
    read = list[Any]()
    real = parts_module.parquet_table
    monkeypatch.setattr(parts_module, "parquet_table", lambda *a, **k: read.append(list(k["groups"])) or real(*a, **k))
    assert run(tmp_path / "a.parquet", tmp_path / "out").kept == 6
    assert read == [[3]]


def test_object_stores(tmp_path: Path) -> None:
    """fsspec's file system in memory stands for s3 and the like: an object is whole or not there."""
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/in/a.csv", table(tmp_path / "a.csv", 10).read_bytes())
    done = run("memory://bucket/in", "memory://bucket/out")
    assert (done.rows, done.parts) == (10, 3)
    store.rm("/bucket/out/00000-a-000001.csv")
    model = Length()
    assert run("memory://bucket/in/*.csv", "memory://bucket/out", model=model).kept == 2
    assert model.seen == 4
    whole = b"".join(store.cat_file(f"/bucket/out/00000-a-00000{i}.csv") for i in range(3))
    assert whole.count(b"row, ") == 10
    with pytest.raises(DataError, match=r"pip install gcsfs"):
        inputs_of("gs://bucket/a.csv", "out")
    with pytest.raises(DataError, match=r"file:// is not known; there are s3://"):  # it writes in place
        is_many("in", "file:///tmp/out")
    with pytest.raises(DataError, match=r"no such file"):
        run("memory://bucket/none.csv", "memory://bucket/none")


def test_a_file_that_cannot_be_read_does_not_end_the_others(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a.csv", "c.csv"):
        table(place / name, 5)
    (place / "b.csv").write_bytes(b"text,n\n\xff,1\n")
    (place / "d.parquet").write_bytes(b"PAR1 no")
    done = run(place, tmp_path / "out")
    assert (done.files, done.rows, len(done.unread)) == (4, 10, 2)
    assert "is not UTF-8" in done.unread[0]
    assert json.loads((tmp_path / "out/errors/00001-b.jsonl").read_text())["file"] == str(place / "b.csv")
    again = run(place, tmp_path / "out")
    assert (again.rows, again.kept, again.unread) == (10, 4, done.unread)
    with pytest.raises(DataError, match="is not UTF-8"):
        run(place, tmp_path / "strict", strict=True)


def test_mistakes_of_a_whole_file_are_no_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,predicted_label\nx,y\n")
    with pytest.raises(DataError, match="has a column 'predicted_label' already; rename it"):
        run(tmp_path / "a.csv", tmp_path / "out")
    (tmp_path / "b.jsonl").write_text("{nope\n" * 5000)
    with pytest.raises(DataError, match="4096 rows one after another cannot be read; the first: "):
        run(tmp_path / "b.jsonl", tmp_path / "out")
    with pytest.raises(DataError, match="parts of Parquet made from text"):
        run(table(tmp_path / "c.csv", 3), tmp_path / "out", out_format="parquet")
    with pytest.raises(DataError, match=r"no such file; did you mean a.csv\?"):
        run(tmp_path / "aa.csv", tmp_path / "out")


def test_an_output_inside_the_input_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    table(place / "a.csv", 5)
    assert run(place, place / "out").rows == 5
    assert run(place, place / "out").kept == 2


def test_a_file_without_rows_can_be_given_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\n")
    for _ in range(2):
        assert run(tmp_path / "a.csv", tmp_path / "out").rows == 0


def test_a_file_that_changed_in_the_middle_is_another(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text\n" + "x" * 3_000_000 + "\n")
    run(source, tmp_path / "out")
    with source.open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"y")
    os.utime(source, ns=(1, 1))
    with pytest.raises(ArtifactError, match="differs in inputs"):
        run(source, tmp_path / "out")


def test_what_is_a_job(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", 1)
    file, folder = str(tmp_path / "a.csv"), str(tmp_path)
    outs = ("-", "out.csv", "out", "out.txt", "out/", folder)
    assert [is_many(file, out) for out in outs] == [False] * 4 + [True] * 2
    assert is_many(folder, "out")
    for many, out in ((folder, "out.csv"), (f"{folder}/*.csv", "-"), ("s3://a/b.csv", "-")):
        with pytest.raises(DataError, match="many rows go to a folder of parts; name one: -o labelled/"):
            is_many(many, out)
    assert is_many(file, "s3://a/out")
    assert not is_many(None, "-")
    assert InputFile("x/rows.v2.csv.gz").stem == "rows.v2"
