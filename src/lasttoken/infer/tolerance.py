"""Label probabilities to a stated tolerance, by best-first search of the answer tree with early stopping.

The probability of an answer's prefix is an upper bound for every label with that prefix. The text runs once and its KV
cache is kept. Each pass then scores the likeliest open nodes, until the labels not fully scored hold at most
`tolerance` of the probability. A prefix's probability is split evenly over its unscored labels, so every probability
is within the tolerance of the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from torch import Tensor

from lasttoken.infer.scoring import log_probs
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.kv_cache import NO_TOKENS, KVCache, causal, lay_out_cached
from lasttoken.text.answer_tree import MOST, ROOT, Tree, sees
from lasttoken.text.batch import under_budget

CELLS = 2**18  # upper limit on texts searched together x nodes, predictions or labels of the tree


@dataclass(frozen=True, eq=False)
class TreeIndex:
    """Lookup tables of an answer tree with Q predictions, A nodes and C labels."""

    tree: Tree
    node: np.ndarray  # (Q,) int64, node at which each prediction is made
    previous: np.ndarray  # (Q,) int64, prediction of that node's own token; -1 at the root
    depth: np.ndarray  # (Q,) int64, number of predictions before it on its path
    nodes: np.ndarray  # (C, D) int64, nodes of each label's path from the root, padded with -1
    ends: np.ndarray  # (C,) int64, last prediction of each label
    incoming: np.ndarray  # (A + 1,) int64, prediction of each node's token; the last entry, for index -1, is unused
    labels: np.ndarray  # (A + 1,) int64, number of labels below each node; the last entry is 1
    only_child: np.ndarray  # (A,) int64, child of a node with exactly one continuation, else -1
    chain_length: np.ndarray  # (A,) int64, length of the chain of only children, this node included


def index_tree(tree: Tree) -> TreeIndex:
    """The lookup tables of a tree whose paths have no context."""
    node, size = tree.nodes[tree.at], len(tree.tokens)
    steps = [tree.of[tree.path == c] for c in range(tree.paths)]
    previous, depth = np.full(len(node), -1), np.zeros(len(node), dtype=np.int64)
    incoming, labels = np.full(size, -1), np.zeros(size, dtype=np.int64)
    nodes = np.full((tree.paths, max(map(len, steps)) - 1), -1)
    for path, row in zip(steps, nodes, strict=True):
        inner = node[path[1:]]  # without the root, where the first prediction is made
        row[: len(inner)] = inner
        previous[path[1:]], depth[path], incoming[inner] = path[:-1], np.arange(len(path)), path[:-1]
        labels[inner] += 1
    parents = node[incoming]
    made = np.bincount(node + 1, minlength=size + 1)  # predictions at ROOT, then at each node
    only = (parents != ROOT) & (made[parents + 1] == 1) & (labels == labels[parents])
    only_child = np.full(size, -1)
    only_child[parents[only]] = np.flatnonzero(only)
    chain_length = np.ones(size, dtype=np.int64)
    for one in range(size - 1, -1, -1):  # children have larger numbers
        chain_length[one] += chain_length[only_child[one]] if only_child[one] >= 0 else 0
    ends = np.array([path[-1] for path in steps])
    return TreeIndex(
        tree, node, previous, depth, nodes, ends, np.append(incoming, 0), np.append(labels, 1), only_child, chain_length
    )


def bounded_probs(
    backbone: Backbone, index: TreeIndex, header: KVCache, texts: Sequence[np.ndarray], *, tolerance: float, budget: int
) -> np.ndarray:
    """Probabilities (N, C) float64, each within `tolerance` of the exact one. The answer directly follows the text.

    budget: maximum number of new tokens in one pass, unless a single text needs more.
    """
    together = max(1, CELLS // max(len(index.tree.tokens), len(index.node), len(index.ends)))
    parts = [texts[start : start + together] for start in range(0, len(texts), together)]
    return np.concatenate(
        [search_part(backbone, index, header, part, tolerance=tolerance, budget=budget) for part in parts]
    )


def search_part(
    backbone: Backbone, index: TreeIndex, header: KVCache, texts: Sequence[np.ndarray], *, tolerance: float, budget: int
) -> np.ndarray:
    """`bounded_probs` of texts (B) that share one KV cache, (B, C) float64."""
    lengths = np.array([len(text) for text in texts])
    ends = lengths.cumsum()
    positions = np.concatenate([len(header) + np.arange(n) for n in lengths])
    layout = lay_out_cached(header, [NO_TOKENS] * len(texts), [causal(n) for n in lengths], positions)
    with backbone.autocast():
        hidden = backbone.hidden(to_tensor(np.concatenate(texts), backbone), layout)
    state = State(
        np.full((len(texts), len(index.node)), -np.inf),
        np.full((len(texts), len(index.only_child)), -1),
        [len(header) + np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)],
        len(header) + lengths,
    )
    rows = np.arange(len(texts))
    add_predictions(backbone, index, state, hidden[ends - 1], rows, np.full(len(rows), ROOT))
    expand(backbone, index, state, layout.extended(), rows, tolerance, budget)
    return softmax(label_scores(index, state, rows)[0], axis=1)


@dataclass(frozen=True, eq=False)
class State:
    """State of the search for B texts; its arrays are filled in place."""

    prefix_scores: np.ndarray  # (B, Q) float64, log-probability of the answer prefix that ends with a prediction
    slots: np.ndarray  # (B, A) int64, index of a node in the cache; -1: not run yet
    text_slots: list[np.ndarray]  # B arrays (tokens,) int64, cache indices of each text
    answer_start: np.ndarray  # (B,) int64, position of the first token of an answer


def label_scores(index: TreeIndex, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log-scores (rows, C); the node (rows, C) to run next for a label, -1 where it is fully scored).

    The score of a label not fully scored is its prefix's probability, an upper bound for all labels with that prefix,
    split evenly among them.
    """
    scores, slots = state.prefix_scores[rows], state.slots[rows]
    pending = np.full((len(rows), len(index.ends)), -1)
    for nodes in index.nodes.T[::-1]:  # from the end, so that the first node not run wins
        pending = np.where((nodes >= 0) & (slots[:, nodes] < 0), nodes, pending)
    shares = np.take_along_axis(scores, index.incoming[pending], axis=1) - np.log(index.labels[pending])
    return np.where(pending < 0, scores[:, index.ends], shares), pending


