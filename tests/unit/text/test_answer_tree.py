"""Answers as one tree of tokens, on a tree small enough to write down."""

import numpy as np

from lasttoken.text.answer_tree import ROOT, common_prefix_length, grow, sees


def test_a_label_that_begins_another_shares_its_tokens() -> None:
    tree = grow([([], [5, 9]), ([], [5, 6, 9]), ([], [7, 9])])
    assert tree.tokens.tolist() == [5, 6, 7]
    assert tree.ancestors.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert tree.nodes.tolist() == [ROOT, 0, 1, 2]
    found = [(int(tree.nodes[a]), int(p)) for a, p in zip(tree.at, tree.predicted, strict=True)]
    assert found == [
        (ROOT, 5),
        (ROOT, 7),
        (0, 9),
        (0, 6),
        (1, 9),
        (2, 9),
    ]  # by node: scoring goes through them in chunks
    assert tree.of.tolist() == [0, 2, 0, 3, 4, 1, 5]
    assert tree.path.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert tree.paths == 3


def test_context_is_run_but_not_scored() -> None:
    tree = grow([([1, 2], [3]), ([1, 2], [4])])
    assert tree.tokens.tolist() == [1, 2]
    assert tree.nodes.tolist() == [1]
    assert tree.predicted.tolist() == [3, 4]


def test_answers_of_one_token_need_no_node() -> None:
    tree = grow([([], [3]), ([], [4])])
    assert tree.tokens.tolist() == []
    assert tree.ancestors.shape == (0, 0)
    assert tree.nodes.tolist() == [ROOT]


def test_equal_paths_are_scored_twice_and_run_once() -> None:
    tree = grow([([1], [2, 3]), ([1], [2, 3])])
    assert tree.tokens.tolist() == [1, 2]
    assert tree.predicted.tolist() == [2, 3]
    assert tree.of.tolist() == [0, 1, 0, 1]
    assert tree.path.tolist() == [0, 0, 1, 1]


def test_who_sees_whom_among_some_nodes() -> None:
    tree = grow([((), (1, 2, 3, 9)), ((), (1, 4, 9)), ((), (5, 9))])  # nodes 1, 2, 3 in a row, 4 below 1, 5 alone
    assert tree.parents.tolist() == [-1, 0, 1, 0, -1]
    assert tree.lineage.tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 3, -1], [4, -1, -1]]
    found = sees(tree.lineage[[2, 3]], np.array([0, 3, 2]))
    assert found.tolist() == [[True, False, True], [True, True, False]]
    assert sees(tree.lineage[:0], np.array([0])).shape == (0, 1)
    assert common_prefix_length([[1, 2, 3], [1, 2], [1, 4]]) == 1
