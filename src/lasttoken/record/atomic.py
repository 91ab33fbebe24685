"""Atomic writing of files and folders, safe with several processes.

Content is written beside the target as `.NAME.PID-RANDOM.part`, flushed to disk and renamed. The writer holds a lock on
it, which ends with the process; a part without a lock is left over from a dead process, and the next writer of the same
name removes it. `claimed` reserves a name for the hours of training before anything is written there.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lasttoken.errors import ArtifactError, Claimed

YOUNG = 60.0  # seconds for which a part without a lock is kept: its writer may not have locked it yet
TRIES = 1000  # attempts to lock a file that other processes keep removing


@contextmanager
def writing_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """A stream that becomes the file `path` when the block succeeds; otherwise `path` stays as it was.

    Raises OSError where it cannot be written. Without `replace`, raises ArtifactError where another process created `path`
    meanwhile; the new file is then kept beside it.
    """
    sweep(path)
    part = part_of(path)
    try:
        with part.open("xb") as stream:
            lock(stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            part.replace(path)
        else:
            settle(part, path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which is moved to `folder` when the block succeeds and removed otherwise.

    Raises OSError where it cannot be written, ArtifactError where another process created `folder` meanwhile; the new one
    is then kept beside it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    part = part_of(folder)
    try:
        (part / folder.name).mkdir(parents=True)
        with locked(part):
            yield part / folder.name
            for inside in (part / folder.name, *(part / folder.name).rglob("*")):
                flush(inside)
            settle(part / folder.name, folder)
            flush(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def claimed(path: Path, *, here: bool = True) -> Iterator[None]:
    """Reserves `path`: within the block no other process can claim it. here: False in all but one process of a group.

    Raises ArtifactError where another process has claimed it. Without file locks (Windows, some network disks) claims always
    succeed; a second writer's result is then kept beside the first.
    """
    if not here or sys.platform == "win32":
        yield
        return
    place = path.absolute().parent
    missing = [above for above in (place, *place.parents) if not above.exists()]
    file = path.with_name(f".{short(path.name)}.lock")
    descriptor = held(file, path)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before unlocking, so that the next holder sees that the file was replaced
        os.close(descriptor)
        with suppress(OSError):  # of folders that are in use
            for above in missing:
                above.rmdir()


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Waits until no other process is within such a block for `path`; without file locks nobody waits.

    Raises OSError where the lock file beside `path` cannot be made. It stays: a process may be waiting for it.
    """
    descriptor = os.open(path.with_name(f".{short(path.name)}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32":
            import fcntl

            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def held(file: Path, path: Path) -> int:
    """The descriptor of the lock file, locked. Raises ArtifactError where another process holds it or it cannot be made."""
    for _ in range(TRIES):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        except OSError as error:
            raise ArtifactError(
                f"{path}: cannot write in {path.parent} ({error.strerror}); name another with --out"
            ) from error
        if lock(descriptor) is False:
            os.close(descriptor)
            raise Claimed(f"{path}: another process is writing it; wait until it ends, or name another with --out")
        with suppress(FileNotFoundError):
            if os.stat(file).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # its holder removed it between os.open and lock
    raise ArtifactError(f"{path}: cannot write in {path.parent}; name another with --out")


def lock(descriptor: int) -> bool | None:
    """Lock an open file until the process ends: True, False where another process holds it, None without file locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder within the block."""
    if sys.platform == "win32":  # folders cannot be opened there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Remove parts of `path` left by dead processes: those older than YOUNG whose lock is free."""
    if sys.platform == "win32":
        return
    for part in parts_of(path):
        drop(part, YOUNG)


def sweep_folder(folder: Path) -> None:
    """Remove what dead processes were writing inside `folder`; for who knows that no other writes there."""
    if sys.platform != "win32":
        for part in folder.rglob(".*.part"):
            drop(part, 0.0)


def drop(part: Path, age: float) -> None:
    """Remove a part whose lock is free and that is older than `age` seconds."""
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDONLY)
        try:
            if time.time() - part.stat().st_mtime >= age and lock(descriptor):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        finally:
            os.close(descriptor)


def parts_of(path: Path) -> list[Path]:
    """The parts of `path`, of all processes."""
    begin = f".{short(path.name)}."
    try:
        return sorted(one for one in path.parent.iterdir() if one.name.startswith(begin) and one.suffix == ".part")
    except OSError:
        return []


def part_of(path: Path) -> Path:
    """A unique name for a part of `path`."""
    return path.with_name(f".{short(path.name)}.{os.getpid()}-{secrets.token_hex(4)}.part")


def flush(folder: Path) -> None:
    """Flush the entries of a folder, so that a new name in it outlives a loss of power; nothing else has any."""
    if sys.platform == "win32" or not folder.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def short(name: str) -> str:
    """The first 180 bytes of a name, so that prefix and suffix fit into the 255 of a file name."""
    return os.fsdecode(os.fsencode(name)[:180])


def settle(part: Path, path: Path) -> None:
    """Move `part` to `path` without replacing anything. Raises ArtifactError where it had to go beside it."""
    beside = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    if part.is_dir():
        beside = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    target = next(target for target in itertools.chain([path], beside) if moved(part, target))
    if target != path:
        raise ArtifactError(f"{path} was written by another process meanwhile; what this one wrote is {target}")


def moved(part: Path, target: Path) -> bool:
    """Move `part` to `target` unless that exists; whether it was moved."""
    if target.exists():
        return False
    try:
        if part.is_dir():
            part.rename(target)  # fails over a folder that is not empty
        else:
            link(part, target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def link(part: Path, target: Path) -> None:
    """Give a file a new name; fails if it exists, where os.rename would replace it."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # file system without hard links
        part.rename(target)
