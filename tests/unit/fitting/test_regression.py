"""The C of a regression: the best of all that could be tried, without trying all."""

from __future__ import annotations

import numpy as np
import pytest

from lasttoken.fitting.regression import best_strength, fold_of, held_out_losses
from lasttoken.journal import Journal

STRENGTHS = (10.0, 0.001, 0.01, 0.1, 1.0, 100.0)


@pytest.mark.parametrize("multi", [False, True])
def test_strengths_are_tried_upwards_until_the_loss_rises(multi: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((90, 20)).astype(np.float32)
    truth = features[:, :3] + rng.standard_normal((90, 3)) > 0
    targets = truth if multi else truth.argmax(axis=1)
    parts = fold_of(targets, 3, 0)
    losses = {c: held_out_losses(features, targets, 3, parts, c, False, 0).mean() for c in sorted(STRENGTHS)}
    journal = Journal()
    best = best_strength(features, targets, 3, strengths=STRENGTHS, balanced=False, seed=0, journal=journal)
    assert best == min(losses, key=lambda c: losses[c]) == 0.1
    tried = ", ".join(f"{c:g}: {losses[c]:.4f}" for c in (0.001, 0.01, 0.1, 1.0))
    assert journal.notes == [f"logistic regression: C = 0.1 by 3-fold log-loss ({tried})"]
