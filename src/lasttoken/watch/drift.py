"""Whether new texts are still what a run was validated on: five two-sample tests, corrected together.

The first three compare numbers of each text, the fourth the labels that were decided, the fifth asks whether a classifier
can tell the two samples apart (Lopez-Paz & Oquab 2017, arXiv:1610.06545). A test that finds nothing does not show that
nothing changed; `smallest` says what would have been found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import ks_2samp, mannwhitneyu
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lasttoken.evaluation.significance import holm
from lasttoken.seed import generator

LEVEL = 0.05  # rate of false alarms, over the five tests together
DRAWS = 999  # permutations of the test of label shares
MOST = 2000  # texts of each sample that the classifier is fitted and tested on
FEWEST = 20  # texts of each sample
LARGE = {
    "length": 0.2,
    "vocabulary": 0.2,
    "confidence": 0.2,
    "labels": 0.1,
    "classifier": 0.65,
}  # effects to worry about
WORDS = {
    "length": "words a text",
    "vocabulary": "share of words that no test text of the run has",
    "confidence": "confidence of the decisions",
    "labels": "shares of the labels",
    "classifier": "a classifier that tells the two apart",
}

Level = Literal["calm", "changed", "worry"]


@dataclass(frozen=True, eq=False)
class Sample:
    """Texts with what the run says of them."""

    texts: Sequence[str]  # N
    probs: np.ndarray  # (N, C), calibrated
    decisions: np.ndarray  # (N,) int64, or (N, C) bool

    @property
    def shares(self) -> np.ndarray:
        """The decisions as indicators, (N, C) float."""
        if self.decisions.ndim == 2:
            return self.decisions.astype(float)
        return (self.decisions[:, None] == np.arange(self.probs.shape[1])).astype(float)

    @property
    def confidence(self) -> np.ndarray:
        """(N,): the largest probability; with several labels the mean of what each decision has."""
        if self.decisions.ndim == 2:
            return np.where(self.decisions, self.probs, 1 - self.probs).mean(axis=1)
        return self.probs.max(axis=1)


@dataclass(frozen=True)
class DriftTest:
    """One test. effect: the largest distance of two distribution functions, of labels half the sum of differences, of the
    classifier its AUROC."""

    of: str
    effect: float
    p: float  # corrected for all tests (Holm 1979)
    before: float  # mean or share on validation rows, NaN for labels and classifier
    now: float
    told: str

    @property
    def level(self) -> Level:
        """`changed` where it is shown, `worry` where it is also large."""
        if self.p >= LEVEL:
            return "calm"
        return "worry" if self.effect >= LARGE[self.of] else "changed"


def drift(
    known: Sample, new: Sample, vocabulary: Sequence[str], names: Sequence[str], *, seed: int = 0
) -> list[DriftTest]:
    """The five tests of `new` against `known`, most certain first. vocabulary: other texts of the known kind, whose words count
    as known. Needs FEWEST texts of each."""
    words = [[word.lower() for word in re.findall(r"\w+", text)] for text in (*known.texts, *new.texts)]
    have = {word.lower() for text in vocabulary for word in re.findall(r"\w+", text)}
    cut, n = len(known.texts), np.array([len(row) for row in words], dtype=float)
    unknown = np.array([np.mean([word not in have for word in row]) if row else 0.0 for row in words])
    found = [
        numbers("length", n[:cut], n[cut:], "{:.0f}"),
        numbers("vocabulary", unknown[:cut], unknown[cut:], "{:.1%}"),
        numbers("confidence", known.confidence, new.confidence, "{:.3f}"),
        label_shares(known.shares, new.shares, names, seed),
        two_sample_classifier(known.texts, new.texts, seed),
    ]
    corrected = holm([one.p for one in found])
    tests = [DriftTest(**{**vars(one), "p": float(p)}) for one, p in zip(found, corrected, strict=True)]
    return sorted(tests, key=lambda one: (one.p, -one.effect))


def numbers(of: str, known: np.ndarray, new: np.ndarray, form: str) -> DriftTest:
    """The Kolmogorov-Smirnov test of a number of each text."""
    test: Any = ks_2samp(known, new)
    before, now = float(known.mean()), float(new.mean())
    told = f"{WORDS[of]}: {form.format(before)} on validation rows, {form.format(now)} now"
    return DriftTest(of, float(test.statistic), float(test.pvalue), before, now, told)


def label_shares(known: np.ndarray, new: np.ndarray, names: Sequence[str], seed: int) -> DriftTest:
    """A permutation test of the shares of decided labels, (N, C) and (M, C): squared differences over pooled shares."""
    whole, n = np.concatenate([known, new]), len(known)
    pooled = np.maximum(whole.mean(axis=0), 1 / len(whole))
    rng, total = generator(seed, "drift of labels"), whole.sum(axis=0)

    def statistic(inside: np.ndarray) -> float:
        mine = whole[inside].sum(axis=0)
        return float((((mine / n) - (total - mine) / (len(whole) - n)) ** 2 / pooled).sum())

    rows = np.arange(len(whole))
    seen = statistic(rows[:n])
    as_large = sum(statistic(rng.permutation(rows)[:n]) >= seen - 1e-12 for _ in range(DRAWS))
    gap = new.mean(axis=0) - known.mean(axis=0)
    most = int(np.abs(gap).argmax())
    told = (
        f"{WORDS['labels']}: most of all {names[most]}, {known[:, most].mean():.1%} on validation rows, "
        f"{new[:, most].mean():.1%} now"
    )
    nan = float("nan")
    return DriftTest("labels", float(np.abs(gap).sum() / 2), (1 + as_large) / (1 + DRAWS), nan, nan, told)


def two_sample_classifier(known: Sequence[str], new: Sequence[str], seed: int) -> DriftTest:
    """Logistic regression on TF-IDF, fitted on one half to tell the samples apart, its AUROC on the other half."""
    rng = generator(seed, "halves of the two samples")
    size = min(len(known), len(new), MOST)
    samples = [[part[i] for i in rng.permutation(len(part))[:size].tolist()] for part in (known, new)]
    half = size // 2
    texts = [text for sample in samples for text in sample[:half]]
    held = [text for sample in samples for text in sample[half:]]
    truth = np.repeat([0, 1], half)
    told = f"{WORDS['classifier']}: AUROC "
    try:
        features = TfidfVectorizer(sublinear_tf=True).fit(texts)
    except ValueError:  # no words at all
        return DriftTest("classifier", 0.5, 1.0, float("nan"), float("nan"), told + ".5 (the texts have no words)")
    model = LogisticRegression(C=3.0, max_iter=300).fit(features.transform(texts), truth)
    scores = model.decision_function(features.transform(held))
    before, now = scores[: size - half], scores[size - half :]
    test = mannwhitneyu(now, before, alternative="greater")
    area = float(test.statistic / (len(now) * len(before)))
    return DriftTest(
        "classifier", area, float(test.pvalue), float("nan"), float("nan"), f"{told}{area:.3f} (.5 cannot tell)"
    )


def verdict(found: Sequence[DriftTest]) -> Level:
    """The most worrying level of the tests."""
    seen = {one.level for one in found}
    return "worry" if "worry" in seen else "changed" if "changed" in seen else "calm"
