"""The header of a GGUF file (llama.cpp, Ollama), read without its weights and without any library: a tenth of a second.

The package `gguf` takes ten seconds and more for a vocabulary, because it makes arrays of every string.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from lasttoken.errors import ModelError

VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
INSTEAD = "give the folder or the hub name of the model it was made from"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is in the file."""

    name: str
    shape: tuple[int, ...]  # outermost first, as torch has it
    kind: int  # of ggml: F16, Q4_K...
    offset: int  # in the data section


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself."""

    file: Path
    values: dict[str, Any]  # name -> number, text, or list of one of them
    tensors: dict[str, Tensor]
    data: int  # first byte of the data section

    @property
    def architecture(self) -> str:
        """llama, qwen2, ..."""
        return str(self.values["general.architecture"])

    def of_architecture(self, name: str, default: Any = None) -> Any:
        """A value whose name begins with the architecture's."""
        return self.values.get(f"{self.architecture}.{name}", default)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())


def read_header(file: Path) -> Header:
    """The header of a GGUF file. Raises ModelError on a file that is missing, none, cut off, or one of several parts."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            header = parsed(file, blob)
            size = len(blob)
    except OSError as error:
        raise ModelError(f"model '{file}': cannot be read ({error.strerror})") from error
    except (struct.error, ValueError, OverflowError) as error:  # ValueError: an empty file has no map
        raise ModelError(f"model '{file}': this GGUF file is cut off or damaged; copy it again") from error
    parts = header.values.get("split.count", 1)
    if parts > 1:
        number = header.values.get("split.no", 0) + 1
        raise ModelError(
            f"model '{file}': part {number} of {parts}; join them first: llama-gguf-split --merge PART-1 WHOLE.gguf"
        )
    if end_of_data(header) > size:
        raise ModelError(f"model '{file}': this GGUF file is cut off ({size:,} bytes); copy it again")
    return header


def parsed(file: Path, blob: mmap.mmap) -> Header:
    """The header in a file's bytes. Raises struct.error where they end too soon."""
    if blob[:4] != b"GGUF":
        raise ModelError(f"model '{file}': not a GGUF file (it does not begin with GGUF)")
    version, tensors, values = struct.unpack_from("<IQQ", blob, 4)
    if version not in VERSIONS:
        raise ModelError(f"model '{file}': GGUF version {version}, and versions 2 and 3 are read; {INSTEAD}")
    found, place = {}, 24
    for _ in range(values):
        name, place = string(blob, place)
        (kind,) = struct.unpack_from("<I", blob, place)
        found[name], place = value(blob, place + 4, kind)
    if "general.architecture" not in found:
        raise ModelError(f"model '{file}': no general.architecture in its header; {INSTEAD}")
    listed = {}
    for _ in range(tensors):
        one, place = tensor(blob, place)
        listed[one.name] = one
    align = int(found.get("general.alignment", 32))
    return Header(file, found, listed, -(-place // align) * align)


def value(blob: mmap.mmap, place: int, kind: int) -> tuple[Any, int]:
    """(a value, the place after it)."""
    if kind == STRING:
        return string(blob, place)
    if kind == ARRAY:
        inner, count = struct.unpack_from("<IQ", blob, place)
        return array(blob, place + 12, inner, count)
    numbers, place = array(blob, place, kind, 1)
    return numbers[0], place


def array(blob: mmap.mmap, place: int, kind: int, count: int) -> tuple[list[Any], int]:
    """(as many values of a kind, the place after them)."""
    if kind in NUMBERS:
        shape = f"<{count}{NUMBERS[kind]}"
        return list(struct.unpack_from(shape, blob, place)), place + struct.calcsize(shape)
    if kind not in (STRING, ARRAY):
        raise ValueError(f"unknown kind of value {kind}")
    read, found = string if kind == STRING else partial(value, kind=kind), []
    for _ in range(count):
        one, place = read(blob, place)
        found.append(one)
    return found, place


def string(blob: mmap.mmap, place: int) -> tuple[str, int]:
    """(a text, the place after it)."""
    (length,) = LENGTH.unpack_from(blob, place)
    end = place + 8 + length
    return blob[place + 8 : end].decode("utf-8", "replace"), end


def tensor(blob: mmap.mmap, place: int) -> tuple[Tensor, int]:
    """(an entry of the list of tensors, the place after it)."""
    name, place = string(blob, place)
    (dimensions,) = struct.unpack_from("<I", blob, place)
    *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", blob, place + 4)
    return Tensor(name, tuple(reversed(shape)), kind, offset), place + 16 + 8 * dimensions


def end_of_data(header: Header) -> int:
    """Bytes that the file must have. Raises ModelError on a kind of tensor that the package `gguf` does not know."""
    ends = (header.data + one.offset + prod(row_bytes(header, one)) for one in header.tensors.values())
    return max(ends, default=header.data)


def row_bytes(header: Header, one: Tensor) -> tuple[int, ...]:
    """The shape of a tensor whose rows are counted in bytes. Raises ModelError on a kind that `gguf` does not know."""
    from gguf.constants import GGML_QUANT_SIZES

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    if one.kind not in sizes:
        raise ModelError(
            f"model '{header.file}': {one.name} is quantised by a method that the installed package gguf does not know "
            f"(number {one.kind}); pip install -U gguf, or {INSTEAD}"
        )
    block, size = sizes[one.kind]
    return (*one.shape[:-1], one.shape[-1] // block * size)
