"""`lasttoken predict` with finished runs: every format, pipes, and every row and column kept."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.evaluation.predictions import read_predictions

LABELS = ["numpy", "pandas", "python", "torch"]


@pytest.fixture(scope="module")
def new(rows: Sequence[dict[str, str]], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rows without labels, with a column of their own."""
    content = [{"n": i, "text": row["text"], "note": f'a "{i}", b'} for i, row in enumerate(rows[:20])]
    return write(tmp_path_factory.mktemp("new") / "new.csv", content)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that was written."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in content.splitlines()]
    return list(csv.DictReader(io.StringIO(content, newline="")))


@pytest.mark.parametrize("method", ["linear", "probe", "embedding"])
def test_csv_to_csv(command: Callable[..., Any], runs: dict[str, Path], new: Path, tmp_path: Path, method: str) -> None:
    said = command("predict", runs[method], new, "-o", tmp_path / "out.csv", "--probs", "--device", "cpu")
    assert said.code == 0, said.err
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("20 rows labelled in ")
    before, after = read(new), read(tmp_path / "out.csv")
    assert [{name: row[name] for name in ("n", "text", "note")} for row in after] == before
    added = ["predicted_label", "predicted_probability", *(f"p({name})" for name in LABELS)]
    assert list(after[0]) == ["n", "text", "note", *added]
    for row in after:
        probs = {name: float(row[f"p({name})"]) for name in LABELS}
        assert sum(probs.values()) == pytest.approx(1)
        assert row["predicted_label"] == max(probs, key=probs.__getitem__)
        assert float(row["predicted_probability"]) == max(probs.values())


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_other_formats_hold_the_same(
    command: Callable[..., Any], runs: dict[str, Path], new: Path, tmp_path: Path, ending: str
) -> None:
    first, second = tmp_path / f"out.{ending}", tmp_path / "again.csv"
    for source, target in ((new, tmp_path / "out.csv"), (new, first)):
        assert command("predict", runs["linear"], source, "-o", target).code == 0
    wanted = read(tmp_path / "out.csv")
    if ending == "tsv":
        assert first.read_text().splitlines()[0].split("\t") == list(wanted[0])
    else:
        assert [{name: str(cell) for name, cell in row.items()} for row in read(first)] == wanted
    back = [row for row in wanted if row.pop("predicted_label") and row.pop("predicted_probability")]
    assert back == read(new)
    assert not second.exists()


def test_parquet_in_keeps_types(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    content = pa.table({"text": ["an array", "a frame"], "n": pa.array([1, None], pa.int16())})
    pq.write_table(content, tmp_path / "new.parquet")
    said = command("predict", runs["linear"], tmp_path / "new.parquet", "-o", tmp_path / "out.parquet")
    assert said.code == 0, said.err
    assert pq.read_table(tmp_path / "out.parquet").select(["text", "n"]).equals(content)


def test_predictions_are_those_that_the_run_was_judged_by(
    command: Callable[..., Any], runs: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    said = command("predict", runs["linear"], table, "-o", tmp_path / "out.csv", "--probs")
    assert said.code == 0, said.err
    judged, found = read_predictions(runs["linear"] / "predictions/test.parquet"), read(tmp_path / "out.csv")
    for row, probs in zip(judged.ids, judged.probs.tolist(), strict=True):
        assert [float(found[int(row)][f"p({name})"]) for name in LABELS] == pytest.approx(
            probs, abs=1e-12
        )  # float64 sums


def test_pipe(process: Callable[..., Any], runs: dict[str, Path], new: Path) -> None:
    """Standard input to standard output, in a process of its own."""
    done = process("predict", runs["linear"], "-", "--format", "csv", stdin=new.read_bytes())
    assert done.returncode == 0, done.stderr.decode()
    found = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    assert [row["note"] for row in found] == [f'a "{i}", b' for i in range(20)]
    assert {row["predicted_label"] for row in found} <= set(LABELS)
    assert done.stderr.decode().splitlines()[-1].startswith("20 rows labelled in ")


def test_standard_output_in_another_format(command: Callable[..., Any], runs: dict[str, Path], new: Path) -> None:
    said = command("predict", runs["linear"], new, "--out-format", "jsonl", "--json")
    assert said.code == 0, said.err
    assert [json.loads(line)["n"] for line in said.out.splitlines()] == [str(i) for i in range(20)]
    assert json.loads(said.err.splitlines()[0])["rows"] == 20  # stdout holds the data


def test_json(command: Callable[..., Any], runs: dict[str, Path], new: Path, tmp_path: Path) -> None:
    said = command("predict", runs["linear"], new, "-o", tmp_path / "out.csv", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out).keys() == {"rows", "empty", "truncated", "seconds", "abstained", "without", "told"}


def test_rows_that_a_quotation_mark_joins_are_told(
    command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "new.tsv").write_text('text\tn\none\t1\n"two\t2\nthree"\t3\n', encoding="utf-8")
    said = command("predict", runs["linear"], tmp_path / "new.tsv")
    assert (said.code, len(said.out.splitlines())) == (0, 4)  # the header, a row, and one on two lines
    assert "new.tsv:3: the quoted cell that begins here spans 2 lines" in said.err
    assert "2 rows labelled" in said.err
    said = command("predict", runs["linear"], tmp_path / "new.tsv", "--quoting", "none")
    assert "quoted cell" not in said.err
    assert "3 rows labelled" in said.err


def test_text_column_of_another_name(command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("body\nan array\n\n")
    said = command("predict", runs["linear"], tmp_path / "new.csv", "--text", "body")
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == "body,predicted_label,predicted_probability"
    assert ", 1 of them without a letter, digit or emoji (given no label)" in said.err


def test_one_text_from_the_command_line(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    said = command("predict", runs["linear"], "--text-is", 'a "tensor"\n{of} numbers')
    assert said.code == 0, said.err
    (row,) = [json.loads(line) for line in said.out.splitlines()]
    assert list(row) == ["text", "predicted_label", "predicted_probability"]
    assert row["text"] == 'a "tensor"\n{of} numbers'
    assert row["predicted_label"] in LABELS


def test_plain_lines_of_a_pipe_are_texts(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    said = command("predict", runs["linear"], "-", stdin="an array, or two\n\ncaf\u00e9\n".encode())
    assert said.code == 0, said.err
    assert [json.loads(line)["text"] for line in said.out.splitlines()] == ["an array, or two", "", "caf\u00e9"]
    assert said.err.splitlines()[0].startswith("<stdin>: read as one text per line; ")
    assert said.err.splitlines()[-1].startswith("3 rows labelled in ")
    one = command("predict", runs["linear"], "-", "--encoding", "latin-1", stdin="caf\u00e9".encode("latin-1"))
    assert json.loads(one.out)["text"] == "caf\u00e9"


def test_json_lines_of_a_pipe_are_rows(command: Callable[..., Any], runs: dict[str, Path]) -> None:
    said = command("predict", runs["linear"], "-", stdin=b'{"n": 1, "text": "an array"}\n{"n": 2, "text": "a frame"}\n')
    assert said.code == 0, said.err
    assert [json.loads(line)["n"] for line in said.out.splitlines()] == [1, 2]
    assert "one text a line" not in said.err


def test_overwrite(command: Callable[..., Any], runs: dict[str, Path], new: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    said = command("predict", runs["linear"], new, "-o", tmp_path / "out.csv", "--overwrite")
    assert said.code == 0, said.err
    assert len(read(tmp_path / "out.csv")) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
