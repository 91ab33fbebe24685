"""The run folder: written whole or not at all, and read only when every byte is what was written.

A folder is filled as NAME.part and renamed when it is complete. Its manifest.json holds the format number and the
sha256 of every other file. Nothing in it executes on load: TOML, JSON, JSONL, Parquet, safetensors.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lasttoken.errors import ArtifactError

FORMAT = 1
MANIFEST = "manifest.json"
INTERRUPTED = ".interrupted"  # ends the name of a run that Ctrl-C cut short and that was fitted again


def check_free(folder: Path) -> None:
    """Raises ArtifactError where a run cannot be written to `folder`: before hours of training, not after."""
    if folder.exists():
        raise ArtifactError(f"{folder} exists; name another folder with --out, or delete it first")
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raises ArtifactError where nothing can be written in `folder`, or where it is not there, in the closest one above it."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ArtifactError(f"{folder}: {place} is not a folder; name another with --out")
    try:
        with tempfile.TemporaryDirectory(dir=place):  # permissions alone do not tell of a read-only disk
            pass
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot write in {place} ({error.strerror or error}); name another with --out"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` when the block ends well and is gone when it does not.

    Raises ArtifactError where `folder` exists already or the disk is full.
    """
    check_free(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # what an interrupted run left
    try:
        part.mkdir(parents=True)
        yield part
        seal(part)
        part.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        remedy = "another process wrote it meanwhile;" if folder.exists() else "make room, or"
        raise ArtifactError(
            f"{folder} could not be written ({error}); nothing was kept of it; {remedy} name another with --out"
        ) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def seal(folder: Path) -> None:
    """Write the manifest and flush every file to disk."""
    digests = {name: digest(folder / name) for name in files(folder)}
    write_json(folder / MANIFEST, {"format": FORMAT, "sha256": digests})
    for name in [*digests, MANIFEST]:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def files(folder: Path) -> list[str]:
    """Every file below `folder` but the manifest, as sorted relative names."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


def digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            value.update(piece)
    return value.hexdigest()


def check_run(folder: Path) -> None:
    """Raises ArtifactError where there is no run in `folder`; what it holds is not looked at."""
    if folder.is_file():
        raise ArtifactError(
            f"{folder} is a file, not the folder of a run; name the folder that `lasttoken train` wrote"
        )
    if not folder.is_dir():
        near = difflib.get_close_matches(
            folder.name, [one.parent.name for one in folder.parent.glob(f"*/{MANIFEST}")], n=1
        )
        hint = f"; did you mean {folder.with_name(near[0])}?" if near else ""
        if folder.with_name(folder.name + ".part").exists():
            hint = "; its .part folder is a run that never finished"
        raise ArtifactError(f"{folder}: no such run{hint}; `lasttoken train` makes one")
    check_single(folder)


def verify(folder: Path) -> None:
    """Raises ArtifactError, naming the file, where a run is missing, damaged, or of a newer format.

    report.html is no part of what is verified: it is made anew from the rest at any time.
    """
    check_run(folder)
    manifest = read_json(folder / MANIFEST)
    kinds = {"format": int, "sha256": dict}
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(key), kind) for key, kind in kinds.items()):
        raise ArtifactError(f"{folder / MANIFEST}: damaged; fit again")
    if manifest["format"] > FORMAT:
        raise ArtifactError(
            f"{folder}: written in format {manifest['format']}, this version reads up to {FORMAT}; update lasttoken"
        )
    for name, wanted in manifest["sha256"].items():
        path = folder / name
        if name == "report.html":
            continue
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; restore it or fit again")
        if digest(path) != wanted:
            raise ArtifactError(f"{path}: damaged (its sha256 is not the one in {MANIFEST}); restore it or fit again")


def check_not_run(folder: Path) -> None:
    """Raises ArtifactError where several runs are to go into a folder that is a run itself."""
    if (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder} is a run itself; name a folder for several with --out")


def check_single(folder: Path) -> None:
    """Raises ArtifactError where `folder` holds runs and is none, as what `lasttoken compare` writes."""
    inside = runs_in(folder)
    if inside != [folder]:
        several = "s" if len(inside) > 1 else ""
        names = ", ".join(map(str, inside))
        raise ArtifactError(f"{folder}: holds {len(inside)} run{several}; name the one you want: {names}")


def runs_in(folder: Path) -> list[Path]:
    """The run folders that `folder` holds, or itself where it holds none; not what was fitted again."""
    inside = [] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return [run for run in inside if not run.name.endswith(INTERRUPTED)] or [folder]


def write_text(path: Path, text: str) -> None:
    """A file of text, written whole: PATH.part first, renamed when it is on disk."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON, one indent a level, no NaN."""
    path.write_text(json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def plain(value: Any) -> Any:
    """`value` with what JSON cannot hold (NaN, infinities) as null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ArtifactError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: missing; this is no folder of a whole run, such as `lasttoken train` writes"
        ) from error
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); fit again") from error
