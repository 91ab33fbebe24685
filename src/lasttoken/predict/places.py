"""Files of a job, on this machine or on an object store (fsspec): which there are, reading them, committing new ones."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lasttoken.data.lines import PACKED, unpacked, unreadable
from lasttoken.data.tables import FORMATS, READ, check_file
from lasttoken.errors import ArtifactError, DataError
from lasttoken.record.atomic import sweep_folder, writing_file

MARKS = ("ETag", "etag", "md5Hash", "oid", "LastModified", "last_modified", "updated", "created")  # of stores
SAMPLE = 1 << 20  # bytes of the first and the last part of a file that its digest covers
STORES = {  # whose objects are whole or not there, and the packages that reach them
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}


def is_address(place: str) -> bool:
    """Whether a place is on a store: s3://, gs://, az://, hf://. Raises DataError on an address of another kind."""
    kind, mark, _ = place.partition("://")
    if mark and kind not in STORES:
        raise DataError(f"{place}: {kind}:// is not known; there are {', '.join(f'{name}://' for name in STORES)}")
    return bool(mark)


def file_system(place: str) -> tuple[Any, str]:
    """(fsspec's file system, path in it) of an address. Raises DataError where its package is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        kind = place.partition("://")[0]
        raise DataError(f"{place}: {str(error).splitlines()[0]}; pip install {STORES[kind]}") from error


def format_name(name: str) -> str | None:
    """The format that a name's ending stands for, that of a packed file within; None where it is none."""
    path = PurePosixPath(name)
    path = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return READ.get(path.suffix.lower())


@dataclass(frozen=True)
class InputFile:
    """A file of rows."""

    name: str  # path or address; - for standard input

    @property
    def stem(self) -> str:
        """Its name without endings."""
        if self.name == "-":
            return "stdin"
        name = PurePosixPath(self.name.replace(os.sep, "/")).name
        while PurePosixPath(name).suffix.lower() in (*PACKED, *READ):
            name = PurePosixPath(name).stem
        return name

    def identity(self) -> dict[str, Any]:
        """What tells the file from another: its size and time, and a digest of its ends, or the store's own mark.

        Raises DataError where it cannot be read.
        """
        if self.name == "-":
            return {"name": "-"}
        if is_address(self.name):
            system, path = file_system(self.name)
            try:
                info = system.info(path)
            except OSError as error:
                raise DataError(f"{self.name}: no such file ({str(error).splitlines()[0]})") from error
            marks = [str(info[key]) for key in MARKS if info.get(key)]
            return {"name": self.name, "size": info.get("size"), "mark": marks}
        try:
            about, digest = os.stat(self.name), hashlib.sha256()
            with open(self.name, "rb") as stream:
                digest.update(stream.read(SAMPLE))
                stream.seek(max(0, about.st_size - SAMPLE))
                digest.update(stream.read(SAMPLE))
        except OSError as error:
            raise DataError(unreadable(self.name, error)) from error
        return {"name": self.name, "size": about.st_size, "time": about.st_mtime_ns, "mark": digest.hexdigest()}

    @contextmanager
    def opened(self) -> Iterator[tuple[IO[bytes], Callable[[], int] | None]]:
        """(stream of its bytes, unpacked; of a packed file, how many bytes have been read). Raises DataError where unreadable."""
        try:
            if self.name == "-":
                yield sys.stdin.buffer, None
                return
            with self.raw() as raw, unpacked(raw, self.name) as stream:
                yield stream, None if stream is raw else raw.tell
        except OSError as error:
            raise DataError(unreadable(self.name, error)) from error

    @contextmanager
    def raw(self) -> Iterator[IO[bytes]]:
        """A stream of its bytes as they are, in which one can seek."""
        if is_address(self.name):
            system, path = file_system(self.name)
            with system.open(path, "rb") as stream:
                yield stream
        else:
            with open(self.name, "rb") as stream:
                yield stream


