"""The run folder: written whole or not at all, and every damage named."""

import json
import math
from pathlib import Path

import pytest

from lasttoken.errors import ArtifactError
from lasttoken.record import folder
from lasttoken.record.schema import FORMAT


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with folder.writing(tmp_path / "runs" / "a") as part:
        (part / "model").mkdir()
        (part / "model" / "head.txt").write_text("weights")
        (part / "report.html").write_text("old")
    return tmp_path / "runs" / "a"


def test_a_whole_run_verifies(made: Path) -> None:
    folder.verify(made)
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert list(manifest["sha256"]) == ["model/head.txt", "report.html"]
    # `printf weights | sha256sum`
    assert manifest["sha256"]["model/head.txt"] == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert [path.name for path in made.parent.iterdir()] == ["a"]


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="boom"), folder.writing(tmp_path / "a") as part:  # noqa: PT012 - a run that fails half-way
        (part / "x").write_text("x")
        raise KeyError("boom")
    with pytest.raises(KeyboardInterrupt), folder.writing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ArtifactError,
            match=r"a could not be written \(\[Errno 28\] No space left on device\); nothing was kept of it; make room",
        ),
        folder.writing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_taken(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a exists; name another folder with --out, or delete it first$"):
        folder.check_free(made)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"file is not a folder; name another with --out$"):
        folder.check_free(tmp_path / "file" / "deep" / "run")
    folder.check_free(tmp_path / "not" / "yet" / "there")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where even root cannot write")
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(ArtifactError, match=r"^/proc/a: cannot write in /proc \(.+\); name another with --out$"):
        folder.check_free(Path("/proc/a"))


def test_another_process_that_wrote_the_same_folder_is_told(tmp_path: Path) -> None:
    def write() -> None:
        with folder.writing(tmp_path / "a") as part:
            (part / "x").write_text("x")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "theirs").write_text("x")

    with pytest.raises(
        ArtifactError, match=r"a was written by another process meanwhile; what this one wrote is .*a-2$"
    ):
        write()
    assert (tmp_path / "a" / "theirs").exists()
    folder.verify(tmp_path / "a-2")


def test_a_folder_of_runs_is_told_from_a_run(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"holds 1 runs?; name the one you want: {made}$"):
        folder.verify(made.parent)
    with pytest.raises(ArtifactError, match=r"a is a run itself; name a folder for several with --out$"):
        folder.check_not_run(made)
    folder.check_not_run(tmp_path)


def test_a_missing_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a: no such run; `lasttoken train` makes one$"):
        folder.verify(tmp_path / "a")
    (tmp_path / ".a.17-1a2b3c4d.part").mkdir()
    with pytest.raises(ArtifactError, match=r"no such run; .*\.a\.17-1a2b3c4d\.part is unfinished; `lasttoken train`"):
        folder.verify(tmp_path / "a")


def test_every_damage_is_named(made: Path) -> None:
    (made / "report.html").write_text("made anew")
    folder.verify(made)
    (made / "model" / "head.txt").write_text("Weights")
    with pytest.raises(
        ArtifactError,
        match=r"head\.txt: damaged \(its sha256 is not the one in manifest\.json\); restore it or fit again$",
    ):
        folder.verify(made)
    (made / "model" / "head.txt").unlink()
    with pytest.raises(ArtifactError, match=r"head\.txt: missing; restore it or fit again$"):
        folder.verify(made)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("", r"manifest\.json: damaged \("),
        ("[]", r"manifest\.json: damaged; fit again$"),
        ('{"format": 1}', r"manifest\.json: damaged; fit again$"),
        ('{"format": 3, "sha256": {}}', r"a: written in format 3, this version reads up to 2; update lasttoken$"),
        ('{"format": "x", "sha256": {}}', r"manifest\.json: damaged"),
        ('{"format": 1, "sha256": []}', r"manifest\.json: damaged"),
    ],
)
def test_a_manifest_that_does_not_serve(made: Path, manifest: str, words: str) -> None:
    (made / "manifest.json").write_text(manifest)
    with pytest.raises(ArtifactError, match=words):
        folder.verify(made)


def test_no_manifest(made: Path) -> None:
    (made / "manifest.json").unlink()
    with pytest.raises(
        ArtifactError,
        match=r"manifest\.json: missing; this is no folder of a whole run, such as",
    ):
        folder.verify(made)


def test_json_has_no_nan(tmp_path: Path) -> None:
    folder.write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.5, -math.inf], "c": ("é", None)})
    assert (tmp_path / "x.json").read_text(
        encoding="utf-8"
    ) == '{\n "a": null,\n "b": [\n  1.5,\n  null\n ],\n "c": [\n  "é",\n  null\n ]\n}\n'
    assert folder.read_json(tmp_path / "x.json") == {"a": None, "b": [1.5, None], "c": ["é", None]}


def test_jsonl_is_one_row_a_line(tmp_path: Path) -> None:
    folder.write_jsonl(tmp_path / "x.jsonl", [{"a": 1}, {"a": math.inf}])
    assert (tmp_path / "x.jsonl").read_text() == '{"a": 1}\n{"a": null}\n'
