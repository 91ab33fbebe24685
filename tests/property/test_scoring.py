"""What holds of scored answers, whatever the texts, the answers and what they share: each has the score it has alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from precision import ROUNDINGS, equal_but_for_rounding
from scipy.special import softmax
from torch import Tensor

from lasttoken.infer.scoring import lay_out_trees, score
from lasttoken.infer.tolerance import bounded_probs, index_tree
from lasttoken.model.backbone import Backbone
from lasttoken.model.kv_cache import prefill
from lasttoken.model.layout import lay_out
from lasttoken.text.answer_tree import grow

# the models are shared by all examples and nothing changes them
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENS = st.lists(st.integers(3, 6), max_size=4)  # of so few that paths share their beginnings
PATHS = st.lists(st.tuples(TOKENS, TOKENS.filter(bool)), min_size=1, max_size=6)
ANSWERS = st.lists(TOKENS.filter(bool).map(tuple), min_size=2, max_size=8, unique=True)
TEXTS = st.lists(st.lists(st.integers(3, 299), min_size=1, max_size=30), min_size=1, max_size=4)
HEADER = st.lists(st.integers(3, 299), max_size=8)


def ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, dtype=np.int64)


def alone(backbone: Backbone, before: list[int], answer: list[int]) -> float:
    """log p(answer | before) in one forward pass over both, nothing shared."""
    whole = torch.tensor([*before, *answer])
    hidden = backbone.hidden(whole, lay_out([len(whole)]))
    assert backbone.vocabulary is not None
    logs: Tensor = backbone.vocabulary(hidden).log_softmax(dim=1)
    return float(sum(logs[len(before) + i - 1, token] for i, token in enumerate(answer)))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
@FEW
@given(header=HEADER, texts=TEXTS, paths=PATHS, kept=st.booleans())
def test_a_path_of_a_tree_scores_as_one_pass_of_its_own(
    name: str, header: list[int], texts: list[list[int]], paths: list, kept: bool, load_shared: Callable[..., Backbone]
) -> None:
    """kept: whether the header has been run before the texts, in a row of its own."""
    backbone, tree = load_shared(name, vocabulary=True), grow(paths)
    with torch.inference_mode():
        before = prefill(backbone, ids(header)) if kept else ids(header)
        batch = lay_out_trees(backbone, before, [ids(text) for text in texts], [tree] * len(texts))
        found = score(backbone, batch)
        wanted = [[alone(backbone, [*header, *text, *context], answer) for context, answer in paths] for text in texts]
    # sums of a few logs of size 5 and more, in float32 and in another order
    equal_but_for_rounding(torch.stack(found), wanted, backbone.compute, rtol=1e-4, atol=1e-4)


@FEW
@given(
    header=HEADER,
    texts=TEXTS,
    answers=ANSWERS,
    tolerance=st.sampled_from([1e-6, 1e-3, 0.05, 0.5]),
    budget=st.integers(1, 60),
    most=st.sampled_from([1, 3, 1024]),
    cells=st.sampled_from([1, 20, 2**18]),
)
def test_a_probability_is_within_the_tolerance_of_the_exact_one(
    header: list[int],
    texts: list[list[int]],
    answers: list[tuple[int, ...]],
    tolerance: float,
    budget: int,
    most: int,
    cells: int,
    load_shared: Callable[..., Backbone],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few nodes are followed at once, and however few texts together."""
    monkeypatch.setattr("lasttoken.infer.tolerance.MOST", most)
    monkeypatch.setattr("lasttoken.infer.tolerance.CELLS", cells)
    backbone = load_shared("llama", vocabulary=True)
    index, rows = index_tree(grow([((), answer) for answer in answers])), [ids(text) for text in texts]
    cache = prefill(backbone, ids(header))
    with torch.inference_mode():
        found = bounded_probs(backbone, index, cache, rows, tolerance=tolerance, budget=budget)
        exact = [[alone(backbone, [*header, *text], list(answer)) for answer in answers] for text in texts]
    assert found.sum(axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-9)
    rounding = 1e-5 if backbone.compute == torch.float32 else ROUNDINGS * torch.finfo(backbone.compute).eps
    assert np.abs(found - softmax(exact, axis=1)).max() <= tolerance + rounding
