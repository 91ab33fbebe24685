"""`lasttoken check` from the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROWS = 'body,mark,extra\n"same, text",x,1\n"same, text",x,2\n"same, text",y,3\n,y,4\n"bell\x07",y,5\nlast,x,6\n'


def test_findings_and_a_fixed_copy(command: Callable[..., Any], tmp_path: Path) -> None:
    source, fixed, places = tmp_path / "rows.csv", tmp_path / "fixed.csv", tmp_path / "places.csv"
    source.write_text(ROWS, encoding="utf-8")
    said = command("check", source, "--text", "body", "--label", "mark", "--fix", fixed, "-o", places)
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == f"{source}: 6 rows, ids counted from 0, 3 findings to look at first"
    assert "    id 3\n" in said.out
    assert "! empty: 1 of 6 rows have no text" in said.out
    assert "! conflicts: 1 text occurs with different labels" in said.out
    left_out, then = said.err.splitlines()[-2:]
    assert left_out == f"{fixed}: 1 row left out, invisible characters removed from 1 text"
    assert then.startswith(f"next, once what ! marks is mended (conflicts, rare-labels): lasttoken compare {fixed} ")
    with fixed.open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["extra"] for row in kept] == [
        "1",
        "2",
        "3",
        "5",
        "6",
    ]  # a text under two labels is not for us to settle
    assert kept[3]["body"] == "bell"
    with places.open(encoding="utf-8", newline="") as file:
        assert {row["finding"] for row in csv.DictReader(file)} >= {"empty", "conflicts", "characters"}
    again = command("check", source, "--text", "body", "--label", "mark", "--fix", fixed)
    assert again.code == 2
    assert "exists; name another file" in again.err


def test_rows_without_a_label_are_found_and_left_out(
    command: Callable[..., Any], write: Callable[..., Path], rows: Sequence[dict[str, str]], tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.csv", [row | {"label": ""} if i in (3, 7) else row for i, row in enumerate(rows)])
    refused = command("train", source, "--method", "linear", "--out", tmp_path / "out")
    assert (refused.code, "2 rows have nothing in column 'label'" in refused.err) == (2, True)
    said = command("check", source, "--fix", tmp_path / "fixed.csv")
    assert said.code == 0, said.err
    assert "! unlabelled: 2 of 100 rows have no label" in said.out
    kept = command("train", source, "--drop-empty", "--method", "linear", "--out", tmp_path / "out")
    assert kept.code == 0, kept.err
    assert f"linear: {source}: 2 rows without label left out" in kept.err
    again = command("train", tmp_path / "fixed.csv", "--method", "linear", "--out", tmp_path / "again")
    assert again.code == 0, again.err


def test_files_of_their_own_for_the_parts(command: Callable[..., Any], tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\none is here,x\ntwo is here,y\n", encoding="utf-8")
    test.write_text("text,label\none is here,x\nsomething else,z\n", encoding="utf-8")
    said = command("check", train, "--test", test, "--json")
    assert said.code == 0, said.err
    found = {finding["kind"]: finding for finding in json.loads(said.out)}
    assert found["copies-across-splits"]["places"] == [
        {"id": "0", "detail": "train: one is here"},
        {"id": "test:0", "detail": "test: one is here"},
    ]
    assert found["unseen-labels"]["places"] == [{"id": "test:1", "detail": "test: 'z'"}]
    again = command("check", train, "--test", test, "--fix", tmp_path / "fixed.csv")
    assert (again.code, "run it once per file" in again.err) == (2, True)


def test_a_label_that_every_row_has_is_a_finding(command: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("text,label\none is here,x\ntwo is here,x\n", encoding="utf-8")
    said = command("check", source)
    assert "! one-label: there is one label, 'x'" in said.out
    assert "next" not in said.err  # there is nothing to compare


def test_json(command: Callable[..., Any], table: Path) -> None:
    said = command("check", table, "--max-length", 20, "--json")
    assert said.code == 0, said.err
    found = {finding["kind"]: finding for finding in json.loads(said.out)}
    assert found["truncated"]["places"]


def test_mistakes(refused: Callable[..., str], table: Path) -> None:
    assert refused("check", table, "--model", "nobody/nothing").startswith(
        "--model nobody/nothing: its tokenizer is not"
    )
    assert refused("check", "hub:a/b", "--fix", "x.csv") == "--fix: hub:a/b is not a file; save it as one first"