def inputs_of(given: str, out: str) -> list[InputFile]:
    """The files that a name, a folder, a pattern or an address stands for, by name; none of those below `out`.

    Raises DataError where there are none.
    """
    if given == "-":
        return [InputFile("-")]
    if is_address(given):
        system, path = file_system(given)
        try:
            many = glob.has_magic(given) or system.isdir(path)
            found = system.glob(path) if glob.has_magic(given) else system.find(path) if many else [path]
        except OSError as error:
            raise DataError(f"{given}: cannot be listed ({error})") from error
        names = [system.unstrip_protocol(name) for name in found]
    elif many := Path(given).is_dir():
        names = [str(path) for path in Path(given).rglob("*") if path.is_file() and not hidden(path, Path(given))]
    elif many := glob.has_magic(given) and not Path(given).exists():
        names = [name for name in glob.glob(given, recursive=True) if not Path(name).is_dir()]
    else:
        check_file(Path(given))
        names = [given]
    names = [name for name in names if not below(name, out)]
    chosen = sorted(name for name in names if format_name(name) is not None or not many)
    if not chosen and is_same(given, out):
        raise DataError(f"{out.rstrip('/')}: is the input; name another folder for the parts: -o labelled/")
    if not chosen:
        raise DataError(f"{given}: no file ending in {', '.join(READ)}, packed as .gz or .zst or not, is there")
    return [InputFile(name) for name in chosen]


def is_same(one: str, other: str) -> bool:
    """Whether two names are of one place."""
    if is_address(one) or is_address(other):
        return one.rstrip("/") == other.rstrip("/")
    return Path(one).resolve() == Path(other).resolve()


def below(name: str, folder: str) -> bool:
    """Whether a file is inside a folder."""
    if is_address(name) or is_address(folder):
        return name.startswith(f"{folder.rstrip('/')}/")
    return Path(name).resolve().is_relative_to(Path(folder).resolve())


def hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder on the way to it, has a name that begins with a dot or an underscore."""
    return any(part[0] in "._" for part in path.relative_to(folder).parts)


@dataclass(frozen=True)
class OutputFolder:
    """Where the parts of a job are written. A file is there whole or not at all: its name is the commit."""

    name: str  # path or address

    def path(self, file: str) -> str:
        """A file inside."""
        return f"{self.name.rstrip('/')}/{file}"

    def names(self) -> set[str]:
        """The files that are there."""
        if is_address(self.name):
            system, path = file_system(self.name)
            system.invalidate_cache()
            start = len(path.rstrip("/")) + 1
            return {name[start:] for name in system.find(path)} if system.exists(path) else set()
        folder = Path(self.name)
        if folder.exists() and not folder.is_dir():
            raise ArtifactError(f"{self.name}: is a file; name a folder for the parts")
        found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return {name for name in found if not name.rpartition("/")[2].startswith(".")}

    def sweep(self) -> None:
        """Remove what workers that were ended had not committed yet; stores keep nothing of that kind."""
        if not is_address(self.name):
            sweep_folder(Path(self.name))

    def read(self, file: str) -> bytes:
        """The bytes of a file."""
        if is_address(self.name):
            system, _ = file_system(self.name)
            return system.cat_file(self.path(file))
        return Path(self.path(file)).read_bytes()

    def commit(self, file: str, content: bytes) -> None:
        """Write a file. Raises ArtifactError where that fails; what was there before stays."""
        try:
            if is_address(self.name):
                system, _ = file_system(self.name)
                system.pipe_file(self.path(file), content)  # one PUT, which is whole or not there
                return
            place = Path(self.path(file))
            place.parent.mkdir(parents=True, exist_ok=True)
            with writing_file(place) as stream:
                stream.write(content)
        except OSError as error:
            raise ArtifactError(
                f"{self.path(file)}: could not be written ({error.strerror or error}); what was committed before is kept, and "
                "the same command goes on"
            ) from error


def is_many(source: str | None, target: str) -> bool:
    """Whether predicting is a job of parts: several inputs, an output that is a folder, or either on an object store.

    Raises DataError where several inputs have no folder to go to.
    """
    if source is None:
        return False
    several = Path(source).is_dir() or (glob.has_magic(source) and not Path(source).exists())
    folder = target != "-" and (target.endswith("/") or is_address(target) or Path(target).is_dir())
    if (several or is_address(source)) and not folder:
        if target == "-" or Path(target).suffix.lower() in FORMATS:
            raise DataError(f"{source}: many rows go to a folder of parts; name one: -o labelled/")
        return True
    return folder
