"""Losses as sums, and weights by class."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lasttoken.errors import ConfigError
from lasttoken.train.loss import (
    FOR,
    adjusted_loss,
    asymmetric_loss,
    balanced_weights,
    class_loss,
    focal_class_loss,
    focal_label_loss,
    label_loss,
    make_loss,
)


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


LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)) * 2
CLASSES = torch.tensor([0, 1, 2, 3, 0, 0, 1])
LABELS = torch.rand(7, 4, generator=torch.Generator().manual_seed(2)) < 0.4


def test_focal_losses_without_gamma_are_cross_entropy() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for mine, plain, targets in ((focal_class_loss, class_loss, CLASSES), (focal_label_loss, label_loss, LABELS)):
        for given in (None, weights):
            found, expected = mine(LOGITS, targets, weights=given, gamma=0.0), plain(LOGITS, targets, weights=given)
            assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
            assert found[1] == expected[1]


def test_focal_loss_of_a_row_that_is_known() -> None:
    loss, _ = focal_class_loss(torch.tensor([[math.log(9.0), 0.0]]), torch.tensor([0]), weights=None, gamma=2.0)
    assert loss.item() == pytest.approx(-(0.1**2) * math.log(0.9), rel=1e-4)
    both, _ = focal_label_loss(torch.tensor([[math.log(9.0)]]), torch.tensor([[False]]), weights=None, gamma=2.0)
    assert both.item() == pytest.approx(-(0.9**2) * math.log(0.1), rel=1e-4)


def test_adjusted_loss_asks_more_of_rare_classes() -> None:
    prior = torch.tensor([0.9, 0.1]).log()
    loss, count = adjusted_loss(torch.zeros(2, 2), torch.tensor([0, 1]), prior=prior)
    assert loss.item() == pytest.approx(-math.log(0.9) - math.log(0.1), rel=1e-5)
    assert count == 2


def test_asymmetric_loss_forgets_easy_negatives() -> None:
    logits = torch.tensor([[math.log(0.04 / 0.96), math.log(0.55 / 0.45), 0.0]])
    loss, _ = asymmetric_loss(logits, torch.tensor([[False, False, True]]), gamma=4.0)
    expected = (0.0 - 0.5**4 * math.log(0.5) + math.log(2)) / 3  # .04 is below the margin, .55 counts as .5
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", FOR)
def test_every_loss_falls_on_the_right_side(name: str) -> None:
    """A few steps down its gradient, and the decisions are right; extreme logits give no NaN."""
    multi = FOR[name] == "many"
    targets = LABELS if multi else CLASSES
    loss = make_loss(name, targets.numpy(), 4, gamma=2.0, balanced=False, smoothing=0.0, device=torch.device("cpu"))
    logits = LOGITS.clone().requires_grad_(True)
    for _ in range(400):
        value, count = loss(logits, targets)
        (gradient,) = torch.autograd.grad(value / count, logits)
        logits = (logits - 5 * gradient).detach().requires_grad_(True)
    right = (logits > 0) == targets if multi else logits.argmax(dim=1) == targets
    assert bool(right.all())
    extreme, _ = loss(LOGITS * 1e4, targets)
    assert bool(torch.isfinite(extreme))


def test_sums_do_not_depend_on_how_a_batch_is_cut() -> None:
    for name, kind in FOR.items():
        targets = LABELS if kind == "many" else CLASSES
        loss = make_loss(name, targets.numpy(), 4, gamma=2.0, balanced=False, smoothing=0.0, device=torch.device("cpu"))
        whole = loss(LOGITS, targets)[0]
        parts = loss(LOGITS[:3], targets[:3])[0] + loss(LOGITS[3:], targets[3:])[0]
        assert whole.item() == pytest.approx(parts.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "targets", "given", "said"),
    [
        (
            "logit_adjusted",
            LABELS,
            {},
            "not for rows with any number of labels; choose from cross_entropy, focal, asym",
        ),
        ("focal", CLASSES, {"smoothing": 0.1}, "focal does not go with label_smoothing"),
    ],
)
def test_losses_that_do_not_fit(name: str, targets: torch.Tensor, given: dict, said: str) -> None:
    settings = {"gamma": 2.0, "balanced": False, "smoothing": 0.0, "device": torch.device("cpu")} | given
    with pytest.raises(ConfigError, match=said):
        make_loss(name, targets.numpy(), 4, **settings)
