"""Read WIPO-Alpha patents as WIPO distributes them: one XML file per patent, in nested folders and ZIP files.

Only the XML file itself is read: its DTD is not resolved, and a file that declares entities is refused.
The IPC code A61K00731 has section A, class A61 and subclass A61K; the rest is its group.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from html.entities import name2codepoint
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lasttoken.data.tables import Table, check_columns
from lasttoken.errors import DataError
from lasttoken.paths import local

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

PREFIX = "wipo:"
LEVELS = {"section": 1, "class": 3, "subclass": 4}  # first characters of an IPC code
SETS = {"sections": "section", "classes": "class", "subclasses": "subclass"}
TEXTS = {"title": "tis/ti", "abstract": "abs/ab", "claims": "cls/cl", "description": "txts/txt"}
COLUMNS = ("id", *TEXTS, *LEVELS, *SETS, "split")
NESTED = 4  # most levels of ZIP files inside ZIP files


def wipo_table(source: str, wanted: Sequence[str]) -> Table:
    """The records of `wipo:PATH`, a folder or ZIP file. XML files that hold another kind of document are skipped.

    Columns: id, title, abstract, claims, description; section, class and subclass of the main IPC code; sections,
    classes and subclasses of all codes; split, if folders or ZIP files are named train and test. Raises DataError with
    the place of a file that cannot be read.
    """
    path = local(source.removeprefix(PREFIX))
    if not path.exists():
        raise DataError(f"{source}: no such folder or ZIP file; write {PREFIX}FOLDER")
    check_columns(wanted, COLUMNS, source)

    def records() -> Iterator[tuple[int, tuple[Any, ...]]]:
        number = 0
        for place, data in files(path):
            record = parsed(place, data)
            if record is not None:
                yield number, tuple(cell(record, f"{path.absolute().name}/{place}", name) for name in wanted)
                number += 1

    empty = "it holds no patents in XML; name the folder with WIPO's ZIP files"
    return Table(source, "record", records(), empty=empty)


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(place, content) of every XML file in a folder or ZIP file, sorted by name."""
    if path.is_file():
        yield from inside(path.name, path.read_bytes(), NESTED)
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix.lower() in (".xml", ".zip"):  # skip others unread: they may be large
            yield from inside(str(file.relative_to(path)), file.read_bytes(), NESTED)


def inside(place: str, data: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    """(place, content) of an XML file, or of the XML files in a ZIP file. Nothing is written to disk."""
    if place.lower().endswith(".xml"):
        yield place, data
    elif place.lower().endswith(".zip") and depth:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in sorted(archive.namelist()):
                    if name.lower().endswith((".xml", ".zip")) and not name.startswith("__MACOSX/"):
                        yield from inside(f"{place}/{name}", archive.read(name), depth - 1)
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise DataError(f"{place}: this ZIP file cannot be read ({error}); download it again") from error


def parsed(place: str, data: bytes) -> Element | None:
    """The record of an XML file; None if it holds another kind of document."""
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser()
    # HTML entities, which the unread DTD would declare.
    parser.entity.update({name: chr(code) for name, code in name2codepoint.items()})
    try:
        parser.feed(data)
        root = parser.close()
    except DefusedXmlException as error:
        raise DataError(
            f"{place}: declares XML entities or refers to other files, which is not allowed; remove its DOCTYPE"
        ) from error
    except ParseError as error:
        raise DataError(f"{place}: not XML ({error}); download it again, or take it out of the folder") from error
    return root if root.tag == "record" else root.find("record")


def cell(record: Element, place: str, column: str) -> Any:
    """One cell of a record. Raises DataError where there is no main code."""
    if column in TEXTS:
        found = record.findall(TEXTS[column])
        english = [one for one in found if one.get("{http://www.w3.org/XML/1998/namespace}lang", "EN").upper() == "EN"]
        return "\n\n".join(" ".join("".join(one.itertext()).split()) for one in english or found)
    if column == "id":
        return record.get("pn") or record.get("an") or place
    if column == "split":
        return part_of(place)
    codes = codes_of(record, place)
    if column in LEVELS:
        return codes[0][: LEVELS[column]]
    return list(dict.fromkeys(code[: LEVELS[SETS[column]]] for code in codes))


def part_of(place: str) -> str:
    """train or test: the one that a folder or ZIP file on its path is named. Raises DataError if none is, or both."""
    names = {PurePosixPath(part).stem.lower() for part in PurePosixPath(place.replace("\\", "/")).parts[:-1]}
    found = [part for part in ("train", "test") if part in names]
    if len(found) != 1:
        raise DataError(f"{place}: not in a folder or ZIP file named train or test, or in both; leave --split out")
    return found[0]


def codes_of(record: Element, place: str) -> list[str]:
    """The IPC codes of a record, the main code first."""
    found = record.find("ipcs")
    main = None if found is None else found.get("mc")
    if found is None or not main:
        raise DataError(f"{place}: the record has no main code (ipcs mc); take it out of the folder")
    return [main, *(code for one in found.findall("ipc") if (code := one.get("ic")))]
