"""Answers as one tree of tokens, so that what they share is computed once and all are scored in one pass.

A path is context tokens (not scored; a question, say) followed by answer tokens (scored). Paths that begin alike
share nodes. Every scored token is predicted at the node before it, the root being the last token of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Path = tuple[Sequence[int], Sequence[int]]  # context, answer; token ids
ROOT = -1
MOST = 1024  # nodes that stand behind a text at a time: attention among them grows with their square


@dataclass(frozen=True, eq=False)
class Tree:
    """A nodes; U of them (or the root) predict; Q predictions (node, token) make up the scores of all paths."""

    tokens: np.ndarray  # (A,) int64
    parents: np.ndarray  # (A,) int64, a smaller number than the node's own, or ROOT
    nodes: np.ndarray  # (U,) int64, where predictions are made; ROOT is the text's last token
    at: np.ndarray  # (Q,) int64, index into nodes, never falling
    predicted: np.ndarray  # (Q,) int64 token ids
    of: np.ndarray  # (E,) int64, prediction ...
    path: np.ndarray  # (E,) int64, ... and the path whose score it is part of
    paths: int

    @cached_property
    def lineage(self) -> np.ndarray:
        """The nodes from the root down to each node, itself the last, (A, depth of the tree) int64; -1 behind it."""
        chains: list[list[int]] = []
        for node, parent in enumerate(self.parents.tolist()):
            chains.append([*([] if parent == ROOT else chains[parent]), node])
        found = np.full((len(chains), max(map(len, chains), default=0)), -1, dtype=np.int64)
        for row, chain in zip(found, chains, strict=True):
            row[: len(chain)] = chain
        return found

    @cached_property
    def ancestors(self) -> np.ndarray:
        """Who sees whom, (A, A) bool: row i may see column j, itself included."""
        return sees(self.lineage, np.arange(len(self.tokens)))


def sees(lineage: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which of `keys` (K,), different nodes, each query may see, (n, K) bool. lineage: (n, D), of the queries; -1 for none."""
    place = np.full(max(lineage.max(initial=-1), keys.max(initial=-1)) + 2, len(keys))  # the last one is that of -1
    place[keys] = np.arange(len(keys))
    seen = np.zeros((len(lineage), len(keys) + 1), dtype=bool)
    np.put_along_axis(seen, place[lineage], True, axis=1)
    return seen[:, :-1]


def alike(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with."""
    whole = [tuple(sequence) for sequence in sequences]
    pairs = list(zip(min(whole), max(whole), strict=False))  # what these two begin with, all do
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def in_groups(paths: Sequence[Path], most: int) -> list[np.ndarray]:
    """The numbers of `paths` in groups, those that begin alike together: each is one path, or its tree has `most` nodes or fewer.

    What all paths begin with (a question's opening, say) is not counted: every tree has it.
    """
    whole = [(*context, *answer) for context, answer in paths]
    order = sorted(range(len(whole)), key=whole.__getitem__)
    shared = alike(whole)
    groups: list[list[int]] = []
    nodes: set[tuple[int, ...]] = set()  # of the last group's tree, each by the tokens that lead to it
    for i in order:
        own = {whole[i][:n] for n in range(shared + 1, len(whole[i]))}
        if not groups or len(nodes) + len(own - nodes) > most:
            groups.append([])
            nodes = set()
        groups[-1].append(i)
        nodes |= own
    return [np.sort(group) for group in groups]


def grow(paths: Sequence[Path]) -> Tree:
    """The tree of `paths`. The last token of an answer is predicted but is no node, unless a longer path goes through it."""
    children: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    parents: list[int] = []
    tokens: list[int] = []
    predictions: dict[tuple[int, int], int] = {}  # (node, token) -> prediction
    of, path = [], []
    for number, (context, answer) in enumerate(paths):
        place = ROOT
        whole = [*context, *answer]
        for depth, token in enumerate(whole):
            if depth >= len(context):
                of.append(predictions.setdefault((place, token), len(predictions)))
                path.append(number)
            if depth == len(whole) - 1:
                break
            if (place, token) not in children:
                children[place, token] = len(tokens)
                tokens.append(token)
                parents.append(place)
            place = children[place, token]
    nodes = sorted({node for node, _ in predictions})
    index = {node: i for i, node in enumerate(nodes)}
    ordered = sorted(predictions, key=lambda prediction: prediction[0])  # stable: by node, then as they came
    rank = np.empty(len(ordered), dtype=np.int64)
    rank[[predictions[prediction] for prediction in ordered]] = np.arange(len(ordered))
    return Tree(
        np.array(tokens, dtype=np.int64),
        np.array(parents, dtype=np.int64),
        np.array(nodes, dtype=np.int64),
        np.array([index[node] for node, _ in ordered], dtype=np.int64),
        np.array([token for _, token in ordered], dtype=np.int64),
        rank[of],
        np.array(path, dtype=np.int64),
        len(paths),
    )
