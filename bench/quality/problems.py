"""The problems of the quality benchmark: files of real rows as Splits, the test part never used to choose anything."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lasttoken.data.dataset import Rows, Splits
from lasttoken.data.split import splits_from
from lasttoken.seed import generator

SEED = 0  # of the validation part: one split for all methods and seeds


def jsonl(path: Path) -> list[dict]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def families(rows: list[dict]) -> list[str]:
    """The family of each row: rows of equal title or equal abstract are one, however long the chain."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        for key in (f"t:{row['title'].casefold()}", f"a:{row['abstract'].casefold()}"):
            parent[root(i)] = root(first.setdefault(key, i))
    return [str(root(i)) for i in range(len(rows))]


def patents(data: Path, column: str) -> Splits:
    """US patents: title and abstract -> section (one) or sections (several). Families never cross a split."""

    def rows(name: str) -> Rows:
        read = jsonl(data / "patents" / f"{name}.jsonl")
        truth = [tuple(row[column]) if isinstance(row[column], list) else (row[column],) for row in read]
        texts = [f"{row['title']}. {row['abstract']}" for row in read]
        groups = [f"{name}:{family}" for family in families(read)]
        return Rows([f"{name}:{i}" for i in range(len(read))], texts, truth, column == "sections", groups)

    return splits_from(rows("train"), None, rows("valid"), seed=SEED)


def ag_news(data: Path, size: int | None) -> Splits:
    """AG News: four topics, the official test; `size` rows to train on and validate with, None for all there are."""

    def rows(name: str, keep: int | None) -> Rows:
        read = jsonl(data / "ag_news" / f"{name}.jsonl")
        if keep is not None:
            read = [read[i] for i in generator(SEED, "rows of AG News").permutation(len(read))[:keep]]
        return Rows(
            [f"{name}:{i}" for i in range(len(read))], [r["text"] for r in read], [(r["label"],) for r in read], False
        )

    whole = None if size is None else round(size / 0.9)  # a tenth becomes validation
    return splits_from(rows("train", whole), None, rows("test", None), seed=SEED)


def banking77(data: Path) -> Splits:
    """BANKING77: questions to a bank -> 77 intents, the official test."""

    def rows(name: str) -> Rows:
        with (data / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        ids = [f"{name}:{i}" for i in range(len(read))]
        return Rows(ids, [r["text"] for r in read], [(r["category"],) for r in read], False)

    return splits_from(rows("train"), None, rows("test"), seed=SEED)


def banking77_tail(data: Path, most: int = 120, fewest: int = 3) -> Splits:
    """BANKING77 with a long tail: classes keep from `most` rows to `fewest`, falling by one factor (Cui 2019, arXiv:1901.05555)."""
    whole, rng = banking77(data), generator(SEED, "long tail")
    order = rng.permutation(len(whole.labels))
    sizes = np.round(most * (fewest / most) ** (np.arange(len(order)) / (len(order) - 1))).astype(int)
    targets = whole.train.targets
    kept = [
        rng.permutation(np.flatnonzero(targets == column))[:size] for column, size in zip(order, sizes, strict=True)
    ]
    return replace(whole, train=whole.train.take(np.sort(np.concatenate(kept))))


def patent_subclasses(data: Path, fewest: int = 20) -> Splits:
    """US patents -> any number of the subclasses that `fewest` rows of train have; rows without one are left out."""
    train, test = (jsonl(data / "patents" / f"{name}.jsonl") for name in ("train", "valid"))
    counts = Counter(name for row in train for name in set(row["subclasses"]))

    def rows(name: str, read: list[dict]) -> Rows:
        kept = [row for row in read if any(counts[label] >= fewest for label in row["subclasses"])]
        truth = [tuple(dict.fromkeys(x for x in row["subclasses"] if counts[x] >= fewest)) for row in kept]
        groups = [f"{name}:{family}" for family in families(kept)]
        ids, texts = [f"{name}:{i}" for i in range(len(kept))], [f"{row['title']}. {row['abstract']}" for row in kept]
        return Rows(ids, texts, truth, True, groups)

    return splits_from(rows("train", train), None, rows("test", test), seed=SEED)


def reuters(data: Path) -> Splits:
    """Reuters-21578, ModApte: any number of 90 topics, the official test."""

    def rows(name: str) -> Rows:
        read = jsonl(data / "reuters" / f"{name}.jsonl")
        ids = [f"{name}:{i}" for i in range(len(read))]
        return Rows(ids, [r["text"] for r in read], [tuple(r["labels"]) for r in read], True)

    return splits_from(rows("train"), None, rows("test"), seed=SEED, valid_fraction=0.2)


def goemotions(data: Path) -> Splits:
    """GoEmotions: any number of 28 emotions of a comment, the official parts."""
    names = (data / "goemotions" / "labels.txt").read_text(encoding="utf-8").split()

    def rows(name: str) -> Rows:
        lines = (data / "goemotions" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        read = [line.split("\t") for line in lines]
        truth = [tuple(names[int(i)] for i in cells[1].split(",")) for cells in read]
        return Rows([f"{name}:{i}" for i in range(len(read))], [cells[0] for cells in read], truth, True)

    return splits_from(rows("train"), rows("dev"), rows("test"), seed=SEED)


def fewer(splits: Splits, rows: int) -> Splits:
    """`rows` of the training rows, drawn at random, and a ninth as many of the validation rows, as in a split of 9 to 1."""
    train, valid = (
        part.take(generator(SEED, f"fewer {name}").permutation(len(part))[:count])
        for name, part, count in (("train", splits.train, rows), ("valid", splits.valid, rows // 9))
    )
    return replace(splits, train=train, valid=valid)


PROBLEMS: dict[str, Callable[[Path], Splits]] = {
    "patents-section": lambda data: patents(data, "section"),
    "patents-sections": lambda data: patents(data, "sections"),
    "patents-section-4k": lambda data: fewer(patents(data, "section"), 4000),
    "patents-sections-4k": lambda data: fewer(patents(data, "sections"), 4000),
    "goemotions-10k": lambda data: fewer(goemotions(data), 10_000),
    "ag-news-4k": lambda data: ag_news(data, 4000),
    "ag-news-19k": lambda data: ag_news(data, None),
    "banking77": banking77,
    "banking77-tail": banking77_tail,
    "patents-subclasses": patent_subclasses,
    "reuters-90": reuters,
    "goemotions": goemotions,
}


def describe(splits: Splits) -> dict[str, int]:
    """Rows of each part, labels, and mean characters of a test text."""
    return {
        "train": len(splits.train),
        "valid": len(splits.valid),
        "test": len(splits.test),
        "labels": len(splits.labels),
        "mean_characters": round(float(np.mean([len(text) for text in splits.test.texts]))),
    }
