"""Real rows for the speed benchmark: slices of a few hundred, with the lengths and the grouping of thousands.

`group_by_length` sorts 50 batches at a time; of a slice cut at random it would make worse batches than of the whole set.
So a slice is made of such batches: the peers' own function groups thousands of rows, and groups at evenly spaced places
between the longest and the shortest are taken whole. Who groups by length gets them as they are; who does not, shuffles.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from lasttoken.data.dataset import Dataset
from lasttoken.labels import LabelSpace
from lasttoken.seed import generator

GROUP = 32  # rows of a group: the largest batch that is compared
LIMIT = 512  # tokens of a text
POOL = 6400  # rows that are grouped; from here on more rows do not sort any better
SECTIONS = {  # of the International Patent Classification, in words that a prompt can name
    "A": "human necessities",
    "B": "operations and transport",
    "C": "chemistry and metallurgy",
    "D": "textiles and paper",
    "E": "construction",
    "F": "mechanical engineering",
    "G": "physics",
    "H": "electricity",
}
WORDS = "the of a market game court bank river music city winter school doctor bridge paper engine field island".split()

Labelled = tuple[list[str], list[str]]  # texts (N,), label names (N,)


@dataclass(frozen=True, eq=False)
class Slice:
    """Rows to be timed: `size` of similar length, then `size` of another, and so on."""

    data: Dataset
    lengths: np.ndarray  # (n,) tokens of each text, cut at the limit
    size: int  # rows of a group
    limit: int  # tokens that a text may keep
    pool: int  # rows that the slice was taken from
    pool_tokens: float  # their mean length

    @property
    def texts(self) -> Sequence[str]:
        return self.data.texts

    def part(self, size: int) -> np.ndarray:
        """Rows (k * size,): the first `size` of each group, group by group. A slow contender is given fewer rows of equal lengths."""
        kept = min(size, self.size)
        return np.concatenate([np.arange(g, g + kept) for g in range(0, len(self.lengths), self.size)])


def cut(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    groups: int,
    limit: int = LIMIT,
    size: int = GROUP,
    pool: int = POOL,
) -> Slice:
    """`groups` groups of `size` rows of `data`, evenly spaced by length; the order inside a group is random."""
    rng = generator(0, "rows of the speed benchmark")
    kept = data.take(rng.permutation(len(data))[:pool])
    whole = tokenizer(list(kept.texts), verbose=False)["input_ids"]
    lengths = np.array([min(limit, len(ids)) for ids in whole], dtype=np.int64)
    order = get_length_grouped_indices(lengths.tolist(), size, generator=torch.Generator().manual_seed(0))
    found = np.array(order[: len(order) // size * size]).reshape(-1, size)  # (all groups, size)
    found = found[np.argsort(lengths[found].mean(axis=1), kind="stable")]
    places = ((np.arange(groups) + 0.5) / groups * len(found)).astype(int)
    chosen = np.concatenate([rng.permutation(found[place]) for place in places])
    return Slice(kept.take(chosen), lengths[chosen], size, limit, len(kept), float(lengths.mean()))


def jsonl(path: Path) -> list[dict]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def short(data: Path) -> Labelled:
    """AG News, four topics, 68 tokens a text."""
    read = jsonl(data / "ag_news" / "train.jsonl")
    return [row["text"] for row in read], [row["label"] for row in read]


def long(data: Path) -> Labelled:
    """Titles and abstracts of US patents, eight sections, 175 tokens a text."""
    read = jsonl(data / "patents" / "train.jsonl")
    return [f"{row['title']}. {row['abstract']}" for row in read], [SECTIONS[row["section"]] for row in read]


def mixed(data: Path) -> Labelled:
    """Reuters-21578, 278 tokens a text, one in a hundred above 1,250; the first of a row's topics."""
    read = [row for row in jsonl(data / "reuters" / "train.jsonl") if row["labels"]]
    return [row["text"] for row in read], [row["labels"][0] for row in read]


def banking(data: Path, part: str) -> Labelled:
    """BANKING77, 77 intents in words, 12 tokens a text."""
    with (data / "banking77" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    return [row["text"] for row in read], [row["category"].replace("_", " ") for row in read]


def questions(data: Path) -> Labelled:
    """The test rows of BANKING77: none that a model has learnt from."""
    return banking(data, "test")


def toy(data: Path | None = None) -> Labelled:
    """Made-up rows of 3 to 40 words, two labels, for a machine without the data."""
    rng = generator(0, "toy rows of the speed benchmark")
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 41))) for _ in range(256)]
    return texts, [("even", "odd")[len(text) % 2] for text in texts]


SETS: dict[str, Callable[[Path], Labelled]] = {
    "short": short,
    "long": long,
    "mixed": mixed,
    "questions": questions,
}


def read(name: str, data: Path | None) -> Dataset:
    """The rows of a set; `toy` ones where there is no data."""
    texts, names = SETS[name](data) if data is not None else toy()
    labels = LabelSpace.of(names)
    return Dataset([str(i) for i in range(len(texts))], texts, labels.encode(names), labels)


def questions_to_learn(data: Path | None) -> Dataset:
    """The training rows beside `questions`; toy ones where there is no data."""
    texts, names = banking(data, "train") if data is not None else toy()
    labels = LabelSpace.of(names)
    return Dataset([str(i) for i in range(len(texts))], texts, labels.encode(names), labels)
