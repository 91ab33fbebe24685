"""What holds of packed rows whatever texts travel together, in whatever order and batches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from precision import equal_but_for_rounding
from tiny import ENCODERS

from lasttoken.infer.batches import in_batches, pack
from lasttoken.infer.head import head_probs
from lasttoken.labels import LabelSpace
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.distributed import World

# the models are shared by all examples and nothing changes them
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.lists(st.lists(st.integers(3, 299), min_size=1, max_size=40), min_size=1, max_size=8)
NAMES = ["llama", "mistral", "gemma3", "gpt2", "phi3-longrope", "modernbert", "roberta"]


def as_encoded(rows: list[list[int]]) -> Encoded:
    return Encoded([np.array(row, dtype=np.int32) for row in rows], np.zeros(len(rows), dtype=np.int64), 64)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(rows=ROWS)
def test_a_packed_row_gives_what_each_text_gives_alone(
    name: str, rows: list[list[int]], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, kind="encoder" if name in ENCODERS else "decoder")
    encoded = as_encoded(rows)
    together = pack(encoded, np.arange(len(rows)), backbone)
    with torch.inference_mode():
        found = backbone.hidden(together.inputs, together.layout)
        alone = []
        for i in range(len(rows)):
            one = pack(encoded, np.array([i]), backbone)
            alone.append(backbone.hidden(one.inputs, one.layout))
    # products of other shapes sum float32 in another order: 1e-6 of states of size 1 to 5
    equal_but_for_rounding(found, torch.cat(alone), backbone.compute, rtol=1e-5, atol=1e-5)
    assert together.layout.ends.tolist() == (np.cumsum([len(row) for row in rows]) - 1).tolist()


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(rows=ROWS.filter(lambda rows: len(rows) > 1), which=st.integers(0, 7), shift=st.integers(1, 296))
def test_a_text_that_changes_moves_no_other(
    name: str,
    rows: list[list[int]],
    which: int,
    shift: int,
    load_shared: Callable[..., Backbone],
) -> None:
    """Bit for bit: whatever the neighbours hold, they are not looked at."""
    backbone = load_shared(name, kind="encoder" if name in ENCODERS else "decoder")
    which %= len(rows)
    other = [*rows[:which], [3 + (token - 3 + shift) % 297 for token in rows[which]], *rows[which + 1 :]]
    batches = [pack(as_encoded(texts), np.arange(len(rows)), backbone) for texts in (rows, other)]
    with torch.inference_mode():
        before, after = (backbone.hidden(batch.inputs, batch.layout) for batch in batches)
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row])
    mine = owner == which
    assert torch.equal(after[~mine], before[~mine])
    assert not torch.equal(after[mine], before[mine])


@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max", "attention"])
@FEW
@given(rows=ROWS, budget=st.integers(1, 200), seed=st.integers(0, 99))
def test_order_and_batches_do_not_change_probabilities(
    pooling: str, rows: list[list[int]], budget: int, seed: int, load_shared: Callable[..., Backbone]
) -> None:
    backbone, labels = load_shared("qwen3"), LabelSpace(("a", "b", "c"))
    torch.manual_seed(0)
    head = Head(backbone.width, 3, pooling=pooling, kind="mlp")
    probs = head_probs(backbone, head, as_encoded(rows), labels, budget=10_000)
    assert probs.sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = head_probs(backbone, head, as_encoded([rows[i] for i in order]), labels, budget=budget)
    equal_but_for_rounding(shuffled, probs[order], backbone.compute, rtol=0, atol=1e-5)  # float32 sums in another order


@FEW
@given(rows=ROWS, budget=st.integers(1, 100), size=st.integers(1, 3))
def test_processes_share_the_rows_out(
    rows: list[list[int]], budget: int, size: int, load_shared: Callable[..., Backbone]
) -> None:
    encoded = as_encoded(rows)
    dealt = [
        int(row)
        for rank in range(size)
        for chosen, _ in in_batches(encoded.lengths, list, load_shared("llama"), budget=budget, world=World(rank, size))
        for row in chosen
    ]
    assert sorted(dealt) == list(range(len(rows)))
