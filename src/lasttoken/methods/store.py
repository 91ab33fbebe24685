"""Arrays too large for memory, kept on disk by the digest of what they depend on.

A file of the cache is an ordinary safetensors file with one tensor, mapped into memory: what is not read is not
loaded. Its header has a fixed size, so that the array can be filled in place before the metadata is known. What was
used least recently makes room for what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.errors import ConfigError

ROOM = 50.0  # GB that the cache may take, unless LASTTOKEN_CACHE_GB says otherwise
ABANDONED = 86_400  # seconds after which an array that was never finished is taken for a killed process's
MADE_BY = ("lasttoken", "torch", "transformers", "tokenizers", "bitsandbytes")
HEADER = 4096  # bytes, its length field included; safetensors allows spaces at the end of its JSON
TYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(np.uint16)}  # numpy has no bfloat16: its bits, as integers


@dataclass(frozen=True, eq=False)
class Stored:
    """An array, and where it came from."""

    array: np.ndarray
    seconds: float  # that filling it took, when it was filled
    origin: str  # a sentence for the user; empty where it was computed and kept


def stored(
    digest: str, shape: tuple[int, ...], kind: str, fill: Callable[[np.ndarray], None], *, what: str = "features"
) -> Stored:
    """The array of `shape` that `fill` writes, from the cache where that holds it already.

    kind: F32 or BF16. Where the disk has no room the array is kept in memory, and `origin` says so.
    """
    path, limit = cache_folder() / f"{what}-{digest}.safetensors", cache_limit()
    with suppress(OSError, ValueError, KeyError):  # none, or a damaged one, which is made anew below
        array, seconds = read(path, shape, kind)
        with suppress(OSError):  # a cache that others may only read
            os.utime(path)
        return Stored(array, seconds, f"{what} from the cache ({path})")
    part, problem = path.with_name(f"{path.name}.{os.getpid()}.part"), ""
    began = time.perf_counter()
    try:
        array = create(part, shape, kind)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"{what} are not kept in {path.parent} ({error}); the next fit computes them again"
        array = np.zeros(shape, TYPES[kind])
    try:
        fill(array)
        seconds = time.perf_counter() - began
        if not problem:
            finish(part, array, kind, seconds)
            part.rename(path)
            make_room(path, limit)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Stored(array, seconds, problem)


def create(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """A new file's array, mapped for writing. Its room is reserved first: a full disk is an OSError now, not a crash later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = HEADER + int(np.prod(shape)) * TYPES[kind].itemsize
    with path.open("wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return np.memmap(path, TYPES[kind], "r+", HEADER, shape) if np.prod(shape) else np.zeros(shape, TYPES[kind])


def finish(path: Path, array: np.ndarray, kind: str, seconds: float) -> None:
    """Write the header, which makes the file whole."""
    if isinstance(array, np.memmap):
        array.flush()
    entry = {"dtype": kind, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    text = json.dumps({"__metadata__": {"seconds": f"{seconds:.3f}"}, "array": entry}).encode()
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", HEADER - 8) + text.ljust(HEADER - 8))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, shape: tuple[int, ...], kind: str) -> tuple[np.ndarray, float]:
    """(the array, mapped for reading; its seconds). Raises OSError or ValueError where the file is not what `finish` wrote."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    header = json.loads(start[8:])
    size = HEADER + int(np.prod(shape)) * TYPES[kind].itemsize
    if header["array"]["shape"] != list(shape) or header["array"]["dtype"] != kind or path.stat().st_size != size:
        raise ValueError(f"{path}: another array")
    array = np.memmap(path, TYPES[kind], "r", HEADER, shape) if np.prod(shape) else np.zeros(shape, TYPES[kind])
    return array, float(header["__metadata__"]["seconds"])


def make_room(newest: Path, limit: float) -> None:
    """Remove the files beside `newest` that were used least recently, until all take no more than `limit` bytes."""
    total, now = newest.stat().st_size, time.time()
    others: list[tuple[float, int, Path]] = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # another process was quicker, or has it open where that holds a file
            found = path.stat()
            if path.suffix == ".part" and now - found.st_mtime > ABANDONED:
                path.unlink()
            elif path.suffix == ".safetensors" and path != newest:
                others.append((found.st_mtime, found.st_size, path))
    for _, size, path in sorted(others, reverse=True):
        total += size
        if total > limit:
            with suppress(OSError):
                path.unlink()


def digest(values: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The name of an array: sha256 over all that it depends on, every text and the libraries that made it included."""
    made_by = [version(library) for library in MADE_BY]
    whole = hashlib.sha256(json.dumps([dict(values), made_by], sort_keys=True).encode())
    for text in texts:
        whole.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()[:32]


def cache_limit() -> float:
    """Bytes that the cache may take: LASTTOKEN_CACHE_GB, or ROOM. Raises ConfigError where that is no number."""
    told = os.environ.get("LASTTOKEN_CACHE_GB") or ROOM
    try:
        return float(told) * 1e9
    except ValueError as error:
        raise ConfigError([f"LASTTOKEN_CACHE_GB: {told!r} is no number of gigabytes; write it as 50"]) from error


def cache_folder() -> Path:
    """Where arrays are kept: LASTTOKEN_CACHE, or lasttoken in the user's cache folder. Safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("LASTTOKEN_CACHE") or Path(base) / "lasttoken")
