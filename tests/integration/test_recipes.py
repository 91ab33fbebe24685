"""Every recipe from end to end, with models of a few thousand weights on made-up rows in the shape of its data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lasttoken.recipe import read_recipe, recipe_names
from lasttoken.record.folder import read_json

WORDS = ("sport goal team", "market price trade", "song melody band", "patch code chip")
XML = """<?xml version="1.0" encoding="iso-8859-1"?><!DOCTYPE record SYSTEM "x.dtd">
<record pn="{pn}"><ipcs mc="{mc}">{more}</ipcs><tis><ti xml:lang="EN">{title}</ti></tis>
<abs><ab xml:lang="EN">{title} method</ab></abs></record>"""


def stand_in(name: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """(source, options) of rows such as a recipe reads."""
    rng = np.random.default_rng(0)
    recipe = read_recipe(name)
    if name == "paper/wipo-sections":
        for part, count in (("train", 60), ("test", 20)):
            for i in range(count):
                place = folder / part / f"{i}.xml"
                place.parent.mkdir(exist_ok=True)
                more = '<ipc ic="H04L00100"></ipc>' if i % 3 == 0 else ""
                text = XML.format(pn=f"{part}{i}", mc="ABGH"[i % 4] + "01D00106", more=more, title=WORDS[i % 4])
                place.write_text(text, encoding="iso-8859-1")
        return f"wipo:{folder}", ()
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        pen = csv.writer(file)
        if name == "paper/wipo-alpha":
            labels = recipe.data["label"]
            pen.writerow(["Publication Number", "title", "fclaim", "abstract", *labels])
            for i in range(80):
                flags = [int(i % 14 == j or rng.random() < 0.1) for j in range(14)]
                pen.writerow([f"WO{i}", WORDS[i % 4], "a claim", "an abstract", *flags])
        else:
            names = ["World", "Business", "Sports", "Sci/Tech"]
            pen.writerow(["text", "label"])
            pen.writerows([f"{WORDS[i % 4]} {rng.integers(9)}", names[i % 4]] for i in range(80))
    return str(path), ()


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_runs_from_end_to_end(
    command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    recipe, out = read_recipe(name), tmp_path / "out"
    source, more = stand_in(name, tmp_path)
    settings = []
    for entry, own in recipe.entries.items():
        if own["method"] in ("encoder", "embedding", "instruction") and entry != "zero-shot":
            settings += [f"{entry}.train.epochs=0.5", f"{entry}.train.batch=32"]
        if own["method"] == "encoder":
            settings.append(f"{entry}.model={folder('bert')}")
        if own["method"] in ("probe", "embedding"):
            settings.append(f"{entry}.max_length=24")
        if own["method"] == "instruction":
            settings.append(f"{entry}.max_length=900")
    options = [word for setting in [*settings, "explained=0"] for word in ("--set", setting)]
    wide = "tiny" if name == "paper/wipo-alpha" else folder("llama")  # fourteen long labels want its longer window
    said = command(
        "compare", source, "--recipe", name, "--model", wide, "--quantize", "none", "--device", "cpu", *more, *options,
        "--out", out,
    )  # fmt: skip
    assert said.code == 0, said.err[-2000:]
    for entry in recipe.entries:
        assert read_json(out / entry / "metrics.json")["name"] == entry
    table = (out / "reproduced.md").read_text().splitlines()
    assert len(table) == 2 + len(recipe.entries)
    assert all(line.split("|")[3].strip().startswith(".") or "1.000" in line for line in table[2:])
    assert (out / "report.html").exists()


def test_a_recipe_asks_for_its_data_and_refuses_other_encoders(refused: Callable[..., str]) -> None:
    assert "name the file to run it on" in refused("compare", "--recipe", "paper/wipo-alpha")
    Path("x.csv").write_text("text,label\na,b\n")
    assert "a recipe names its encoders" in refused(
        "compare", "x.csv", "--recipe", "paper/wipo-alpha", "--encoder", "a"
    )
    assert refused("compare").startswith("name the file to learn from, or an experiment with --recipe")
