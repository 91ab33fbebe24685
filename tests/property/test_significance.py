"""What must hold of intervals and tests whatever the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lasttoken.evaluation.metrics import METRICS, metrics_for
from lasttoken.evaluation.significance import bootstrap, bootstrap_difference, holm, mcnemar, randomisation

DRAWS = 40
outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def problem(seed: int, n: int, classes: int, multi: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A truth and two classifiers' probabilities, coarse enough to have ties, zeros and labels that never occur."""
    random = np.random.default_rng(seed)
    y = (
        random.random((n, classes)) < random.random()
        if multi
        else random.integers(0, random.integers(1, classes + 1), n)
    )
    scores = random.integers(0, 5, (2, n, classes)) + 0.0
    if multi:
        return y, *(scores / 4)
    scores[..., 0] += scores.sum(axis=-1) == 0
    return y, *(scores / scores.sum(axis=-1, keepdims=True))


problems = st.builds(problem, seeds, st.integers(2, 30), st.integers(2, 6), st.booleans())


@given(outcomes)
def test_mcnemar_is_symmetric_and_a_probability(right: np.ndarray) -> None:
    p = mcnemar(right[:, 0], right[:, 1])
    assert 0 < p <= 1
    assert p == mcnemar(right[:, 1], right[:, 0]) == mcnemar(~right[:, 0], ~right[:, 1])


@given(problems, seeds)
@settings(deadline=None)
def test_an_interval_holds_its_estimate_and_keeps_the_bounds(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int
) -> None:
    y, a, b = rows
    for name in metrics_for(y.ndim == 2):
        metric = METRICS[name]
        found = bootstrap(metric, y, a, rng=np.random.default_rng(seed), draws=DRAWS)
        if np.isnan(found.low):  # no interval
            assert name == "auroc" or metric.needs > len(y) or name == "log_loss"
            continue
        # a rounding error of 1e-9 is allowed for: estimates are sums of up to 180 floats
        assert metric.bounds[0] - 1e-9 <= found.low <= found.estimate <= found.high <= metric.bounds[1] + 1e-9
        found = bootstrap_difference(metric, y, a, b, rng=np.random.default_rng(seed), draws=DRAWS)
        assert np.isnan(found.low) or found.low - 1e-9 <= found.estimate <= found.high + 1e-9


@given(problems, seeds)
@settings(deadline=None)
def test_exchanging_a_and_b_turns_the_interval_and_keeps_the_p_value(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int
) -> None:
    y, a, b = rows
    for name in ("macro_f1", "log_loss", "ece"):
        metric = METRICS[name]
        one = bootstrap_difference(metric, y, a, b, rng=np.random.default_rng(seed), draws=DRAWS)
        other = bootstrap_difference(metric, y, b, a, rng=np.random.default_rng(seed), draws=DRAWS)
        # the order of additions differs, by some 1e-15 for each of at most 180 terms
        assert (other.estimate, other.low, other.high) == pytest.approx(
            (-one.estimate, -one.high, -one.low), abs=1e-9, nan_ok=True
        )
        p = randomisation(metric, y, a, b, rng=np.random.default_rng(seed), draws=DRAWS)
        assert p == randomisation(metric, y, b, a, rng=np.random.default_rng(seed), draws=DRAWS)
        assert 1 / (DRAWS + 1) <= p <= 1


@given(problems, seeds)
@settings(deadline=None)
def test_the_order_of_rows_does_not_change_a_metric(rows: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int) -> None:
    y, a, _ = rows
    order = np.random.default_rng(seed).permutation(len(y))
    for name in metrics_for(y.ndim == 2):
        # summing floats in another order: 1e-9 is far above their rounding
        assert METRICS[name](y[order], a[order]) == pytest.approx(METRICS[name](y, a), abs=1e-9, nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ordered = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


@given(st.integers(2, 300), st.data())
def test_more_right_answers_never_lower_an_end(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n - 1))
    y = np.zeros(n, dtype=np.int64)
    few, more = (np.eye(2)[(np.arange(n) >= k).astype(int)] for k in (right, right + 1))
    for metric in (METRICS["accuracy"], METRICS["micro_f1"]):
        one, other = (bootstrap(metric, y, probs, rng=np.random.default_rng(0)) for probs in (few, more))
        assert one.low <= other.low
        assert one.high <= other.high
    several = y[:, None] == np.arange(1)
    one, other = (
        bootstrap(METRICS["subset_accuracy"], several, probs[:, :1], rng=np.random.default_rng(0))
        for probs in (few, more)
    )
    assert (one.low <= other.low, one.high <= other.high) == (True, True)
