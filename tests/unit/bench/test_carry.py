"""What tools/carry.py puts into its folder, without fetching anything."""

from __future__ import annotations

import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "tools"))


def wheel(path: Path, *names: str) -> Path:
    """A wheel of small files."""
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, "x")
    return path


def files(folder: Path) -> list[str]:
    """The files in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_bitsandbytes_keeps_two_of_its_libraries(tmp_path: Path) -> None:
    from carry import unpack

    libraries = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda126", "cuda130", "rocm72")]
    names = ["bitsandbytes/nn.py", *libraries]
    unpack(wheel(tmp_path / "bitsandbytes-1-py3-none-any.whl", *names), tmp_path / "out")
    assert files(tmp_path / "out") == ["bitsandbytes/libbitsandbytes_cpu.so", libraries[2], "bitsandbytes/nn.py"]
    unpack(wheel(tmp_path / "core-1-cp312-cp312-linux.whl", "core/_core.so"), tmp_path / "core")
    assert files(tmp_path / "core") == ["core/_core.so"]


def test_the_copy_tells_its_version_and_may_lack_weights(tmp_path: Path) -> None:
    from carry import copy_lasttoken

    copy_lasttoken(tmp_path, weights=False)
    assert [found.version for found in distributions(name="lasttoken", path=[str(tmp_path)])] == ["0.1.0"]
    tiny = tmp_path / "lasttoken/model/tiny"
    assert (tiny / "tokenizer.json").exists()
    assert not (tiny / "model.safetensors").exists()
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    from carry import check_size

    (tmp_path / "large").write_bytes(bytes(3 << 20))
    (tmp_path / "small").write_bytes(bytes(1 << 20))
    assert check_size(tmp_path, 4.0) == 4.0
    with pytest.raises(SystemExit, match=r"4\.0 MiB are more than 3\.5; .*large 3\.0, small 1\.0"):
        check_size(tmp_path, 3.5)


def test_versions_are_those_that_tests_run_with() -> None:
    from carry import PACKAGES, pinned

    found = pinned(PACKAGES)
    assert [one.partition("==")[0].lower().replace("-", "_") for one in found] == [
        one.lower().replace("-", "_") for one in PACKAGES
    ]
    assert all("==" in one for one in found)
