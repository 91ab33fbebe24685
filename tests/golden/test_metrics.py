"""Metrics against scikit-learn, tests and intervals against statsmodels and scipy; random data, absent labels."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from lasttoken.evaluation.metrics import METRICS, brier_parts, brier_sums, confusion, per_class, reliability
from lasttoken.evaluation.predictions import Predictions, decide
from lasttoken.evaluation.significance import bootstrap, holm, mcnemar
from lasttoken.evaluation.summary import brier, ece_by_class
from lasttoken.labels import LabelSpace

N, C = 300, 7
COLUMNS = list(range(C))
CLOSE = {"rel": 1e-9, "abs": 1e-12}  # both compute in float64; only the order of sums differs


def single(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label 5 is never true, label 6 neither true nor predicted; scores are rounded, so there are ties."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 5, N)
    scores = np.exp(random.normal(size=(N, C)).round(1) + 1.5 * (y[:, None] == np.arange(C)))
    scores[:, 6] = 0
    return y, scores / scores.sum(axis=1, keepdims=True)


def multi(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `single`, with any number of labels; some rows have none, neither true nor predicted."""
    random = np.random.default_rng(seed)
    y = random.random((N, C)) < 0.25
    y[:, 5:] = False
    probs = np.clip(0.3 * y + random.random((N, C)) * 0.75, 0.001, 0.999).round(2).clip(0.01, 0.99)
    probs[:, 6] = 0.01
    return y, probs


