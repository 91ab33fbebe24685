"""`predict RUN FOLDER -o FOLDER`: parts through the real command line, killed again and again, and from standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PARTS_KEPT = "parts that were finished are kept, and the same command goes on with the others"
PARTS_WOULD = "with -o FOLDER/ parts that are finished are kept"


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sources(place: Path, rows: list[dict[str, str]], times: int) -> Path:
    """A folder of a CSV and a JSONL file, some rows of which cannot be read."""
    place.mkdir()
    texts = [row["text"] for row in rows] * times
    with (place / "a.csv").open("w") as file:
        file.write("text,n\n")
        for i, text in enumerate(texts):
            quoted = text.replace('"', "'")
            file.write(f'"{quoted}",{i}\n' if i % 97 else f"{i},too,many\n")
    with (place / "b.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts))
    return place


def test_a_folder_goes_in_and_a_folder_of_parts_comes_out(
    command: Callable[..., Any], runs: dict[str, Path], rows: list[dict[str, str]], tmp_path: Path
) -> None:
    place = sources(tmp_path / "in", rows, 1)
    said = command(
        "predict", runs["embedding"], place, "-o", tmp_path / "out", "--part", 40, "--json", "--device", "cpu"
    )
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["files"], told["parts"], told["rows"], told["bad"]) == (2, 6, 198, 2)
    assert "198 rows of 2 files labelled in 6 parts" in said.err
    assert f"2 rows could not be read: {tmp_path / 'out'}/errors/ says why" in said.err
    single = command("predict", runs["embedding"], place / "b.jsonl", "-o", tmp_path / "one.jsonl", "--device", "cpu")
    assert single.code == 0, single.err
    parts = [tmp_path / f"out/00001-b-00000{i}.jsonl" for i in range(3)]
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    wanted = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [row["n"] for row in found] == list(range(100))
    assert [row["predicted_label"] for row in found] == [row["predicted_label"] for row in wanted]


def test_other_options_are_refused_in_a_folder_that_has_a_job(
    command: Callable[..., Any], runs: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    words = ["predict", runs["linear"], table, "-o", f"{tmp_path}/out/"]
    assert command(*words).code == 0
    for more, told in (
        (("--out-format", "jsonl"), "--out-format (not given there, jsonl here)"),
        (("--probs",), "--probs (not given there, given here)"),
        (("--strict",), "--strict (not given there, given here)"),
    ):
        said = command(*words, *more)
        assert (said.code, f"holds a job that differs in {told}" in said.err) == (2, True), said.err
    said = command("predict", runs["linear"], tmp_path / "out", "-o", f"{tmp_path}/out/")
    assert f"{tmp_path}/out: is the input; name another folder for the parts" in said.err


def test_what_was_read_of_a_bad_file_is_kept_and_told(
    command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + b"some text\n" * 200_000 + b"\xe9\n")
    words = ["predict", runs["linear"], tmp_path / "a.csv", "-o", f"{tmp_path}/out/", "--json"]
    for kept in (0, 10):
        said = command(*words)
        assert said.code == 2
        told = json.loads(said.out)
        assert (told["rows"], told["parts"], told["kept"], len(told["unread"])) == (200_000, 10, kept, 1)
        assert "1 file could not be read, or not to the end" in said.err
        assert "is not UTF-8" in said.err
    assert "is not UTF-8" in (tmp_path / "out/errors/00000-a.jsonl").read_text()


def test_sigterm_ends_a_job_with_a_sentence(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + b"some text\n" * 400_000)
    line = [sys.executable, "-m", "lasttoken.cli.main", "predict", str(runs["linear"]), str(tmp_path / "a.csv")]
    line += ["-o", f"{tmp_path}/out/", "--workers", "2"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as job:
        ends = time.monotonic() + 100
        while not (tmp_path / "out/00000-a-000000.csv").exists():
            assert time.monotonic() < ends
            time.sleep(0.01)
        job.terminate()
        _, told = job.communicate(timeout=60)
    assert (job.returncode, told.splitlines()[-1]) == (
        143,
        f"lasttoken: stopped by SIGTERM; {PARTS_KEPT}",
    )
    assert "semaphore" not in told


def test_sigterm_leaves_nothing_of_a_single_file(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + b"some text\n" * 400_000)
    line = [sys.executable, "-m", "lasttoken.cli.main", "predict", str(runs["linear"]), str(tmp_path / "a.csv")]
    with subprocess.Popen([*line, "-o", str(tmp_path / "b.csv")], stderr=subprocess.PIPE, text=True) as job:
        ends = time.monotonic() + 100
        while not list(tmp_path.glob(".b.csv.*.part")):
            assert time.monotonic() < ends
            time.sleep(0.01)
        job.terminate()
        _, told = job.communicate(timeout=60)
    assert (job.returncode, told.splitlines()[-1]) == (
        143,
        f"lasttoken: stopped by SIGTERM; {tmp_path / 'b.csv'} was not written; {PARTS_WOULD}",
    )
    assert not list(tmp_path.glob(".b.csv.*.part"))
    assert not (tmp_path / "b.csv").exists()


def test_standard_input_comes_out_in_parts(process: Callable[..., Any], runs: dict[str, Path], tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(50))
    words = ("predict", runs["linear"], "-", "--format", "jsonl", "-o", f"{tmp_path}/out/", "--part", 20)
    done = process(*words, stdin=lines)
    assert done.returncode == 0, done.stderr
    again = process(*words, stdin=lines)
    assert (again.returncode, b"standard input cannot be gone on with, so name a new folder" in again.stderr) == (
        2,
        True,
    )
    assert sum(part.read_bytes().count(b"\n") for part in (tmp_path / "out").glob("0*.jsonl")) == 50


def test_a_packed_file_goes_in_and_a_file_comes_out(
    command: Callable[..., Any], runs: dict[str, Path], tmp_path: Path
) -> None:
    import gzip

    (tmp_path / "new.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    said = command("predict", runs["linear"], tmp_path / "new.jsonl.gz", "-o", tmp_path / "out.jsonl")
    assert said.code == 0, said.err
    assert (tmp_path / "out.jsonl").read_bytes().count(b"predicted_label") == 2


@pytest.mark.slow
def test_killed_thirty_times_it_is_the_undisturbed_job(
    command: Callable[..., Any], runs: dict[str, Path], rows: list[dict[str, str]], tmp_path: Path
) -> None:
    place = sources(tmp_path / "in", rows, 100)
    words = [str(word) for word in ("predict", runs["linear"], place, "--part", 20)]
    said = command(*words, "-o", tmp_path / "whole")
    assert said.code == 0, said.err
    given = [*words, "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "tests/killed.py", "30", "3", "0.6", "--", *given],
        env=os.environ | {"KILLED_LOG": str(tmp_path / "log")},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    told = json.loads(done.stdout)
    assert told["code"] == 0, (tmp_path / "log").read_text()
    assert told["kills"] >= 10, told
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_for_parts_is_refused_without(refused: Callable[..., str], runs: dict[str, Path], table: Path) -> None:
    run = runs["linear"]
    assert refused("predict", run, table, "--strict", "-o", "a.csv") == (
        "--strict, --part, --engine and --workers are for parts; name a folder to write to: -o labelled/"
    )
    assert (
        refused("predict", run, table.parent)
        == f"{table.parent}: many rows go to a folder of parts; name one: -o labelled/"
    )
    assert refused("predict", run, table, "-o", "out/", "--overwrite") == (
        "--overwrite: a folder of parts is gone on with, not replaced; name another, or delete it"
    )
    assert "no such file" in refused("predict", run, table.with_name("docstring.csv"), "-o", "out/")
