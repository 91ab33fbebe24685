"""Label probabilities to a stated tolerance: the likely beginnings of answers are followed, the others cannot matter.

Each further token of an answer can only make it less likely, so a beginning bounds every label that begins so. The text
is run once and its keys and values are kept; from there the tree of answers is followed, pass by pass, until the labels
not followed to their end share no more than `tolerance` of the probability. What a beginning has is spread evenly over
its labels, so no probability is further than the tolerance from the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from lasttoken.methods.scoring import log_probs
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.recall import NOWHERE, Past, causal, go_on
from lasttoken.text.batch import under_budget
from lasttoken.text.tree import MOST, ROOT, Tree, sees

CELLS = 2**18  # texts that are followed together, times the nodes, predictions or labels of the tree, at most


@dataclass(frozen=True, eq=False)
class Walk:
    """How a tree of answers (Q predictions, A nodes, C labels) is followed from its root."""

    tree: Tree
    node: np.ndarray  # (Q,) int64, where each prediction is made
    before: np.ndarray  # (Q,) int64, the prediction that leads there; -1 at the root
    depth: np.ndarray  # (Q,) int64, predictions before it
    nodes: np.ndarray  # (C, D) int64, the nodes of each label's path from the root down, -1 behind its end
    ends: np.ndarray  # (C,) int64, the last prediction of each label
    arrives: np.ndarray  # (A + 1,) int64, the prediction that leads to each node; at last, where -1 points, any
    labels: np.ndarray  # (A + 1,) int64, labels whose paths go through each node; at last 1
    forced: np.ndarray  # (A,) int64, the one node that can follow; -1 where there is a choice, or an end
    chain: np.ndarray  # (A,) int64, nodes that follow so, the first one counted


def walk_of(tree: Tree) -> Walk:
    """The walk of a tree whose answers have no context."""
    node, size = tree.nodes[tree.at], len(tree.tokens)
    steps = [tree.of[tree.path == c] for c in range(tree.paths)]
    before, depth = np.full(len(node), -1), np.zeros(len(node), dtype=np.int64)
    arrives, labels = np.full(size, -1), np.zeros(size, dtype=np.int64)
    nodes = np.full((tree.paths, max(map(len, steps)) - 1), -1)
    for path, row in zip(steps, nodes, strict=True):
        inner = node[path[1:]]  # the nodes of the path; its first prediction is made at the root
        row[: len(inner)] = inner
        before[path[1:]], depth[path], arrives[inner] = path[:-1], np.arange(len(path)), path[:-1]
        labels[inner] += 1
    parents = node[arrives]
    made = np.bincount(node + 1, minlength=size + 1)  # predictions at ROOT, then at each node
    only = (parents != ROOT) & (made[parents + 1] == 1) & (labels == labels[parents])
    forced = np.full(size, -1)
    forced[parents[only]] = np.flatnonzero(only)
    chain = np.ones(size, dtype=np.int64)
    for one in range(size - 1, -1, -1):  # what follows has the larger number
        chain[one] += chain[forced[one]] if forced[one] >= 0 else 0
    ends = np.array([path[-1] for path in steps])
    return Walk(tree, node, before, depth, nodes, ends, np.append(arrives, 0), np.append(labels, 1), forced, chain)


def bounded_probs(
    backbone: Backbone, walk: Walk, header: Past, texts: Sequence[np.ndarray], *, tolerance: float, budget: int
) -> np.ndarray:
    """Probabilities (N, C) float64, each within `tolerance` of the exact one, of texts that an answer follows at once.

    budget: new tokens in one pass through the model, at most, as long as a text does not need more by itself.
    """
    together = max(1, CELLS // max(len(walk.tree.tokens), len(walk.node), len(walk.ends)))
    parts = [texts[start : start + together] for start in range(0, len(texts), together)]
    return np.concatenate(
        [followed(backbone, walk, header, part, tolerance=tolerance, budget=budget) for part in parts]
    )


def followed(
    backbone: Backbone, walk: Walk, header: Past, texts: Sequence[np.ndarray], *, tolerance: float, budget: int
) -> np.ndarray:
    """`bounded_probs` of texts (B) whose pasts are kept together, (B, C) float64."""
    lengths = np.array([len(text) for text in texts])
    ends = lengths.cumsum()
    positions = np.concatenate([len(header) + np.arange(n) for n in lengths])
    layout = go_on(header, [NOWHERE] * len(texts), [causal(n) for n in lengths], positions, read=ends - 1)
    with backbone.autocast():
        hidden = backbone.hidden(to_tensor(np.concatenate(texts), backbone), layout)
    known = Known(
        np.full((len(texts), len(walk.node)), -np.inf),
        np.full((len(texts), len(walk.forced)), -1),
        [len(header) + np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)],
        len(header) + lengths,
    )
    rows = np.arange(len(texts))
    learn(backbone, walk, known, hidden[ends - 1], rows, np.full(len(rows), ROOT))
    follow(backbone, walk, known, layout.joined(), rows, tolerance, budget)
    return softmax(standing(walk, known, rows)[0], axis=1)


@dataclass(frozen=True, eq=False)
class Known:
    """What has been found out of B texts; its arrays are filled as the tree is followed."""

    reached: np.ndarray  # (B, Q) float64, log-probability of the beginning that ends with a prediction
    places: np.ndarray  # (B, A) int64, where a node stands in the past; -1: not followed
    texts: list[np.ndarray]  # where the tokens of each text stand in the past
    begins: np.ndarray  # (B,) int64, position of the first token of an answer


def standing(walk: Walk, known: Known, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log-scores (rows, C), the node (rows, C) that a label waits at, -1 where it is followed to its end).

    A label that waits has an even share of what its beginning has, which is the most that its fellows and it can have.
    """
    reached, places = known.reached[rows], known.places[rows]
    waits = np.full((len(rows), len(walk.ends)), -1)
    for nodes in walk.nodes.T[::-1]:  # the first node not followed has the last word
        waits = np.where((nodes >= 0) & (places[:, nodes] < 0), nodes, waits)
    most = np.take_along_axis(reached, walk.arrives[waits], axis=1) - np.log(walk.labels[waits])
    return np.where(waits < 0, reached[:, walk.ends], most), waits


