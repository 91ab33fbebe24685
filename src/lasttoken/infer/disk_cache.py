"""Disk cache of large arrays, keyed by a digest of their inputs; the least recently used files are evicted.

A cache file is an ordinary safetensors file with one tensor, memory-mapped, so that only what is read is loaded. Its
header has a fixed size: the array is filled in place before the metadata is known.
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
from lasttoken.paths import cache_folder

ROOM = 50.0  # GB, the cache's size limit unless LASTTOKEN_CACHE_GB is set
ABANDONED = 86_400  # seconds; an older unfinished file is left over from a killed process
MADE_BY = ("lasttoken", "torch", "transformers", "tokenizers", "bitsandbytes")
HEADER = 4096  # bytes, including its length field; safetensors allows trailing spaces in its JSON
TYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(np.uint16)}  # numpy has no bfloat16: its bits as integers


@dataclass(frozen=True, eq=False)
class CachedArray:
    """An array and its origin."""

    array: np.ndarray
    seconds: float  # time that computing it took, now or when it was cached
    origin: str  # message for the user; empty if it was computed and cached now


def cached_array(
    digest: str, shape: tuple[int, ...], kind: str, fill: Callable[[np.ndarray], None], *, what: str = "features"
) -> CachedArray:
    """The array of `shape`: read from the cache, or computed by `fill` and cached.

    kind: F32 or BF16. If the disk is full the array stays in memory, and `origin` says so.
    """
    path, limit = cache_folder() / f"{what}-{digest}.safetensors", cache_limit()
    with suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged: computed again below
        array, seconds = read(path, shape, kind)
        with suppress(OSError):  # a read-only cache
            os.utime(path)
        return CachedArray(array, seconds, f"{what} from the cache ({path})")
    part, problem = path.with_name(f"{path.name}.{os.getpid()}.part"), ""
    began = time.perf_counter()
    try:
        array = create(part, shape, kind)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"{what} are not cached in {path.parent} ({error}); the next fit computes them again"
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
    return CachedArray(array, seconds, problem)


def create(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The array of a new file, mapped for writing. Raises OSError if the disk is full: the space is reserved first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = HEADER + int(np.prod(shape)) * TYPES[kind].itemsize
    with path.open("wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return np.memmap(path, TYPES[kind], "r+", HEADER, shape) if np.prod(shape) else np.zeros(shape, TYPES[kind])


def finish(path: Path, array: np.ndarray, kind: str, seconds: float) -> None:
    """Write the header, which completes the file."""
    if isinstance(array, np.memmap):
        array.flush()
    entry = {"dtype": kind, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    text = json.dumps({"__metadata__": {"seconds": f"{seconds:.3f}"}, "array": entry}).encode()
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", HEADER - 8) + text.ljust(HEADER - 8))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, shape: tuple[int, ...], kind: str) -> tuple[np.ndarray, float]:
    """(array, mapped for reading; seconds it took). Raises OSError, ValueError, KeyError or TypeError if missing or damaged."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    header = json.loads(start[8:])
    size = HEADER + int(np.prod(shape)) * TYPES[kind].itemsize
    if header["array"]["shape"] != list(shape) or header["array"]["dtype"] != kind or path.stat().st_size != size:
        raise ValueError(f"{path}: another array")
    array = np.memmap(path, TYPES[kind], "r", HEADER, shape) if np.prod(shape) else np.zeros(shape, TYPES[kind])
    return array, float(header["__metadata__"]["seconds"])


def make_room(newest: Path, limit: float) -> None:
    """Evict the least recently used files beside `newest` until the cache holds at most `limit` bytes."""
    total, now = newest.stat().st_size, time.time()
    others: list[tuple[float, int, Path]] = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # deleted by another process, or open in one (Windows)
            info = path.stat()
            if path.suffix == ".part" and now - info.st_mtime > ABANDONED:
                path.unlink()
            elif path.suffix == ".safetensors" and path != newest:
                others.append((info.st_mtime, info.st_size, path))
    for _, size, path in sorted(others, reverse=True):
        total += size
        if total > limit:
            with suppress(OSError):
                path.unlink()


def digest(values: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The cache key of an array: sha256 over its settings, all texts, and the versions of the libraries involved."""
    made_by = [version(library) for library in MADE_BY]
    whole = hashlib.sha256(json.dumps([dict(values), made_by], sort_keys=True).encode())
    for text in texts:
        whole.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()[:32]


def cache_limit() -> float:
    """The cache's size limit in bytes: LASTTOKEN_CACHE_GB, or ROOM. Raises ConfigError if that is no number."""
    size = os.environ.get("LASTTOKEN_CACHE_GB") or ROOM
    try:
        return float(size) * 1e9
    except ValueError as error:
        raise ConfigError([f"LASTTOKEN_CACHE_GB: {size!r} is not a number of gigabytes; write it as 50"]) from error
