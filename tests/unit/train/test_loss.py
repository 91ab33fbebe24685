"""Losses as sums, and weights by class."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lasttoken.train.loss import balanced_weights, class_loss, label_loss


def test_class_loss_is_a_sum_over_rows() -> None:
    loss, count = class_loss(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert loss.item() == pytest.approx(3 * math.log(4))
    assert count == 3


def test_class_loss_with_weights_divides_to_torchs_own_mean() -> None:
    logits, targets, weights = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 0, 1, 2, 2, 2]),
        torch.tensor([0.5, 2, 3]),
    )
    loss, count = class_loss(logits, targets, weights=weights)
    assert count == 0.5 * 2 + 2 + 3 * 3
    assert (loss / count).item() == pytest.approx(F.cross_entropy(logits, targets, weight=weights).item(), rel=1e-6)


def test_smoothing_spreads_a_share_evenly() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    log_probs = logits.log_softmax(dim=1)[0]
    loss, _ = class_loss(logits, torch.tensor([0]), smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * log_probs[0] + 0.1 * log_probs[1]).item(), rel=1e-6)


def test_label_loss_is_a_mean_over_labels_and_a_sum_over_rows() -> None:
    loss, count = label_loss(torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool))
    assert loss.item() == pytest.approx(3 * math.log(2))
    assert count == 3


def test_label_loss_weighs_positives_and_smooths_to_one_half() -> None:
    logits, targets = torch.tensor([[0.0, 0.0]]), torch.tensor([[True, False]])
    assert label_loss(logits, targets, weights=torch.tensor([3.0, 9.0]))[0].item() == pytest.approx(
        math.log(2) * (3 + 1) / 2
    )
    extreme = torch.tensor([[4.0, -4.0]])
    smooth, _ = label_loss(extreme, targets, smoothing=0.5)  # targets .75 and .25
    expected = F.binary_cross_entropy_with_logits(extreme, torch.tensor([[0.75, 0.25]]))
    assert smooth.item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_weights() -> None:
    assert balanced_weights(np.array([0, 0, 0, 1]), 2).tolist() == pytest.approx([4 / 6, 2.0])
    multi = np.array([[True, False], [False, False], [False, False], [True, False]])
    assert balanced_weights(multi, 2).tolist() == [1.0, 3.0]  # a label that never occurs counts as one that did once
    rare = np.zeros((1000, 1), dtype=bool)
    assert balanced_weights(rare, 1).tolist() == [100.0]