def follow(
    backbone: Backbone, walk: Walk, known: Known, past: Past, rows: np.ndarray, tolerance: float, budget: int
) -> None:
    """Fill `known` for `rows` until what waits has no more than `tolerance` of the probability of each."""
    while len(rows):
        scores, waits = standing(walk, known, rows)
        probs = softmax(scores, axis=1)
        open_ = np.where(waits < 0, 0, probs).sum(axis=1) > tolerance
        rows, probs, waits = rows[open_], probs[open_], waits[open_]
        chosen = [choose(walk, p, w, tolerance) for p, w in zip(probs, waits, strict=True)]
        sizes = np.array([len(nodes) for nodes in chosen], dtype=np.int64)
        groups = under_budget(np.arange(len(rows)), sizes, budget)
        if len(groups) > 1:  # each on its own from here on, from the same past
            for group in groups:
                follow(backbone, walk, known, past, rows[group], tolerance, budget)
            return
        if len(rows):
            past = step(backbone, walk, known, past, rows, chosen)


def choose(walk: Walk, probs: np.ndarray, waits: np.ndarray, tolerance: float) -> np.ndarray:
    """The nodes to follow next for one text: those it waits at, but for the least likely (half the tolerance together).

    A node behind which there is no choice is followed with what comes after it. So many that MOST nodes come of it at most;
    what is less likely waits for the next pass.
    """
    waiting = np.flatnonzero(waits >= 0)
    nodes, index = np.unique(waits[waiting], return_inverse=True)
    shares = np.bincount(index, probs[waiting])
    order = np.argsort(shares, kind="stable")
    kept = nodes[order[shares[order].cumsum() > tolerance / 2]][::-1]  # the likeliest first
    chosen = [kept[: max(1, int((walk.chain[kept].cumsum() <= MOST).sum()))]]
    while len(chosen[-1]):
        after = walk.forced[chosen[-1]]
        chosen.append(after[after >= 0])
    return np.sort(np.concatenate(chosen))


def step(
    backbone: Backbone, walk: Walk, known: Known, past: Past, rows: np.ndarray, chosen: Sequence[np.ndarray]
) -> Past:
    """One pass through the model: the chosen nodes of each row, behind its text and the nodes above them.

    Returns the past, grown by them.
    """
    seen, masks, positions = [], [], []
    start = len(past)
    for row, nodes in zip(rows, chosen, strict=True):
        lineage = walk.tree.lineage[nodes]  # (n, D)
        above = np.setdiff1d(lineage[lineage >= 0], nodes)  # followed before
        text = known.texts[row]
        seen.append(np.concatenate([text, known.places[row, above]]))
        see = [np.ones((len(nodes), len(text)), dtype=bool), sees(lineage, np.r_[above, nodes])]
        masks.append(np.hstack(see))
        positions.append(known.begins[row] + (lineage >= 0).sum(axis=1) - 1)
        known.places[row, nodes] = start + np.arange(len(nodes))
        start += len(nodes)
    layout = go_on(past, seen, masks, np.concatenate(positions))
    nodes = np.concatenate(chosen)
    with backbone.autocast():
        hidden = backbone.hidden(to_tensor(walk.tree.tokens[nodes], backbone), layout)
    learn(backbone, walk, known, hidden, np.repeat(rows, [len(x) for x in chosen]), nodes)
    return layout.joined()


def learn(backbone: Backbone, walk: Walk, known: Known, hidden: Tensor, rows: np.ndarray, nodes: np.ndarray) -> None:
    """Fill in what is predicted at hidden states (n, H), each of a text `rows` (n,) at a node `nodes` (n,)."""
    first, last = np.searchsorted(walk.node, nodes), np.searchsorted(walk.node, nodes, side="right")
    at = np.repeat(np.arange(len(nodes)), last - first)
    made = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    assert backbone.vocabulary is not None, "loaded without its vocabulary head"
    with backbone.autocast():
        found = log_probs(
            backbone.vocabulary,
            hidden,
            torch.from_numpy(at).to(backbone.device),
            to_tensor(walk.tree.predicted[made], backbone),
        )
    values, owner = found.double().cpu().numpy(), rows[at]
    for depth in np.unique(walk.depth[made]):  # what a pass follows may stand on what it has just followed
        here = walk.depth[made] == depth
        row, prediction = owner[here], made[here]
        known.reached[row, prediction] = values[here] + (known.reached[row, walk.before[prediction]] if depth else 0)