def expand(
    backbone: Backbone, index: TreeIndex, state: State, cache: KVCache, rows: np.ndarray, tolerance: float, budget: int
) -> None:
    """Score the trees of `rows` until the labels not fully scored hold at most `tolerance` of the probability."""
    while len(rows):
        scores, pending = label_scores(index, state, rows)
        probs = softmax(scores, axis=1)
        open_ = np.where(pending < 0, 0, probs).sum(axis=1) > tolerance
        rows, probs, pending = rows[open_], probs[open_], pending[open_]
        chosen = [choose_nodes(index, p, w, tolerance) for p, w in zip(probs, pending, strict=True)]
        sizes = np.array([len(nodes) for nodes in chosen], dtype=np.int64)
        groups = under_budget(np.arange(len(rows)), sizes, budget)
        if len(groups) > 1:  # each group continues from the same cache
            for group in groups:
                expand(backbone, index, state, cache, rows[group], tolerance, budget)
            return
        if len(rows):
            cache = run_pass(backbone, index, state, cache, rows, chosen)


def choose_nodes(index: TreeIndex, probs: np.ndarray, pending: np.ndarray, tolerance: float) -> np.ndarray:
    """The nodes to run next for one text: its open nodes, without the least likely ones (half the tolerance in total).

    A node with an only child is run together with it, and so on down the chain. Where that is more than MOST nodes, the
    least likely are left for the next pass.
    """
    open_labels = np.flatnonzero(pending >= 0)
    nodes, inverse = np.unique(pending[open_labels], return_inverse=True)
    shares = np.bincount(inverse, probs[open_labels])
    order = np.argsort(shares, kind="stable")
    kept = nodes[order[shares[order].cumsum() > tolerance / 2]][::-1]  # likeliest first
    chosen = [kept[: max(1, int((index.chain_length[kept].cumsum() <= MOST).sum()))]]
    while len(chosen[-1]):
        after = index.only_child[chosen[-1]]
        chosen.append(after[after >= 0])
    return np.sort(np.concatenate(chosen))


def run_pass(
    backbone: Backbone, index: TreeIndex, state: State, cache: KVCache, rows: np.ndarray, chosen: Sequence[np.ndarray]
) -> KVCache:
    """Run the chosen nodes of each row after its text and their ancestors; returns the extended cache."""
    seen, masks, positions = [], [], []
    start = len(cache)
    for row, nodes in zip(rows, chosen, strict=True):
        lineage = index.tree.lineage[nodes]  # (n, D)
        above = np.setdiff1d(lineage[lineage >= 0], nodes)  # run in earlier passes
        text = state.text_slots[row]
        seen.append(np.concatenate([text, state.slots[row, above]]))
        see = [np.ones((len(nodes), len(text)), dtype=bool), sees(lineage, np.r_[above, nodes])]
        masks.append(np.hstack(see))
        positions.append(state.answer_start[row] + (lineage >= 0).sum(axis=1) - 1)
        state.slots[row, nodes] = start + np.arange(len(nodes))
        start += len(nodes)
    layout = lay_out_cached(cache, seen, masks, np.concatenate(positions))
    nodes = np.concatenate(chosen)
    with backbone.autocast():
        hidden = backbone.hidden(to_tensor(index.tree.tokens[nodes], backbone), layout)
    add_predictions(backbone, index, state, hidden, np.repeat(rows, [len(x) for x in chosen]), nodes)
    return layout.extended()


def add_predictions(
    backbone: Backbone, index: TreeIndex, state: State, hidden: Tensor, rows: np.ndarray, nodes: np.ndarray
) -> None:
    """Store the predictions made at hidden states (n, H) in `state`. rows, nodes: (n,), the text and node of each."""
    first, last = np.searchsorted(index.node, nodes), np.searchsorted(index.node, nodes, side="right")
    at = np.repeat(np.arange(len(nodes)), last - first)
    predictions = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    assert backbone.vocabulary is not None, "loaded without its vocabulary head"
    where, tokens = to_tensor(at, backbone), to_tensor(index.tree.predicted[predictions], backbone)
    with backbone.autocast():
        logs = log_probs(backbone.vocabulary, hidden, where, tokens)
    values, owner = logs.cpu().double().numpy(), rows[at]
    for depth in np.unique(index.depth[predictions]):  # a pass may run parent and child: score parents first
        here = index.depth[predictions] == depth
        row, prediction = owner[here], predictions[here]
        prefix = state.prefix_scores[row, index.previous[prediction]] if depth else 0
        state.prefix_scores[row, prediction] = values[here] + prefix
