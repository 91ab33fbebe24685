"""A packed row as rows padded on the right, for models in which packing is not exact.

Such a model keeps its own attention, mask and position ids. In a causal model, padding on the right changes no state
before it, in state-space and linear-attention layers too; an encoder follows its mask. Texts of similar length share a
forward pass, so that padding stays below a third of the tokens. A shared prefix runs again before every text, and a
text again before every branch of its token tree: slower than packed, with the same states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasttoken.model.device import put
from lasttoken.model.layout import Layout, length_buckets, padded_length


class Chain(NamedTuple):
    """Tokens of a packed row that make one row of their own: prefix, text, and one branch of its tree."""

    tokens: np.ndarray  # (n,) int64, index into the packed row
    own: np.ndarray  # (n,) bool, tokens in no earlier chain, whose states are taken from this one


class Rows(NamedTuple):
    """B chains padded to L tokens: the input of one forward pass."""

    inputs: Tensor  # (B, L) int64 token ids, or (B, L, H) input embeddings
    mask: Tensor  # (B, L) int64, 1 for tokens and 0 for padding
    own: Tensor  # (n,) int64, index into B * L of the tokens whose states are taken
    tokens: Tensor  # (n,) int64, index of each of them into the packed row


def in_rows(inputs: Tensor, layout: Layout, *, filling: int, longest: int) -> Iterator[Rows]:
    """The packed row `inputs`, (T,) or (T, H), as padded rows in which each of its tokens is taken once.

    A forward pass has no more tokens than the packed row, unless one chain does. filling: token id of padding.
    longest: maximum length that padding may bring a row to.
    """
    assert layout.cached is None, "padded rows have no KV cache"
    every = chains(layout)
    lengths = np.array([len(chain.tokens) for chain in every])
    for members in length_buckets(lengths):
        most = int(lengths[members].max())
        size = max(most, min(padded_length(most, layout.kind), longest))
        together = max(1, len(inputs) // size)
        for start in range(0, len(members), together):
            yield rows_of(inputs, [every[i] for i in members[start : start + together]], size, filling)


def rows_of(inputs: Tensor, members: Sequence[Chain], size: int, filling: int) -> Rows:
    """The chains of a packed row as rows of `size` tokens."""
    real = np.arange(size) < np.array([len(chain.tokens) for chain in members])[:, None]  # (B, L)
    index, own = np.zeros(real.shape, dtype=np.int64), np.zeros_like(real)
    index[real] = np.concatenate([chain.tokens for chain in members])
    own[real] = np.concatenate([chain.own for chain in members])
    arrays = index, real, np.flatnonzero(own), index[own]
    where, mask, taken, tokens = (put(array, inputs.device) for array in arrays)
    chosen = inputs[where]
    if not inputs.is_floating_point():
        chosen = chosen.masked_fill(~mask, filling)
    return Rows(chosen, mask.long(), taken, tokens)


def chains(layout: Layout) -> list[Chain]:
    """The rows that a packed row is made of: one per text, or per branch of its token tree."""
    prefix, seen = np.arange(layout.prefix), np.zeros(len(layout.places), dtype=bool)
    found = []
    for start, length, tree in zip(layout.first + layout.starts, layout.lengths, layout.trees, strict=True):
        answers = 0 if tree is None else len(tree)
        text, nodes = start + np.arange(length - answers), start + length - answers + np.arange(answers)
        leaves = [] if tree is None else np.flatnonzero(tree.sum(axis=0) == 1)  # ancestors of none but themselves
        for branch in [nodes[tree[leaf]] for leaf in leaves] if tree is not None and answers else [nodes]:
            tokens = np.concatenate([prefix, text, branch])
            found.append(Chain(tokens, ~seen[tokens]))
            seen[tokens] = True
    return found


def in_order(states: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
    """States (n, H) of each forward pass as those of the packed row, (T, H). tokens: index (n,) of each."""
    return torch.cat(list(states)).index_select(0, torch.cat(list(tokens)).argsort())
