"""The container file: it passes a linter, copies what is there, and does not run as root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_it_copies_is_there_and_let_through() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.M) for name in line.split()]
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M)
    assert sorted(copied) == sorted(let_through)
    assert all((ROOT / name).exists() for name in copied)


def test_it_runs_as_nobody_special() -> None:
    assert re.findall(r"^USER (.+)$", TEXT, re.M)[-1] == "10001"
    assert TEXT.rindex("USER ") < TEXT.index("ENTRYPOINT")
