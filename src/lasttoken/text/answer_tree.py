"""Answers as a prefix tree (trie) of tokens: shared prefixes run once, and one forward pass scores all answers.

A path is context tokens (not scored; a question, say), then answer tokens (scored). Paths share the nodes of their
common prefix. A scored token is predicted at its parent node; the root is the last token of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Path = tuple[Sequence[int], Sequence[int]]  # context, answer; token ids
ROOT = -1
MOST = 1024  # nodes after a text in one pass: the cost of attention among them is quadratic


@dataclass(frozen=True, eq=False)
class Tree:
    """A nodes, U of them (or the root) with predictions; Q predictions (node, token) are the terms of all scores."""

    tokens: np.ndarray  # (A,) int64
    parents: np.ndarray  # (A,) int64, below the node's own number, or ROOT
    nodes: np.ndarray  # (U,) int64, nodes with predictions; ROOT is the text's last token
    at: np.ndarray  # (Q,) int64, index into nodes, ascending
    predicted: np.ndarray  # (Q,) int64 token ids
    of: np.ndarray  # (E,) int64, prediction that is a term ...
    path: np.ndarray  # (E,) int64, ... of this path's score
    paths: int  # number of paths

    @cached_property
    def lineage(self) -> np.ndarray:
        """Each node's path from the root, the node last, (A, depth of the tree) int64, padded with -1."""
        chains: list[list[int]] = []
        for node, parent in enumerate(self.parents.tolist()):
            chains.append([*([] if parent == ROOT else chains[parent]), node])
        found = np.full((len(chains), max(map(len, chains), default=0)), -1, dtype=np.int64)
        for row, chain in zip(found, chains, strict=True):
            row[: len(chain)] = chain
        return found

    @property
    def branches(self) -> int:
        """Nodes without children, at least 1: the times that a text runs where rows are padded."""
        return max(1, len(self.tokens) - len(set(self.parents.tolist()) - {ROOT}))

    @cached_property
    def ancestors(self) -> np.ndarray:
        """Ancestor-or-self mask (A, A) bool: node i attends to node j."""
        return sees(self.lineage, np.arange(len(self.tokens)))


def sees(lineage: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Mask (n, K) bool of the distinct nodes `keys` (K,) that each query attends to. lineage: (n, D) of the queries."""
    place = np.full(max(lineage.max(initial=-1), keys.max(initial=-1)) + 2, len(keys))  # the last entry serves -1
    place[keys] = np.arange(len(keys))
    seen = np.zeros((len(lineage), len(keys) + 1), dtype=bool)
    np.put_along_axis(seen, place[lineage], True, axis=1)
    return seen[:, :-1]


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the prefix that all sequences share."""
    whole = [tuple(sequence) for sequence in sequences]
    pairs = list(zip(min(whole), max(whole), strict=False))  # the prefix of the extremes is that of all
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def in_groups(paths: Sequence[Path], most: int) -> list[np.ndarray]:
    """Indices of `paths` in groups whose trees have at most `most` nodes; paths with a common prefix stay together.

    A longer path is a group of its own. The prefix of all paths (a question's opening, say) does not count.
    """
    whole = [(*context, *answer) for context, answer in paths]
    order = sorted(range(len(whole)), key=whole.__getitem__)
    shared = common_prefix_length(whole)
    groups: list[list[int]] = []
    nodes: set[tuple[int, ...]] = set()  # of the last group's tree, each as its prefix
    for i in order:
        own = {whole[i][:n] for n in range(shared + 1, len(whole[i]))}
        if not groups or len(nodes) + len(own - nodes) > most:
            groups.append([])
            nodes = set()
        groups[-1].append(i)
        nodes |= own
    return [np.sort(group) for group in groups]


def grow(paths: Sequence[Path]) -> Tree:
    """The tree of `paths`. An answer's last token is predicted but is no node, unless a longer path continues it."""
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
    ordered = sorted(predictions, key=lambda prediction: prediction[0])  # stable: by node, then by first appearance
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
