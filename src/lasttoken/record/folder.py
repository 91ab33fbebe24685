"""The run folder: written atomically (record/atomic.py) and verified by checksum before it is read.

manifest.json holds the format number and the sha256 of every other file. No format executes code on load: TOML, JSON,
JSONL, Parquet, safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lasttoken.errors import ArtifactError
from lasttoken.paths import escaped
from lasttoken.record.atomic import parts_of, writing_file, writing_folder
from lasttoken.record.schema import FORMAT
from lasttoken.wording import closest, first_line

EXPORT = "export.json"  # by which an exported model is known
MANIFEST = "manifest.json"
TRAINING = ".training"  # suffix of the folder with a training's checkpoints
INTERRUPTED = ".interrupted"  # suffix of an interrupted run that was trained again


def check_free(folder: Path) -> None:
    """Raises ArtifactError where a run cannot be written to `folder`; called before training."""
    if folder.exists():
        raise ArtifactError(f"{folder} exists; name another folder with --out, or delete it first")
    check_writable(folder)


def check_new(folder: Path) -> None:
    """As `check_free`, but accepts an interrupted run (Ctrl-C), which the same command trains again."""
    if cut_short(folder):
        check_writable(folder)
    else:
        check_free(folder)


def cut_short(folder: Path) -> bool:
    """Whether `folder` is a run that was interrupted by Ctrl-C."""
    metrics = folder / "metrics.json"
    found = read_json(metrics) if metrics.is_file() else {}
    return found.get("ended", found.get("end", {}).get("how")) == "interrupted"  # `ended` is format 1


def check_writable(folder: Path) -> None:
    """Raises ArtifactError where `folder`, or its closest existing parent, is not writable."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ArtifactError(f"{folder}: {place} is not a folder; name another with --out")
    try:
        with tempfile.TemporaryDirectory(dir=place):  # permissions do not reveal a read-only disk
            pass
    except OSError as error:
        raise ArtifactError(
            f"{folder}: cannot write in {place} ({error.strerror or error}); name another with --out"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` when the block succeeds and is removed otherwise.

    Raises ArtifactError where `folder` exists already or the disk is full.
    """
    check_free(folder)
    try:
        with writing_folder(folder) as part:
            yield part
            seal(part)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} could not be written ({error}); nothing was kept of it; make room, or name another with --out"
        ) from error


def seal(folder: Path) -> None:
    """Write the manifest and flush every file to disk."""
    digests = {name: digest(folder / name) for name in files(folder)}
    write_json(folder / MANIFEST, {"format": FORMAT, "sha256": digests})
    for name in [*digests, MANIFEST]:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def files(folder: Path) -> list[str]:
    """All files below `folder` except the manifest, as sorted relative names."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


def digest(path: Path) -> str:
    """The sha256 of a file, read in chunks."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            value.update(piece)
    return value.hexdigest()


def is_export(folder: Path) -> bool:
    """Whether `folder` is what `lasttoken export` wrote."""
    return (folder / EXPORT).is_file()


def check_run(folder: Path) -> None:
    """Raises ArtifactError where `folder` is not one run; its files are not verified."""
    if folder.is_file():
        raise ArtifactError(
            f"{folder} is a file, not the folder of a run; name the folder that `lasttoken train` wrote"
        )
    if not folder.is_dir():
        near = closest(folder.name, [one.parent.name for one in folder.parent.glob(f"*/{MANIFEST}")])
        hint = f"; did you mean {folder.with_name(near)}?" if near else ""
        if parts := parts_of(folder):
            hint = f"; {parts[0]} is unfinished"
        raise ArtifactError(f"{folder}: no such run{hint}; `lasttoken train` makes one")
    check_single(folder)


def verify(folder: Path) -> None:
    """Raises ArtifactError, naming the file, where a run is missing, damaged, or of a newer format.

    report.html is no part of what is verified: it is made anew from the rest at any time.
    """
    check_run(folder)
    verify_files(folder)


def verify_files(folder: Path) -> None:
    """Raises ArtifactError, naming the file, where a folder that `seal` wrote is damaged, or of a newer format."""
    again = "export again" if is_export(folder) else "fit again"
    manifest = read_json(folder / MANIFEST)
    kinds = {"format": int, "sha256": dict}
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(key), kind) for key, kind in kinds.items()):
        raise ArtifactError(f"{folder / MANIFEST}: damaged; {again}")
    if manifest["format"] > FORMAT:
        raise ArtifactError(
            f"{folder}: written in format {manifest['format']}, this version reads up to {FORMAT}; update lasttoken"
        )
    for name, wanted in manifest["sha256"].items():
        if name == "report.html":
            continue
        path = inside(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; restore it or {again}")
        if digest(path) != wanted:
            raise ArtifactError(f"{path}: damaged (its sha256 is not the one in {MANIFEST}); restore it or {again}")


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder. Raises ArtifactError where its name, or a link, leads out of it or nowhere."""
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, or with a NUL; a link to itself
        raise ArtifactError(f"{folder}: damaged, a file in it is named {name[:60]!r} ({first_line(error)})") from error
    if not within:
        raise ArtifactError(f"{path}: leads out of its folder; a run holds all of its files, restore it or fit again")
    return path


def check_not_run(folder: Path) -> None:
    """Raises ArtifactError where `folder`, meant to hold several runs, is a run itself."""
    if (folder / MANIFEST).exists():
        raise ArtifactError(f"{folder} is a run itself; name a folder for several with --out")


def check_single(folder: Path) -> None:
    """Raises ArtifactError where `folder` is not a run but holds runs, as `lasttoken compare` writes them."""
    inside = runs_in(folder)
    if inside != [folder]:
        several = "s" if len(inside) > 1 else ""
        names = ", ".join(map(str, inside))
        raise ArtifactError(f"{folder}: holds {len(inside)} run{several}; name the one you want: {names}")


def runs_in(folder: Path) -> list[Path]:
    """The run folders inside `folder`, without INTERRUPTED ones, or [folder] where there are none."""
    inside = [] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return [run for run in inside if not run.name.endswith(INTERRUPTED)] or [folder]


def checkpoints_of(run: Path) -> Path:
    """Where the checkpoints of a run's training are (train/checkpoints.py)."""
    return run.with_name(run.name + TRAINING)


def updates_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("update-*") if (path / MANIFEST).is_file())


def check_no_checkpoints(run: Path) -> None:
    """Raises ArtifactError where a training of `run` was not finished."""
    if updates_in(checkpoints_of(run)):
        raise ArtifactError(
            f"{checkpoints_of(run)} holds a training that was not finished; go on with --resume, or delete that folder"
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing_file(path) as file:
        file.write(escaped(text).encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON without NaN."""
    path.write_bytes(json_bytes(value, indent=1))


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    """Write one JSON object per line."""
    path.write_bytes(b"".join(map(json_bytes, rows)))


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """`value` as JSON with a final newline."""
    return (json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """`value` made valid for JSON: NaN and infinities become None, names that are not UTF-8 are escaped."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
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
