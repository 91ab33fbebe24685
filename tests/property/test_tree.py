"""What holds of every tree of answers, whatever the answers share."""

from collections import Counter
from itertools import accumulate

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lasttoken.model.attention import bucket_mask
from lasttoken.model.layout import lay_out
from lasttoken.text.answer_tree import ROOT, Path, Tree, grow, in_groups

TOKENS = st.lists(st.integers(0, 3), max_size=4)
PATHS = st.lists(st.tuples(TOKENS, TOKENS.filter(bool)), min_size=1, max_size=8)
MANY = settings(max_examples=150, deadline=None)


def chain(tree: Tree, node: int) -> list[int]:
    """The tokens from the root to a node, itself included, by the ancestors' matrix alone."""
    if node == ROOT:
        return []
    above = np.flatnonzero(tree.ancestors[node])
    return [int(tree.tokens[i]) for i in sorted(above, key=lambda i: tree.ancestors[i].sum())]


def beginnings(paths: list[Path]) -> set[tuple[int, ...]]:
    """Every beginning of every path, its last token left out, that is not empty."""
    return {tuple(whole[:i]) for whole in ([*c, *a] for c, a in paths) for i in range(1, len(whole))}


@MANY
@given(PATHS)
def test_every_path_is_recovered_from_its_predictions(paths: list[Path]) -> None:
    tree = grow(paths)
    assert tree.paths == len(paths)
    for number, (context, answer) in enumerate(paths):
        mine = tree.of[tree.path == number]
        assert len(mine) == len(answer)
        steps = sorted(
            (len(before), before, int(tree.predicted[q]))
            for q in mine
            for before in [chain(tree, int(tree.nodes[tree.at[q]]))]
        )
        assert [token for _, _, token in steps] == list(answer)
        assert [before for _, before, _ in steps] == [
            [*context, *answer][: len(context) + i] for i in range(len(answer))
        ]


@MANY
@given(PATHS)
def test_shared_beginnings_are_computed_once(paths: list[Path]) -> None:
    tree = grow(paths)
    assert sorted(tuple(chain(tree, node)) for node in range(len(tree.tokens))) == sorted(beginnings(paths))
    assert len(set(tree.nodes.tolist())) == len(tree.nodes)
    assert (np.diff(tree.at) >= 0).all()
    assert len(set(zip(tree.at.tolist(), tree.predicted.tolist(), strict=True))) == len(tree.predicted)


@MANY
@given(PATHS)
def test_a_score_is_the_sum_over_its_answer_in_any_language(paths: list[Path]) -> None:
    """With a probability that depends on all that stands before: what the tree adds up is what the path is worth."""

    def cost(before: list[int], token: int) -> float:
        return (sum((i + 2) * t for i, t in enumerate(before)) * 7 + token * 3 + len(before)) % 11

    tree = grow(paths)
    of_predictions = [
        cost(chain(tree, int(tree.nodes[a])), int(p)) for a, p in zip(tree.at, tree.predicted, strict=True)
    ]
    totals = np.zeros(len(paths))
    np.add.at(totals, tree.path, np.array(of_predictions)[tree.of])
    for total, (context, answer) in zip(totals, paths, strict=True):
        befores = [*accumulate(answer, lambda seen, t: [*seen, t], initial=list(context))]
        assert total == sum(cost(before, token) for before, token in zip(befores, answer, strict=False))


@MANY
@given(PATHS, st.integers(1, 6), st.integers(0, 5))
def test_a_token_of_the_tree_sees_the_prefix_the_text_and_its_ancestors(
    paths: list[Path], text: int, prefix: int
) -> None:
    tree = grow(paths)
    size = len(tree.tokens)
    layout = lay_out([text + size, text], prefix=prefix, trees=[tree.ancestors, None])
    assert layout.ends.tolist() == [prefix + text - 1, prefix + 2 * text + size - 1]
    depths = [len(chain(tree, node)) for node in range(size)]
    expected = [
        *range(prefix),
        *range(prefix, prefix + text),
        *(prefix + text + d - 1 for d in depths),
        *range(prefix, prefix + text),
    ]
    assert layout.positions.tolist() == expected
    seen: Counter[tuple[int, int]] = Counter()
    for number, bucket in enumerate(layout.buckets):
        inside = bucket.rows.view(bucket.positions.shape) + prefix  # in the packed row
        mask = bucket_mask(layout, number, None)[:, 0].expand(len(inside), -1, -1)
        for rows, allowed in zip(inside.tolist(), mask.tolist(), strict=True):
            length = text + size if rows[0] == prefix else text
            for query in range(length):
                for key in range(prefix + len(rows)):
                    if allowed[query][key]:
                        assert key - prefix < length  # never padding
                        seen[rows[query], key if key < prefix else rows[key - prefix]] += 1
    first, second = range(prefix, prefix + text + size), range(prefix + text + size, prefix + 2 * text + size)
    wanted = {(q, k) for q in (*first, *second) for k in range(prefix)}
    wanted |= {(q, k) for part in (first, second) for q in part for k in part if k <= q and k < part[0] + text}
    wanted |= {(prefix + text + q, prefix + text + k) for q in range(size) for k in range(size) if tree.ancestors[q, k]}
    assert seen == Counter(wanted)


@MANY
@given(PATHS, TOKENS, st.integers(1, 8))
def test_groups_hold_every_path_once_and_grow_small_trees(paths: list[Path], opening: list[int], most: int) -> None:
    """What all paths begin with is in every tree, however long it is, and does not count."""
    paths = [([*opening, *context], answer) for context, answer in paths]
    groups = in_groups(paths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(paths)))
    whole = [(*context, *answer) for context, answer in paths]
    shared = max(n for n in range(min(map(len, whole)) + 1) if len({path[:n] for path in whole}) == 1)
    for group in groups:
        mine = [paths[i] for i in group]
        nodes = beginnings(mine)
        assert len(grow(mine).tokens) == len(nodes)
        assert sum(len(node) > shared for node in nodes) <= most or len({whole[i] for i in group}) == 1
    if len(beginnings(paths)) <= most:
        assert [group.tolist() for group in groups] == [list(range(len(paths)))]
