"""What shells do: streams that are closed, full or latin-1, paths left as they were typed, names that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

WORDS = [sys.executable, "-m", "lasttoken.cli.main"]
CLOSED = "lasttoken: standard output is closed; send it to a file, or to /dev/null\n"
HEAVY = ["torch", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "datasets"]
LATIN = os.fsdecode(b"donn\xe9es")  # a name in latin-1, as old archives and disks have them
ADDRESS = "s3:// is an address, not a local path; copy the file or folder here, or write to a local one and copy that"


def rows() -> str:
    return "text,label\n" + "".join(
        f"the {word} number {i} – été,{word}\n" for i in range(20) for word in ("goal", "price")
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with rows.csv; the tests run in another one, which is empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "home" / "rows.csv").write_text(rows())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def shell(line: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`line` in a shell, with the command in the place of $@."""
    words = ["bash", "-c", line, "lasttoken", *WORDS, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, timeout=120, check=False, **options)


def verbs(runs: dict[str, Path], table: Path, out: Path) -> list[list[object]]:
    """A command of each verb that ends soon."""
    return [
        ["train", table, "--method", "linear", "--out", out / "run"],
        ["compare", table, "--methods", "linear", "--out", out / "runs"],
        ["predict", runs["linear"], table],
        ["explain", runs["linear"], "array of numbers"],
        ["report", runs["linear"], "--out", out / "report.html"],
        ["check", table],
        ["--help"],
    ]


# Streams


