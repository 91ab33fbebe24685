"""Trees of answers behind packed texts, run in one pass: the log-probability of every path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.model.attention import KeysValues, Layout, lay_out
from lasttoken.model.backbone import Backbone
from lasttoken.model.recall import Past
from lasttoken.text.tree import Tree

CHUNK = 1024  # vocabulary rows held at once: positions, not tokens


@dataclass(frozen=True, eq=False)
class Scored:
    """A packed row (its header, unless that is kept; then each text with its tree) and where in it something is predicted."""

    tokens: Tensor  # (T,) int64
    layout: Layout
    places: Tensor  # (n,) int64, where the vocabulary head runs
    at: Tensor  # (Q,) int64, index into places, never falling
    predicted: Tensor  # (Q,) int64 token ids
    of: Tensor  # (E,) int64, index into predictions
    path: Tensor  # (E,) int64, counted on through the texts
    paths: list[int]  # of each text


def lay_out_trees(
    backbone: Backbone, header: np.ndarray | Past, texts: Sequence[np.ndarray], trees: Sequence[Tree]
) -> Scored:
    """The packed row of `texts`, each followed by its tree, all behind one shared header: tokens (P,), or what was kept of them."""
    lengths, kept = [len(text) for text in texts], header.states if isinstance(header, Past) and len(header) else None
    layout = lay_out_behind(len(header), lengths, trees, kept=kept, device=backbone.device)
    pieces = [piece for text, tree in zip(texts, trees, strict=True) for piece in (text, tree.tokens)]
    at, predicted, of, path = [], [], [], []
    seen = np.zeros(3, dtype=np.int64)  # places, predictions, paths so far
    for tree in trees:
        at.append(tree.at + seen[0])
        predicted.append(tree.predicted)
        of.append(tree.of + seen[1])
        path.append(tree.path + seen[2])
        seen += [len(tree.nodes), len(tree.predicted), tree.paths]

    def put(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(backbone.device)

    return Scored(
        put(pieces if isinstance(header, Past) else [header, *pieces]),
        layout,
        put([places_of(layout.first, lengths, trees)]),
        *(put(at), put(predicted), put(of), put(path)),
        paths=[tree.paths for tree in trees],
    )


def lay_out_behind(
    header: int,
    lengths: Sequence[int],
    trees: Sequence[Tree],
    *,
    kept: KeysValues | None = None,
    device: torch.device | str = "cpu",
    kind: str | None = None,
) -> Layout:
    """The layout of texts of `lengths` tokens behind `header` tokens, each followed by its tree. kept, kind: as in `lay_out`."""
    return lay_out(
        [n + len(tree.tokens) for n, tree in zip(lengths, trees, strict=True)],
        prefix=header,
        kept=kept,
        trees=[tree.ancestors for tree in trees],
        read=places_of(header if kept is None else 0, lengths, trees),
        device=device,
        kind=kind,
    )


def places_of(first: int, lengths: Sequence[int], trees: Sequence[Tree]) -> np.ndarray:
    """Where in such a row something is predicted, (n,) int64. first: where its texts begin."""
    places, start = [], first
    for length, tree in zip(lengths, trees, strict=True):
        start += length
        places.append(start + tree.nodes)  # ROOT is -1: the text's last token itself
        start += len(tree.tokens)
    return np.concatenate(places).astype(np.int64)


def score(backbone: Backbone, batch: Scored, embeddings: Tensor | None = None) -> list[Tensor]:
    """log p(answer | what stands before it) of every path, float32: one tensor (paths,) a text.

    embeddings: (T, H), in the place of the batch's tokens.
    """
    head = backbone.vocabulary
    assert head is not None, "loaded without its vocabulary head"
    inputs = batch.tokens if embeddings is None else embeddings
    hidden = backbone.hidden(inputs, batch.layout)[batch.places]  # (n, H)
    predictions = log_probs(head, hidden, batch.at, batch.predicted)  # (Q,)
    totals = predictions.new_zeros(sum(batch.paths)).index_add(0, batch.path, predictions[batch.of])
    return list(totals.split(batch.paths))


def log_probs(head: nn.Module, hidden: Tensor, at: Tensor, predicted: Tensor) -> Tensor:
    """log p(predicted | what stands up to there), (Q,) float32, of tokens (Q,) at hidden states `at` (Q,), which never falls.

    hidden: (n, H). No more than CHUNK rows of vocabulary logits exist at once.
    """
    found = []
    for start in range(0, len(hidden), CHUNK):
        logits = head(hidden[start : start + CHUNK])  # (chunk, V) float32
        mine = (at >= start) & (at < start + CHUNK)
        local = at[mine] - start
        found.append(logits[local, predicted[mine]] - logits.logsumexp(dim=1)[local])
    return torch.cat(found)
