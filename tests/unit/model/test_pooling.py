"""From hidden states to one vector a text."""

import pytest
import torch

from lasttoken.model.pooling import Head, Pool

HIDDEN = torch.tensor([[1.0, 5.0], [3.0, 1.0], [-2.0, -4.0], [0.0, 8.0], [4.0, 0.0], [2.0, 1.0]])
ENDS = torch.tensor([1, 2, 5])  # texts of 2, 1 and 3 tokens


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("last", [[3, 1], [-2, -4], [2, 1]]),
        ("first", [[1, 5], [-2, -4], [0, 8]]),
        ("mean", [[2, 3], [-2, -4], [2, 3]]),
        ("max", [[3, 5], [-2, -4], [4, 8]]),
        ("attention", [[2, 3], [-2, -4], [2, 3]]),  # before training: the mean
    ],
)
def test_pooling(kind: str, wanted: list[list[float]]) -> None:
    assert Pool(kind, 2)(HIDDEN, ENDS).tolist() == wanted


def test_attention_weighs_by_a_softmax_within_each_text() -> None:
    pool = Pool("attention", 2)
    with torch.no_grad():
        pool.query.copy_(torch.tensor([200.0, 0.0]))  # so large that only the first coordinate's largest counts
    assert pool(HIDDEN, ENDS).tolist() == [[3, 1], [-2, -4], [4, 0]]


def test_half_precision_is_pooled_in_float32() -> None:
    assert all(
        Pool(kind, 2)(HIDDEN.bfloat16(), ENDS).dtype == torch.float32
        for kind in ("last", "first", "mean", "max", "attention")
    )


def test_the_head_stays_float32_under_autocast() -> None:
    head = Head(2, 3, kind="mlp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(HIDDEN.bfloat16(), ENDS)
    assert logits.shape == (3, 3)
    assert logits.dtype == torch.float32


def test_a_head_can_do_without_bias() -> None:
    assert sorted(Head(2, 3, bias=False).state_dict()) == ["layers.weight"]
    assert sorted(Head(2, 3, pooling="attention", kind="mlp").state_dict()) == [
        "layers.0.bias",
        "layers.0.weight",
        "layers.2.bias",
        "layers.2.weight",
        "pool.query",
    ]
