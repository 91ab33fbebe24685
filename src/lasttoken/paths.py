"""Names of files as people give them: ~ is the home folder, and an address such as s3:// is no local file.

A name need not be UTF-8. Python holds the bytes that are not as lone surrogates, which no text file can store; `escaped`
writes them as \\xe9.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import overload

from lasttoken.errors import ArtifactError

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@overload
def local(given: str | os.PathLike[str]) -> Path: ...
@overload
def local(given: None) -> None: ...
def local(given: str | os.PathLike[str] | None) -> Path | None:
    """The path, its ~ expanded; None for None. Raises ArtifactError on an address."""
    if given is None:
        return None
    text = os.fspath(given)
    if not isinstance(given, str) and ADDRESS.match(text):
        text = text.replace(":/", "://", 1)  # Path("s3://a") is "s3:/a"
    return Path(local_text(text))


def local_text(given: str) -> str:
    """A path in text, its ~ expanded, and otherwise as it is. Raises ArtifactError on an address."""
    address = ADDRESS.match(given)
    if address and "://" in given[: address.end() + 1]:
        raise ArtifactError(
            f"{given}: {address[1]}:// is an address, not a local path; copy the file or folder here, or write to a local "
            "one and copy that"
        )
    return os.path.expanduser(given)  # leaves ~nobody alone, where Path.expanduser raises


def escaped(text: str) -> str:
    """The text with every lone surrogate as an escape: the byte 0xe9 of a file's name is \\xe9."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half character that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def cache_folder() -> Path:
    """The cache folder: LASTTOKEN_CACHE, or `lasttoken` in the user's cache folder. Safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("LASTTOKEN_CACHE") or Path(base) / "lasttoken")
