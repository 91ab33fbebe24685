"""Bad files for every reader: what hypothesis draws, and valid files with something changed."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lasttoken.data.read import Columns, read_rows
from lasttoken.errors import UserError

ROWS = [{"text": f'a text, "quoted" {i}\nwith lines', "label": ["yes", "no"][i % 2], "n": i} for i in range(12)]


def csv_bytes() -> bytes:
    head = "text,label,n\n"
    return (
        head + "".join('"{}",{},{}\n'.format(r["text"].replace('"', '""'), r["label"], r["n"]) for r in ROWS)
    ).encode()


def parquet_bytes() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


READERS: dict[str, Callable[[], bytes]] = {
    "csv": csv_bytes,
    "tsv": lambda: csv_bytes().replace(b",", b"\t"),
    "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "parquet": parquet_bytes,
}


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with one to four changes, or bytes alone."""
    place, some = st.integers(0, len(whole)), st.binary(max_size=12)
    change = st.tuples(place, st.integers(0, 20), some)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(whole)
        for at, length, new in changes:
            data[at : at + length] = new
        return bytes(data)

    return st.one_of(
        st.lists(change, min_size=1, max_size=4).map(apply), place.map(lambda n: whole[:n]), st.binary(max_size=300)
    )


def bad_files(name: str, times: int, folder: Path, *, seed: int) -> tuple[Counter[str], list[str]]:
    """(how many files were read and refused, what ended otherwise) of `times` bad files of a format."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, told, problems = folder / f"bad.{name}", Counter[str](), list[str]()
    columns = Columns(("text",), None, ("label",), None, None, None, None)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read_rows(str(path), columns=columns)
            told["read"] += 1
        except UserError:
            told["refused"] += 1
        except Exception as error:
            problems.append(f"{name}: {type(error).__name__}: {error} on {data[:60]!r}")

    run = settings(
        max_examples=times,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(changed(READERS[name]()))(read))
    seeded(seed)(run)()
    return told, problems


def seeded(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """hypothesis.seed, under a name that no parameter hides."""
    return seed(number)