@pytest.mark.parametrize("verb", range(7))
def test_closed_output_is_told_before_any_work(verb: int, runs: dict[str, Path], table: Path, tmp_path: Path) -> None:
    words = verbs(runs, table, tmp_path)[verb]
    said = shell('"$@" >&-', *words)
    assert (said.returncode, said.stderr.decode()) == (2, CLOSED)
    silent = shell('"$@" >&- 2>&- <&-', *words)
    assert (silent.returncode, silent.stdout, silent.stderr) == (2, b"", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", range(7))
def test_a_reader_that_has_gone_ends_the_command_without_a_word(
    verb: int, runs: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    read, write = os.pipe()
    os.close(read)
    words = [*WORDS, *map(str, verbs(runs, table, tmp_path)[verb])]
    said = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(write)
    assert said.returncode == 141
    assert "Traceback" not in said.stderr
    assert "Exception" not in said.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a stream without room")
@pytest.mark.parametrize("verb", range(7))
def test_output_without_room_is_told(verb: int, runs: dict[str, Path], table: Path, tmp_path: Path) -> None:
    said = shell('"$@" >/dev/full', *verbs(runs, table, tmp_path)[verb])
    assert said.returncode == 2
    last = said.stderr.decode().splitlines()[-1]
    assert last.startswith(("lasttoken: standard output could not be written (", "lasttoken: the output could not be "))
    assert "No space left on device" in last


def test_words_that_find_no_room_do_not_end_the_work(table: Path, tmp_path: Path) -> None:
    for line in ('"$@" 2>/dev/full', '"$@" 2>&-'):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        said = shell(line, "train", table, "--method", "linear", "--out", out)
        assert said.returncode == 0
        assert said.stdout.decode().startswith(out.name)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_an_encoding_lacks_is_escaped(encoding: str, home: Path) -> None:
    """The text of the finding holds a dash, which neither encoding has, and a word that latin-1 has."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    (home / "rows.csv").write_text("text,label\n" + "été – plage,été\nété – plage,hiver\n" * 20)
    for words in (["check", "~/rows.csv"], ["train", "~/rows.csv", "--method", "linear", "--out", "été – run"]):
        said = shell('"$@"', *words, env=environment)
        assert said.returncode == 0, said.stderr
        assert b"Traceback" not in said.stderr
    if encoding == "latin-1":  # typer writes UTF-8 where a terminal claims to have ASCII alone
        assert said.stdout.startswith("été \\u2013 run on ".encode("latin-1"))


def test_output_in_latin_1_is_not_guessed_at(home: Path, command: Callable[..., Any]) -> None:
    """Data that passes through is UTF-8, whatever the terminal's encoding: it goes to a file as often."""
    assert command("train", "~/rows.csv", "--method", "linear", "--out", "run").code == 0
    said = shell('"$@"', "predict", "run", "~/rows.csv", env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert said.stdout.decode().splitlines()[1].startswith("the goal number 0 – été,goal,")


# Paths


def test_the_home_folder_is_found_wherever_a_path_is_given(home: Path, command: Callable[..., Any]) -> None:
    (home / "tree.csv").write_text("label,parent\ngoal,any\nprice,any\nany,\n")
    for part in ("valid", "test"):
        (home / f"{part}.csv").write_text(rows().replace("the ", f"{part}: a "))
    words = ["--method", "linear", "--valid", "~/valid.csv", "--test=~/test.csv", "--hierarchy", "~/tree.csv"]
    for verb in (
        ["train", "~/rows.csv", *words, "--out=~/x"],
        ["compare", "~/rows.csv", "--methods", "linear", "--out=~/y"],
        ["predict", "~/x", "~/rows.csv", "--out=~/o.csv"],
        ["report", "~/x", "--out=~/r.html"],
        ["check", "~/rows.csv", "--out=~/c.csv", "--fix=~/f.csv"],
        ["explain", "~/x", "goal"],
    ):
        said = command(*verb)
        assert said.code == 0, said.err
    assert list(Path().iterdir()) == []
    expected = ["c.csv", "f.csv", "o.csv", "r.html", "rows.csv", "test.csv", "tree.csv", "valid.csv", "x", "y"]
    assert sorted(path.name for path in home.iterdir()) == expected


def test_the_home_folder_is_found_from_python(home: Path) -> None:
    from lasttoken import Columns, Data, EmbeddingClassifier, Linear, LinearClassifier, load, read_rows, study

    LinearClassifier(min_count=1).fit(["a goal", "a price"] * 10, ["goal", "price"] * 10).save("~/x")
    assert load("~/x").classes_.tolist() == ["goal", "price"]
    assert len(read_rows("~/rows.csv", columns=Columns(("text",)))) == 40
    assert study(Data(source="~/rows.csv"), {"linear": Linear()}, "~/y").folders == [home / "y" / "linear"]
    assert EmbeddingClassifier("~/model")._run().method.model == str(home / "model")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["train", "rows.csv", "--method", "linear", "--out", "s3://b/x"],
        ["train", "s3://b/x", "--method", "linear"],
        ["train", "rows.csv", "--method", "linear", "--test=s3://b/x"],
        ["train", "rows.csv", "--method", "embedding", "--model", "s3://b/x"],
        ["train", "rows.csv", "--method", "embedding", "--set", "method.model=s3://b/x"],
        ["compare", "rows.csv", "--out", "s3://b/x"],
        ["predict", "s3://b/x", "rows.csv"],
        ["report", "s3://b/x"],
        ["report", "run", "-o", "s3://b/x"],
        ["check", "rows.csv", "--fix", "s3://b/x"],
        ["explain", "s3://b/x", "text"],
        ["demo", "--out", "s3://b/x"],
    ],
    ids=" ".join,
)
def test_an_address_is_refused_at_once(words: list[str], home: Path, refused: Callable[..., str]) -> None:
    Path("rows.csv").write_text(rows())
    assert refused(*words) == f"s3://b/x: {ADDRESS}"


@pytest.mark.parametrize("name", ["exp:1", LATIN, "a b", "-x"])
def test_names_of_any_kind(name: str, home: Path, command: Callable[..., Any]) -> None:
    """A colon makes an address for Arrow; bytes that are not UTF-8 cannot be written into a text file as they are."""
    data = Path(f"./{name}.csv")
    data.write_text(rows())
    out, table = Path(f"./{name}"), Path(f"./{name}.parquet")
    place = f"./{name}"
    for verb in (
        ["train", f"{place}.csv", "--method", "linear", "--out", place],
        ["predict", place, f"{place}.csv", "-o", f"{place}.parquet"],
        ["report", place, "-o", f"{place}.html"],
        ["check", f"{place}.csv"],
        ["compare", f"{place}.csv", "--methods", "linear", "--out", f"{place}s"],
        ["compare", f"{place}.csv", "--methods", "linear", "--out", f"{place}s"],
    ):
        said = command(*verb)
        assert said.code == 0, said.err
    assert "linear: kept from before, " in said.err
    with table.open("rb") as stream:
        labelled = pq.read_table(stream)
    assert labelled.num_rows == 40
    with table.open("wb") as stream:
        pq.write_table(labelled.select(["text"]), stream)
    assert command("predict", place, f"{place}.parquet", "-o", f"{place}.tsv").code == 0
    assert len(Path(f"{place}.tsv").read_text(encoding="utf-8").splitlines()) == 41
    shown = "donn\\xe9es" if name == LATIN else name
    assert json.loads((out / "metrics.json").read_text())["name"] == shown
    assert f"{shown}" in Path(f"{place}.html").read_text(encoding="utf-8")
    for file in out.glob("*.*"):
        if file.suffix in (".json", ".toml", ".html", ".jsonl"):
            file.read_text(encoding="utf-8")


# One rule for what is there already


def test_a_report_replaces_nothing_unasked(home: Path, command: Callable[..., Any]) -> None:
    assert command("train", "~/rows.csv", "--method", "linear", "--out", "run").code == 0
    Path("notes.html").write_text("mine")
    assert command("report", "run").code == 0
    for name in ("report.html", "notes.html"):
        before = Path(name).read_bytes()
        said = command("report", "run", "-o", name)
        assert (said.code, said.out) == (2, "")
        assert said.err == f"lasttoken: {name} exists; name another file, or replace it with --overwrite\n"
        assert Path(name).read_bytes() == before
        assert command("report", "run", "-o", name, "--overwrite").code == 0
        assert b"<html" in Path(name).read_bytes()[:200]


def test_the_second_of_two_commands_is_refused(home: Path, tmp_path: Path) -> None:
    """Both are given at once, some rounds: one has the run, the other is told; nothing is left over."""
    words = [*WORDS, "train", str(home / "rows.csv"), "--method", "linear", "--out"]
    for i in range(3):
        pair = [subprocess.Popen([*words, f"run{i}"], stdout=-1, stderr=-1, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120) for process in pair]
        assert sorted(process.returncode for process in pair) == [0, 2]
        (err,) = [err for process, (_, err) in zip(pair, said, strict=True) if process.returncode]
        assert f"run{i}: another process is writing it" in err or f"run{i} exists; name another" in err
    assert sorted(path.name for path in Path().iterdir()) == ["run0", "run1", "run2"]


# Waiting for a word


def loaded(*words: object) -> tuple[list[str], str]:
    """(the heavy libraries that a command loaded, its last line on stderr)."""
    code = (
        "import sys; from lasttoken.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    *_, last, modules = done.stderr.splitlines()
    return eval(modules), last  # our own print of a list


def refusals(table: Path, run: Path) -> list[tuple[Sequence[object], str]]:
    return [
        (["train", table, "--method", "embedding", "--label", "lable"], "no column 'lable'; did you mean 'label'?"),
        (["train", table, "--method", "embedding", "--model", "nosuch"], "model 'nosuch' not found: searched the"),
        (
            ["train", table, "--method", "embedding", "--model", "tinny"],
            "; did you mean 'tiny'? Or give a local folder",
        ),
        (["train", table, "--method", "embedding", "--model", "no/such/folder"], "model 'no/such/folder' not found"),
        (["compare", table, "--label", "lable"], "no column 'lable'"),
        (["compare", table, "--model", "nosuch"], "model 'nosuch' not found: searched the folder ./nosuch, the cache"),
        (["predict", run, table, "--text", "body"], "no column 'body'"),
        (["check", table, "--label", "lable"], "no column 'lable'"),
        (["plan", table, "--label", "lable"], "no column 'lable'"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_a_mistake_is_told_before_anything_heavy_is_imported(case: int, table: Path, runs: dict[str, Path]) -> None:
    words, sentence = refusals(table, runs["embedding"])[case]
    began = time.monotonic()
    modules, last = loaded(*words)
    assert sentence in last
    assert modules == []
    assert time.monotonic() - began < 10  # half a second on an idle machine; with torch and transformers eight


def test_a_linear_run_never_waits_for_torch(home: Path) -> None:
    for words in (
        ["train", "~/rows.csv", "--method", "linear", "--out", "run"],
        ["compare", "~/rows.csv", "--methods", "linear", "--out", "runs"],
        ["predict", "run", "~/rows.csv", "-o", "labelled.csv"],
        ["explain", "run", "a goal"],
        ["report", "run"],
    ):
        modules, last = loaded(*words)
        assert not last.startswith("lasttoken: "), last
        assert not {"torch", "transformers", "datasets"} & set(modules), words
    assert json.loads(Path("run/env.json").read_text())["device"] == "cpu"
