"""The real command line, real rows, and a few finished runs that the tests share."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "python": "", "torch": "torch"}
FAST = ("--device", "cpu", "--set", "method.max_length=48")  # of the methods that read tokens


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str  # stdout
    err: str  # stderr


@pytest.fixture(scope="session")
def command() -> Callable[..., Said]:
    """command(verb, ..., stdin=b"") -> Said: `lasttoken` in this process, as its entry point runs it."""

    def call(*arguments: object, stdin: bytes = b"") -> Said:
        from lasttoken.cli.main import main

        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lasttoken", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as stopped:
                main()
        said = {}
        for name, stream in streams.items():
            stream.flush()
            said[name] = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
        return Said(int(stopped.value.code or 0), said["stdout"], said["stderr"])

    return call


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """process(verb, ..., stdin=b"") -> the finished process of `lasttoken`, for what only a process has."""

    def call(*arguments: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-m", "lasttoken.cli.main", *map(str, arguments)]
        return subprocess.run(words, input=stdin, capture_output=True, timeout=120, check=False, **options)

    return call


@pytest.fixture(scope="session")
def write() -> Callable[[Path, Sequence[dict[str, Any]]], Path]:
    """write(path, rows) -> path, now a CSV file of the rows."""

    def make(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
        with path.open("w", encoding="utf-8", newline="") as file:
            pen = csv.DictWriter(file, list(rows[0]))
            pen.writeheader()
            pen.writerows(rows)
        return path

    return make


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """100 docstrings of four libraries, 25 of each, that say which library and module they are from."""
    from lasttoken.data.demo import docstring_rows

    found = docstring_rows(rows=100, libraries=LIBRARIES)
    assert found.labels is not None
    assert found.groups is not None
    together = zip(found.ids, found.texts, found.labels, found.groups, strict=True)
    return [{"name": i, "text": text, "label": names[0], "module": group} for i, text, names, group in together]


@pytest.fixture(scope="session")
def table(rows: list[dict[str, str]], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of `rows`."""
    return write(tmp_path_factory.mktemp("rows") / "docstrings.csv", rows)


@pytest.fixture(scope="session")
def runs(
    command: Callable[..., Said], table: Path, folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Three runs on the same rows: linear; probe on the embedded model; embedding on a random one, one epoch."""
    out = tmp_path_factory.mktemp("runs")
    options = {
        "linear": (),
        "probe": ("--model", "tiny", *FAST),
        "embedding": ("--model", folder("llama"), *FAST, "--set", "method.train.epochs=1"),
    }
    for method, more in options.items():
        said = command("train", table, "--method", method, "--out", out / method, *more)
        assert said.code == 0, said.err
    return {method: out / method for method in options}


@pytest.fixture
def refused(command: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused(verb, ...) -> the one sentence on stderr of a command that ends with 2 and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, stdin: bytes = b"") -> str:
        before = sorted(tmp_path.rglob("*"))
        said = command(*arguments, stdin=stdin)
        assert (said.code, said.out) == (2, ""), said.err
        assert "Traceback" not in said.err
        assert sorted(tmp_path.rglob("*")) == before
        *_, sentence = [line for line in said.err.splitlines() if line.startswith("lasttoken: ")]
        return said.err[said.err.index(sentence) :].removeprefix("lasttoken: ").rstrip("\n")

    return call


@pytest.fixture(scope="session", autouse=True)
def no_colour_of_the_outside() -> None:
    """What a terminal would change is not the matter of these tests."""
    os.environ.pop("FORCE_COLOR", None)