def present_auroc(truth: np.ndarray, probs: np.ndarray) -> float:
    """scikit-learn's AUROC column by column, averaged over those in which it is defined."""
    both = [c for c in range(C) if 0 < truth[:, c].sum() < N]
    return float(np.mean([sk.roc_auc_score(truth[:, c], probs[:, c]) for c in both]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_label_a_row(seed: int) -> None:
    y, probs = single(seed)
    chosen = decide(probs, multi=False)
    assert 5 in chosen
    assert 6 not in chosen
    asked = {"labels": COLUMNS, "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(y, chosen),
        "micro_f1": sk.f1_score(y, chosen, average="micro", **asked),
        "macro_f1": sk.f1_score(y, chosen, average="macro", **asked),
        "weighted_f1": sk.f1_score(y, chosen, average="weighted", **asked),
        "mcc": sk.matthews_corrcoef(y, chosen),
        "log_loss": sk.log_loss(y, probs, labels=COLUMNS),
        "brier": sk.brier_score_loss(y, probs, labels=COLUMNS, scale_by_half=False),
        "auroc": present_auroc(y[:, None] == np.arange(C), probs),
    }
    assert {name: METRICS[name](y, probs) for name in expected} == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_number_of_labels(seed: int) -> None:
    y, probs = multi(seed)
    chosen = decide(probs, multi=True)
    assert ((y.sum(axis=1) == 0) & (chosen.sum(axis=1) == 0)).any()
    expected = {
        f"{average}_f1": sk.f1_score(y, chosen, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted")
    } | {
        "samples_f1": sk.f1_score(y, chosen, average="samples", zero_division=1),
        "subset_accuracy": sk.accuracy_score(y, chosen),
        "log_loss": sk.log_loss(y.ravel(), probs.ravel()),
        "brier": sk.brier_score_loss(y.ravel(), probs.ravel()),
        "auroc": present_auroc(y, probs),
    }
    assert {name: METRICS[name](y, probs) for name in expected} == pytest.approx(expected, **CLOSE)


def test_rankings_of_labels() -> None:
    y = multi(3)[0]
    probs = np.random.default_rng(3).random(y.shape)  # without ties, among which any order would do
    assert METRICS["ndcg_at_5"](y, probs) == pytest.approx(sk.ndcg_score(y, probs, k=5), **CLOSE)
    by_row = [y[i, np.argsort(-probs[i])[:3]].mean() for i in range(N)]
    assert METRICS["p_at_3"](y, probs) == pytest.approx(np.mean(by_row), **CLOSE)


def test_calibration_error_of_one_bin_at_a_time() -> None:
    y, probs = single(3)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == y
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert METRICS["ece"](y, probs) == pytest.approx(expected, **CLOSE)


def test_classwise_calibration_error_is_the_mean_over_classes() -> None:
    y, probs = single(5)
    edges = np.linspace(0, 1, 16)
    by_class = []
    for column in range(C):
        place = np.clip(np.searchsorted(edges, probs[:, column], side="left"), 1, 15)
        true = y == column
        bins = [place == b for b in range(1, 16)]
        by_class.append(sum(abs(true[b].sum() - probs[b, column].sum()) for b in bins) / N)
    assert METRICS["classwise_ece"](y, probs) == pytest.approx(np.mean(by_class), **CLOSE)


def test_equal_mass_bins_hold_equally_many_claims() -> None:
    y, probs = multi(6)
    probs = probs + np.random.default_rng(0).random(probs.shape) * 1e-3  # without ties every bin is as large
    flat, true = probs.ravel(), y.ravel()
    order = np.argsort(flat)
    expected = sum(abs(true[part].sum() - flat[part].sum()) for part in np.array_split(order, 15)) / flat.size
    assert METRICS["ece_mass"](y, probs) == pytest.approx(expected, abs=2e-4)  # a claim may fall on either side


@pytest.mark.parametrize("given", [single(7), multi(7)])
def test_brier_score_is_the_sum_of_its_parts(given: tuple[np.ndarray, np.ndarray]) -> None:
    y, probs = given
    probs = probs.round(1)  # claims of a bin are equal, so nothing is lost inside bins
    edges, n, multi_label = np.linspace(-0.05, 1.05, 12), len(y), y.ndim == 2
    sums = brier_sums(y, probs, edges).total()[None]
    found = brier_parts(sums, n, classes=probs.shape[1], multi=multi_label)[0]
    whole = (
        sk.brier_score_loss(y.ravel(), probs.ravel()) if multi_label else ((probs - np.eye(C)[y]) ** 2).sum(1).mean()
    )
    assert found[0] - found[1] + found[2] == pytest.approx(whole, **CLOSE)
    assert min(found) >= 0
    labels = LabelSpace(tuple("abcdefgh"[: probs.shape[1]]), multi_label)
    ends = brier(Predictions([str(i) for i in range(n)], y, probs, labels), seed=0, draws=200)
    assert list(ends) == ["reliability", "resolution", "uncertainty"]
    assert all(one.low < one.estimate < one.high for one in ends.values())


@pytest.mark.parametrize("given", [single(8), multi(8)])
def test_the_errors_of_labels_are_those_of_each_alone(given: tuple[np.ndarray, np.ndarray]) -> None:
    y, probs = given
    labels = LabelSpace(tuple("abcdefgh"[: probs.shape[1]]), y.ndim == 2)
    found = ece_by_class(Predictions([str(i) for i in range(len(y))], y, probs, labels), seed=0, draws=200)
    assert np.mean([one.estimate for one in found]) == pytest.approx(METRICS["classwise_ece"](y, probs), **CLOSE)
    for column, one in enumerate(found):
        alone = (y[:, [column]] if y.ndim == 2 else (y == column)[:, None], probs[:, [column]])
        assert one.estimate == pytest.approx(
            METRICS["ece"](*alone), **CLOSE
        )  # one label, its claims in one set of bins
        assert one.low < one.high or one.estimate == 0  # as of label 6, whose claims are all 0 and right


def test_reliability_against_scipys_binned_means() -> None:
    y, probs = multi(4)
    found = reliability(y, probs + 1e-6, bins=10)  # off the edges, which scipy gives to the bin above
    for values, mine in ((probs + 1e-6, found.confidence), (y, found.accuracy)):
        binned = stats.binned_statistic((probs + 1e-6).ravel(), values.ravel().astype(float), "mean", 10, (0, 1))
        assert mine.tolist() == pytest.approx(binned.statistic.tolist(), nan_ok=True, **CLOSE)


@pytest.mark.parametrize("rows", [single, multi])
def test_per_class(rows: object) -> None:
    y, probs = rows(5)
    many = y.ndim == 2
    chosen = decide(probs, many)
    found = per_class(y, probs, decide(probs, many), LabelSpace(tuple("abcdefg"), many))
    expected = sk.precision_recall_fscore_support(y, chosen, labels=COLUMNS, zero_division=0)
    for j, values in enumerate(zip(*expected, strict=True)):
        one = found[j]
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(values, **CLOSE)
        assert one.predicted == int((chosen[:, j] if many else chosen == j).sum())


def test_confusion() -> None:
    y, probs = single(6)
    assert np.array_equal(
        confusion(y, probs.argmax(axis=1), C), sk.confusion_matrix(y, probs.argmax(axis=1), labels=COLUMNS)
    )
    y, probs = multi(6)
    assert np.array_equal(confusion(y, probs >= 0.5, C), sk.multilabel_confusion_matrix(y, probs >= 0.5))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 12), (40, 41), (25, 25), (150, 210)])
def test_mcnemar(only_a: int, only_b: int) -> None:
    right_a = np.array([True] * only_a + [False] * only_b + [True] * 30 + [False] * 10)
    right_b = np.array([False] * only_a + [True] * only_b + [True] * 30 + [False] * 10)
    expected = statsmodels_mcnemar([[30, only_a], [only_b, 10]], exact=True).pvalue
    # statsmodels sums the binomial tail in floats
    assert mcnemar(right_a, right_b) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("family", [1, 2, 10])
def test_holm(family: int) -> None:
    p_values = np.random.default_rng(family).random(family) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), **CLOSE)


@pytest.mark.parametrize("name", ["accuracy", "mcc", "log_loss"])
def test_interval_against_scipys_bootstrap(name: str) -> None:
    y, probs = single(7)
    found = bootstrap(METRICS[name], y, probs, rng=np.random.default_rng(0))

    def of_rows(rows: np.ndarray) -> float:
        return METRICS[name](y[rows], probs[rows])

    expected = stats.bootstrap(
        (np.arange(N),),
        of_rows,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    # an end from 2,000 draws errs by some .06 of the standard error (and accuracy has steps of .17 of it), hence .25;
    # a standard deviation from 2,000 draws errs by 1.6 %, the difference of two by 2.2 %, hence 8 %
    allowed = 0.25 * found.standard_error
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.08)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=allowed)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=allowed)
