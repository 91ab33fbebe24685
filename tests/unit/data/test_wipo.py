import io
import zipfile
from pathlib import Path

import pytest

from lasttoken.data.read import Columns, read_rows
from lasttoken.errors import DataError

RECORD = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE record SYSTEM "../../ipctraining.dtd">
<record cy="WO" an="US0024942" pn="{pn}" dnum="0120063" kind="A1">
<ipcs ed="7" mc="{mc}">{more}</ipcs>
<pas><pa>Someone</pa></pas>
<tis><ti xml:lang="EN">{title}</ti><ti xml:lang="FR">M\xe9thode</ti></tis>
<abs><ab xml:lang="EN">An abstract &mdash; of
two lines.</ab></abs>
<cls><cl xml:lang="EN">Claim 1.</cl></cls>
<txts><txt xml:lang="EN">The description.</txt></txts>
</record>
"""


def record(pn: str, mc: str, *more: str, title: str = "Spinning caf\xe9") -> bytes:
    text = RECORD.format(pn=pn, mc=mc, more="".join(f'<ipc ic="{code}"></ipc>' for code in more), title=title)
    return text.encode("iso-8859-1")


@pytest.fixture
def patents(tmp_path: Path) -> Path:
    """Two records in folders of train and test, two in a ZIP file inside a ZIP file."""
    folder = tmp_path / "wipo"
    for place, data in {
        "train/D/01/a.xml": record("WO1", "D01D00106", "D01F00110", "A61K00731"),
        "test/A/b.XML": record("WO2", "A61K00731"),
        "train/readme.txt": b"no record",
    }.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(data)
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("c.xml", record("WO3", "G06F01700"))
        archive.writestr("d.xml", record("WO4", "G06F01700", "H04L00100"))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("G06.zip", inner.getvalue())
    (folder / "train" / "G.zip").write_bytes(outer.getvalue())
    return folder


def test_records_of_folders_and_nested_zip_files(patents: Path) -> None:
    columns = Columns(text=("title", "abstract"), label=("subclass",), id="id", split="split")
    rows = read_rows(f"wipo:{patents}", columns=columns)
    assert rows.ids == ["WO2", "WO1", "WO3", "WO4"]
    assert rows.splits == ["test", "train", "train", "train"]
    assert rows.labels == [("A61K",), ("D01D",), ("G06F",), ("G06F",)]
    assert rows.texts[0] == "Spinning caf\xe9\n\nAn abstract \u2014 of two lines."
    assert not rows.multi


def test_the_part_is_that_of_a_folder_or_zip_file_on_the_way(tmp_path: Path) -> None:
    columns = Columns(text=("title",), label=("section",), id="id", split="split")
    folder = tmp_path / "w"
    folder.mkdir()
    for name in ("train", "test"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("a.xml", record(name, "A61K00731"))
            archive.writestr("__MACOSX/._a.xml", b"junk")
    assert read_rows(f"wipo:{folder}", columns=columns).splits == ["test", "train"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.xml").write_bytes(record("WO1", "A61K00731"))
    with pytest.raises(DataError, match="not in a folder or ZIP file named train or test"):
        read_rows(f"wipo:{tmp_path / 'other'}", columns=columns)


def test_all_codes_at_a_level(patents: Path) -> None:
    found = {
        level: read_rows(f"wipo:{patents}", columns=Columns(text=("claims",), label=(level,))).labels
        for level in ("sections", "classes", "subclasses")
    }
    assert found["sections"] == [("A",), ("A", "D"), ("G",), ("G", "H")]
    assert found["classes"][1] == ("A61", "D01")
    assert found["subclasses"][1] == ("A61K", "D01D", "D01F")
    assert read_rows(f"wipo:{patents}", columns=Columns(text=("description",), label=("sections",))).multi


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><record>&b;</record>',
            "declares XML entities or refers to other files",
        ),
        (
            b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><record>&x;</record>',
            "declares XML entities or refers to other files",
        ),
        (b"<record><ipcs", "bad.xml: not XML"),
        (b"<record></record>", "bad.xml: the record has no main code"),
    ],
    ids=["bomb", "outside", "cut", "code"],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "bad.xml").write_bytes(data)
    with pytest.raises(DataError, match=problem):
        read_rows(f"wipo:{tmp_path}", columns=Columns(text=("title",), label=("section",)))


def test_folders_and_columns_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or ZIP file"):
        read_rows(f"wipo:{tmp_path / 'none'}", columns=Columns(text=("title",), label=("section",)))
    with pytest.raises(DataError, match="group"):
        read_rows(f"wipo:{tmp_path}", columns=Columns(text=("title",), label=("group",)))
