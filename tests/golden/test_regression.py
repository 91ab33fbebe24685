"""The regression of `linear` and `probe` against scikit-learn's own, run until nothing moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from lasttoken.fitting.regression import Features, fit_regression
from lasttoken.journal import Journal


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray], ids=["by rows", "by features"])
def test_several_labels_equal_one_converged_model_each(form: type[Features]) -> None:
    """Sparse features by liblinear, which pulls the intercept too; dense ones by L-BFGS, which does not."""
    rng = np.random.default_rng(0)
    dense = rng.random((120, 400)) * (rng.random((120, 400)) < 0.05)
    targets = dense @ rng.normal(size=(400, 3)) > 0
    found = fit_regression(form(dense), targets, 3, strengths=[5.0], balanced=False, seed=0, journal=Journal())(
        form(dense)
    )
    for label in range(3):
        solver: dict[str, Any] = {"solver": "liblinear"} if form is sp.csr_matrix else {}
        plain = LogisticRegression(C=5.0, **solver, tol=1e-10, max_iter=100_000).fit(dense, targets[:, label])
        assert np.abs(found[:, label] - plain.predict_proba(dense)[:, 1]).max() < 0.02
