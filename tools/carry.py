"""A folder with what a GPU's machine lacks to run bench/gpu.py, for machines without a network.

    python tools/carry.py FOLDER [--most 64] [--without-model]
    PYTHONPATH=FOLDER python bench/gpu.py --out RESULTS             # on the GPU's machine

That machine has Python 3.12 on Linux x86-64, torch for CUDA 13.0, and transformers, peft, accelerate and triton. Wheels
are fetched by pip and unpacked: bitsandbytes with two of its libraries, and small packages. lasttoken is copied; the weights
of `tiny`, most of its size, are not needed for anything but the quality of toy models.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON, PLATFORMS = "3.12", ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")
LIBRARIES = ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")  # of the dozen that its wheel holds
SETTINGS = ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions")
WORDS = ("tomli_w", "defusedxml", "rich", "markdown-it-py", "mdurl", "pygments")
TESTS = ("pytest", "pluggy", "iniconfig", "packaging")
PACKAGES = ("bitsandbytes", *SETTINGS, *WORDS, *TESTS)
MB = 1 << 20


def plain(name: str) -> str:
    """A package's name as pip compares it."""
    return name.lower().replace("-", "_")


def pinned(names: Iterable[str]) -> list[str]:
    """Requirements of the versions in constraints.txt; by name alone where it has none."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    known = {plain(line.partition("==")[0]): line for line in lines if "==" in line}
    return [known.get(plain(name), name) for name in names]


def fetch(folder: Path) -> list[Path]:
    """The wheels of PACKAGES, in `folder`."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    options = ["--only-binary=:all:", "--no-deps", "--python-version", PYTHON, *platforms, "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
    subprocess.run([*command, *pinned(PACKAGES)], check=True)
    return sorted(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> None:
    """A wheel's files, without libraries of bitsandbytes that are not used there."""
    with zipfile.ZipFile(wheel) as packed:
        unused = wheel.name.startswith("bitsandbytes-")
        for name in packed.namelist():
            if not (unused and name.endswith(".so") and Path(name).name not in LIBRARIES):
                packed.extract(name, folder)


def copy_lasttoken(folder: Path, *, weights: bool) -> None:
    """The package, and the metadata by which importlib knows its version."""
    left_out = shutil.ignore_patterns("__pycache__", *(() if weights else ("model.safetensors",)))
    shutil.copytree(ROOT / "src/lasttoken", folder / "lasttoken", ignore=left_out)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / f"lasttoken-{project['version']}.dist-info"
    about.mkdir()
    words = (
        f"Metadata-Version: 2.1\nName: lasttoken\nVersion: {project['version']}\nSummary: {project['description']}\n"
    )
    (about / "METADATA").write_text(words, encoding="utf-8")


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_size(folder: Path, most: float) -> float:
    """MiB of the folder. Exits, with its largest files, if they are more than `most`."""
    size = size_of(folder) / MB
    if size > most:
        largest = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
        told = ", ".join(f"{path.relative_to(folder)} {path.stat().st_size / MB:.1f}" for path in largest[:5])
        raise SystemExit(
            f"{folder}: {size:.1f} MiB are more than {most:g}; its largest files are {told}; add --without-model, or raise --most"
        )
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--most", type=float, default=64.0, help="MiB that it may take")
    parser.add_argument("--without-model", action="store_true", help="leave the weights of `tiny` out")
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"{asked.folder} exists; name a new folder, or remove it")
    asked.folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        for wheel in fetch(Path(work)):
            unpack(wheel, asked.folder)
    copy_lasttoken(asked.folder, weights=not asked.without_model)
    print(f"{asked.folder}: {check_size(asked.folder, asked.most):.1f} MiB; use it as PYTHONPATH={asked.folder}")


if __name__ == "__main__":
    main()
