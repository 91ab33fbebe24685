"""Log-probabilities of answers: packed texts, each followed by its answer tree, scored in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.model.backbone import Backbone
from lasttoken.model.device import put
from lasttoken.model.kv_cache import KVCache
from lasttoken.model.layout import KeysValues, Layout, lay_out
from lasttoken.text.answer_tree import Tree

CHUNK = 1024  # positions whose vocabulary logits are in memory at once


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """A packed row, and its predictions. The row is the header (unless it is cached), then each text with its tree."""

    tokens: Tensor  # (T,) int64
    layout: Layout
    places: Tensor  # (n,) int64, tokens at which the vocabulary head runs
    at: Tensor  # (Q,) int64, index into places, ascending
    predicted: Tensor  # (Q,) int64 token ids
    of: Tensor  # (E,) int64, prediction that is a term of a path's score
    path: Tensor  # (E,) int64, that path, numbered across all texts
    paths: list[int]  # number of paths of each text


def lay_out_trees(
    backbone: Backbone, header: np.ndarray | KVCache, texts: Sequence[np.ndarray], trees: Sequence[Tree]
) -> TreeBatch:
    """One packed row: a shared header, then each text followed by its tree. header: tokens (P,), or their KV cache."""
    lengths = [len(text) for text in texts]
    cached = header.states if isinstance(header, KVCache) and len(header) else None
    layout = lay_out_behind(len(header), lengths, trees, cached=cached, device=backbone.device)
    pieces = [piece for text, tree in zip(texts, trees, strict=True) for piece in (text, tree.tokens)]
    at, predicted, of, path = [], [], [], []
    seen = np.zeros(3, dtype=np.int64)  # numbers of places, predictions and paths so far
    for tree in trees:
        at.append(tree.at + seen[0])
        predicted.append(tree.predicted)
        of.append(tree.of + seen[1])
        path.append(tree.path + seen[2])
        seen += [len(tree.nodes), len(tree.predicted), tree.paths]

    def joined(parts: Sequence[np.ndarray]) -> Tensor:
        return put(np.concatenate(parts).astype(np.int64), backbone.device)

    return TreeBatch(
        joined(pieces if isinstance(header, KVCache) else [header, *pieces]),
        layout,
        joined([places_of(layout.first, lengths, trees)]),
        *(joined(at), joined(predicted), joined(of), joined(path)),
        paths=[tree.paths for tree in trees],
    )


def lay_out_behind(
    header: int,
    lengths: Sequence[int],
    trees: Sequence[Tree],
    *,
    cached: KeysValues | None = None,
    device: torch.device | str = "cpu",
    kind: str | None = None,
) -> Layout:
    """The layout of `header` tokens, then texts of `lengths` tokens, each with its tree. Options as in `lay_out`."""
    return lay_out(
        [n + len(tree.tokens) for n, tree in zip(lengths, trees, strict=True)],
        prefix=header,
        cached=cached,
        trees=[tree.ancestors for tree in trees],
        device=device,
        kind=kind,
    )


def places_of(first: int, lengths: Sequence[int], trees: Sequence[Tree]) -> np.ndarray:
    """Indices (n,) int64 of the row's tokens at which predictions are made. first: index of the first text."""
    places, start = [], first
    for length, tree in zip(lengths, trees, strict=True):
        start += length
        places.append(start + tree.nodes)  # ROOT is -1: the text's last token itself
        start += len(tree.tokens)
    return np.concatenate(places).astype(np.int64)


def score(backbone: Backbone, batch: TreeBatch, embeddings: Tensor | None = None) -> list[Tensor]:
    """log p(answer | header, text, context) of every path, float32: one tensor (paths,) per text.

    embeddings: (T, H), used instead of the batch's tokens.
    """
    head = backbone.vocabulary
    assert head is not None, "loaded without its vocabulary head"
    inputs = batch.tokens if embeddings is None else embeddings
    hidden = backbone.hidden(inputs, batch.layout)[batch.places]  # (n, H)
    predictions = log_probs(head, hidden, batch.at, batch.predicted)  # (Q,)
    totals = predictions.new_zeros(sum(batch.paths)).index_add(0, batch.path, predictions[batch.of])
    return list(totals.split(batch.paths))


def log_probs(head: nn.Module, hidden: Tensor, at: Tensor, predicted: Tensor) -> Tensor:
    """log p(predicted token | tokens before it), (Q,) float32.

    hidden: (n, H). at: (Q,) index into hidden, ascending. At most CHUNK rows of vocabulary logits are in memory.
    """
    found, starts = [], range(0, len(hidden), CHUNK)
    bounds = [0, len(at)]  # predictions of each chunk; several are counted on the device, which it is waited for
    if len(starts) > 1:
        bounds = torch.searchsorted(at, torch.tensor([*starts, len(hidden)], device=at.device)).tolist()
    for start, (first, last) in zip(starts, pairwise(bounds), strict=True):
        logits = head(hidden[start : start + CHUNK])  # (chunk, V) float32
        local = at[first:last] - start
        found.append(logits[local, predicted[first:last]] - logits.logsumexp(dim=1)[local])
    return torch.cat(found)
