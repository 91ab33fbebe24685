"""Decode text files and streams into lines, block by block. A binary file is an error that names its type.

Errors name the file, the byte or line, and the encoding to try.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, cast

from lasttoken.errors import DataError

BLOCK = 1 << 20  # bytes read at once
PACKED = {".gz": "gzip", ".zst": "zstd"}
BINARY = {  # first bytes of files that are not text tables, whatever their ending -> type of file
    b"PAR1": "a Parquet file; end its name in .parquet",
    b"PK\x03\x04": "a zip archive, as Excel workbooks are; save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of the old format (.xls); save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "a gzip file; unpack it first: gunzip",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it first: unzstd",
    b"\xfd7zXZ": "an xz file; unpack it first: unxz",
    b"BZh91AY&SY": "a bzip2 file; unpack it first: bunzip2",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
    b"version https://git-lfs": "a Git LFS pointer; get the file itself: git lfs pull",
    b"<!DOCTYPE html": "a web page; download the file itself",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")  # bytes that cp1252 leaves undefined


def file_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file, with their line ends; of a packed one those inside."""
    try:
        with path.open("rb") as raw, unpacked(raw, path.name) as stream:
            yield from decoded_lines(stream, str(path), encoding)
    except OSError as error:
        raise DataError(unreadable(str(path), error)) from error


class Measured:
    """The same lines, and their size in bytes of UTF-8 as they are taken."""

    def __init__(self, lines: Iterator[str]):
        self.lines, self.size = lines, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.size += len(line.encode("utf-8", "replace"))
        return line


@contextmanager
def unpacked(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """What is inside a stream whose name ends in .gz or .zst; the stream itself of any other. Raises OSError where damaged."""
    packed = PACKED.get(PurePath(name).suffix.lower())
    if packed is None:
        yield raw
        return
    import pyarrow as pa

    with pa.CompressedInputStream(raw, packed) as plain:
        yield cast("IO[bytes]", plain)


def unreadable(name: str, error: OSError) -> str:
    """The error text for a file that cannot be read."""
    if error.strerror:
        return f"{name}: cannot be read ({error.strerror}); check its permissions"
    return f"{name}: not a packed file, or truncated ({str(error).splitlines()[0]}); write or copy it again"


def decoded_lines(stream: IO[bytes], name: str, encoding: str) -> Iterator[str]:
    """The lines of a binary stream, with their line ends. Raises DataError on a byte that cannot be decoded."""
    try:
        "a".encode(encoding)  # a LookupError also for codecs that do not encode text, such as base64
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(
            f"{name}: {encoding!r} is not an encoding that Python knows; try utf-8, cp1252 or utf-16"
        ) from error
    decoder = codecs.getincrementaldecoder("utf-8-sig" if codec == "utf-8" else codec)()
    done, number, more, pieces = 0, 0, True, list[str]()  # pieces: of an unfinished line
    while more:
        block = stream.read(BLOCK)
        if not done:
            check_text(block, name, codec)
        done, more = done + len(block), bool(block)
        try:
            pieces.append(decoder.decode(block, final=not more))
        except UnicodeDecodeError as error:
            if not codec.startswith(("utf-16", "utf-32")):  # their decoders hold the byte order
                good = "".join(pieces) + error.object[: error.start].decode(codec)
                yield from without_nul(whole_ones(good), name, number)  # what comes before the byte can be used
            raise DataError(wrong_byte(name, codec, encoding, error, done - len(error.object) + error.start)) from error
        except UnicodeError as error:
            raise DataError(f"{name}: {error}; name another encoding: --encoding utf-16-le") from error
        if more and "\n" not in pieces[-1] and "\r" not in pieces[-1]:
            continue
        lines = io.StringIO("".join(pieces), newline="").readlines()
        pieces = [lines.pop()] if more and lines and not lines[-1].endswith("\n") else []  # "\r" may begin "\r\n"
        yield from without_nul(lines, name, number)
        number += len(lines)


def is_utf_8(encoding: str) -> bool:
    """Whether the name of an encoding means UTF-8."""
    try:
        return codecs.lookup(encoding).name.startswith("utf-8")
    except LookupError:
        return False


def whole_ones(text: str) -> list[str]:
    """The lines that end in the text."""
    lines = io.StringIO(text, newline="").readlines()
    return lines if text.endswith("\n") else lines[:-1]


def check_text(begins: bytes, name: str, codec: str) -> None:
    """Raise DataError if the first block of a file shows that it is binary, or UTF-8 under another encoding."""
    for magic, kind in BINARY.items():
        if begins.startswith(magic):
            raise DataError(f"{name}: this is {kind}")
    if begins.startswith(codecs.BOM_UTF8) and not codec.startswith("utf-8"):
        raise DataError(f"{name}: begins with a UTF-8 byte order mark; name the encoding: --encoding utf-8")


def wrong_byte(name: str, codec: str, encoding: str, error: UnicodeDecodeError, offset: int) -> str:
    """The error text for the first byte that cannot be decoded, `offset` bytes into the file."""
    begins = error.object[:4] if offset == error.start else b""
    if begins.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        other = "utf-32"
    elif begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        other = "utf-16"
    elif b"\0" in error.object[: error.start]:  # UTF-16 without a byte order mark: every other byte is NUL
        other = "utf-16-be" if error.object.startswith(b"\0") else "utf-16-le"
    elif codec.startswith("utf-16"):
        other = "utf-8"
    elif codec in ("utf-8", "ascii") and not UNDEFINED.search(error.object):
        other = "cp1252"  # Windows; agrees with Latin-1 on all printable characters
    else:
        other = "cp1250, shift_jis or gb18030, whichever it was written in"
    return (
        f"{name}: byte {error.object[error.start]:#04x} at offset {offset} is not {encoding.upper()}; "
        f"if the file is in another encoding, name it: --encoding {other}"
    )


def whole_lines(stream: io.TextIOBase, name: str) -> Iterator[str]:
    """The lines of a stream that is already decoded."""
    for number, line in enumerate(stream):
        yield from without_nul([line], name, number)


def without_nul(lines: list[str], name: str, before: int) -> Iterator[str]:
    """The lines unchanged. Raises DataError on one with a NUL byte. before: number of lines before them in the file."""
    for number, line in enumerate(lines, before + 1):
        if "\0" in line:
            other = "utf-16-be" if number == 1 and line.startswith("\0") else "utf-16-le"
            raise DataError(
                f"{name}:{number}: a NUL byte, so the file is damaged or not text; "
                f"if it is UTF-16, name it: --encoding {other}"
            )
        yield line
