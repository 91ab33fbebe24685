"""Many writers of one name: what is there is whole, nobody is told of a file that is not his, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lasttoken.errors import ArtifactError
from lasttoken.record.atomic import claimed, part_of, writing_file, writing_folder
from lasttoken.record.folder import verify, writing

PROCESSES, ROUNDS = 4, 40
OLD = time.time() - 3600

# Each of several processes writes the same names, round by round, and prints what it was told of each.
RACE = """
import json, sys
from pathlib import Path
from lasttoken.errors import ArtifactError
from lasttoken.record.atomic import claimed, writing_file
from lasttoken.record.folder import write_text, writing

me, told = sys.argv[1], []
print("ready", flush=True)
sys.stdin.readline()

def folder(path):
    with writing(path) as part:
        for name in "abcde":
            (part / name).write_text(me)

def alone(path):
    with claimed(path):
        folder(path)

def file(path):
    with writing_file(path, replace=False) as stream:
        stream.write(me.encode() * 1000)

for i in range(int(sys.argv[2])):
    for write in (folder, alone, file):
        try:
            write(Path(f"{write.__name__}{i}"))
            told.append([write.__name__, i, "written"])
        except ArtifactError as error:
            told.append([write.__name__, i, str(error)])
    write_text(Path("text"), me * 1000)
print(json.dumps(told))
"""


def test_processes_that_write_one_name(tmp_path: Path) -> None:
    words = [[sys.executable, "-c", RACE, str(i), str(ROUNDS)] for i in range(PROCESSES)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    started = [subprocess.Popen(one, **pipes) for one in words]  # type: ignore[call-overload]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n", timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    written = Counter[str]()
    for me, told in enumerate(map(json.loads, said)):
        for kind, i, answer in told:
            place = tmp_path / f"{kind}{i}"
            if "what this one wrote is" in answer:
                place = tmp_path / answer.rpartition(" ")[2]
            elif answer != "written":
                assert "exists; name another" in answer or "another process is writing it" in answer
                continue
            else:
                written[place.name] += 1
            if kind == "file":
                assert place.read_text() == str(me) * 1000
            else:
                verify(place)
                assert {name: (place / name).read_text() for name in "abcde"} == dict.fromkeys("abcde", str(me))
    names = {f"{kind}{i}" for kind in ("folder", "alone", "file") for i in range(ROUNDS)}
    assert written == dict.fromkeys(names, 1)
    assert (tmp_path / "text").read_text() in [str(me) * 1000 for me in range(PROCESSES)]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


HOLD = """
import sys, time
from pathlib import Path
from lasttoken.record.atomic import claimed, writing_file, writing_folder

place = Path(sys.argv[1])
with claimed(place), writing_file(place / "file"), writing_folder(place / "folder"):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(how: signal.Signals, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    place.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with (
            pytest.raises(ArtifactError, match=r"runs: another process is writing it; wait until it ends"),
            claimed(place),
        ):
            pass
        parts = sorted(place.iterdir())
        assert len(parts) == 2
        for part in parts:
            os.utime(part, (OLD, OLD))
        again(place)
        assert sorted(place.glob(".*")) == parts  # whose writer lives
    finally:
        process.send_signal(how)
        process.communicate(timeout=20)
    with claimed(place):
        again(place)
    assert sorted(path.name for path in place.iterdir()) == ["file", "folder"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def again(place: Path) -> None:
    """Write both names once more."""
    with writing_file(place / "file"):
        pass
    if (place / "folder").exists():
        (place / "folder").rmdir()
    with writing_folder(place / "folder"):
        pass


def test_a_young_part_without_a_lock_stays(tmp_path: Path) -> None:
    """Between making a file and locking it a writer has no lock."""
    young, old = part_of(tmp_path / "a"), part_of(tmp_path / "a")
    young.touch()
    old.touch()
    os.utime(old, (OLD, OLD))
    with writing_file(tmp_path / "a"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "a"]


def test_a_claim_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with claimed(tmp_path / "not" / "yet" / "run"):
        assert [path.name for path in (tmp_path / "not" / "yet").iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path / "runs" / "a"), writing(tmp_path / "runs" / "a"):
        pass
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


def test_a_file_that_fails_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(KeyError, match="boom"), writing_file(tmp_path / "a") as stream:  # noqa: PT012 - fails half-way
        stream.write(b"half")
        raise KeyError("boom")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]


def test_a_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with writing_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    with claimed(tmp_path / ("ü" * 127)), writing_file(tmp_path / ("ü" * 127)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["ü" * 127]
