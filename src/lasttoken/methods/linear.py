"""The baseline that a language model must beat: logistic regression on TF-IDF of words and characters."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from lasttoken.config.exportable import NO_NETWORK
from lasttoken.config.methods import Linear
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, ConfigError, DataError
from lasttoken.fitting.regression import Regression, fit_regression
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.record.artifact import read_settings, read_tensors, write_settings, write_tensors
from lasttoken.train.outcome import Cost

if TYPE_CHECKING:
    from lasttoken.infer.differentiable import Differentiable
    from lasttoken.train.state import TrainState

VOCABULARY = "vocabulary.json"
FEW_ROWS = 1000  # of one label each, up to which n-grams of a single text help (bench/quality/few_rows.py)
UNTUNED_ROWS = 500  # up to which a tenth held out is too few rows to choose thresholds


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Fitted vectorizers and the regression on top: texts -> probabilities."""

    config: Linear
    labels: LabelSpace
    vectorizers: tuple[TfidfVectorizer, ...]
    regression: Regression

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64, row order kept. Nothing is cut off a text; no progress is told."""
        return self.predict_encoded(self.encode(texts), progress)

    def encode(self, texts: Sequence[str]) -> sp.csr_matrix:
        """Term weights of the texts, (N, terms)."""
        return transform(self.vectorizers, texts)

    def predict_encoded(self, encoded: sp.csr_matrix, progress: Progress = unheard) -> Said:
        """`predict_proba` of encoded texts."""
        probs = self.regression(encoded)
        return Said(probs, np.zeros(len(probs), dtype=np.int64))

    @property
    def on_accelerator(self) -> bool:
        """No."""
        return False

    @property
    def has_gradients(self) -> bool:
        """No: there are no embeddings."""
        return False

    def differentiable(self, text: str) -> Differentiable:
        """Raises ConfigError."""
        raise ConfigError(["explain by gradients: a linear model has none; use --by removal"])

    def portable(self) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError([NO_NETWORK])

    def save(self, folder: Path) -> None:
        """method.json, the vocabulary, and weights with document frequencies as tensors."""
        write_settings(folder, self.config, self.labels)
        terms = [sorted(v.vocabulary_, key=v.vocabulary_.__getitem__) for v in self.vectorizers]
        (folder / VOCABULARY).write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        idfs = {f"idf.{i}": v.idf_ for i, v in enumerate(self.vectorizers)}
        write_tensors(folder / "head.safetensors", {**self.regression.tensors(), **idfs})


def fit(
    config: Linear,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int,
    device: str,
    journal: Journal,
    state: TrainState | None = None,
) -> Fitted:
    """The model of `train`; C is chosen by cross-validation inside it, so `valid`, `device` and `state` are not used."""
    began = time.perf_counter()
    min_count = documents_needed(config, train)
    vectorizers = make_vectorizers(config, min_count)
    journal.progress("counting words", 0, 0)
    try:
        features = sp.csr_matrix(sp.hstack([v.fit_transform(train.texts) for v in vectorizers]))
    except ValueError as error:  # scikit-learn's own: no term is left
        raise DataError(f"linear: no word occurs in {min_count} rows ({error}); lower min_count") from error
    regression = fit_regression(
        features,
        train.targets,
        len(train.labels),
        strengths=strengths(config, train),
        balanced=config.class_weights == "balanced",
        seed=seed,
        journal=journal,
    )
    spent = time.perf_counter() - began
    weights = regression.weight.size + regression.bias.size
    journal.note(f"{regression.weight.shape[1]} features of {len(train)} rows")
    cost = Cost(weights, weights, seconds=spent, rows_per_second=len(train) / spent)
    return Fitted(LinearModel(config, train.labels, vectorizers, regression), cost)


def load(folder: Path, *, device: str) -> LinearModel:
    """The model that `save` wrote."""
    config, labels, _ = read_settings(folder)
    tensors = read_tensors(folder / "head.safetensors")
    vectorizers = make_vectorizers(config, 1)  # the vocabulary is stored
    try:
        terms = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        for i, (vectorizer, words) in enumerate(zip(vectorizers, terms, strict=True)):
            vectorizer.vocabulary = {word: j for j, word in enumerate(words)}
            vectorizer.idf_ = tensors.pop(f"idf.{i}")
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder / VOCABULARY}: missing or damaged ({error}); fit again") from error
    return LinearModel(config, labels, vectorizers, Regression.of(tensors, labels.multi))


def documents_needed(config: Linear, train: Dataset) -> int:
    """The minimum document frequency of an n-gram. `auto` is 1 for few rows of one label each, and 2 otherwise."""
    if config.min_count != "auto":
        return config.min_count
    return 1 if len(train) <= FEW_ROWS and not train.labels.multi else 2


def strengths(config: Linear, train: Dataset) -> tuple[float, ...]:
    """The C to choose from. `auto` is 30 for few rows of several labels, and 3 or 30 by cross-validation otherwise.

    Where rows are few, the C of the best log-loss is so small that hardly a label reaches one half, and there are too few
    validation rows to choose a lower threshold.
    """
    if config.regularisation != "auto":
        return config.regularisation
    return (30.0,) if len(train) <= UNTUNED_ROWS and train.labels.multi else (3.0, 30.0)


def make_vectorizers(config: Linear, min_count: int) -> tuple[TfidfVectorizer, ...]:
    """TF-IDF vectorizers of words, and of characters inside words if set."""
    kinds = [("word", config.words), ("char_wb", config.characters)]
    return tuple(
        TfidfVectorizer(
            analyzer=analyzer,
            ngram_range=ngrams,
            min_df=min_count,
            max_features=config.max_features,
            sublinear_tf=True,
            strip_accents=None,
            dtype=np.float64,
            token_pattern=cast("str", r"(?u)\b\w+\b" if analyzer == "word" else None),
        )
        for analyzer, ngrams in kinds
        if ngrams != (0, 0)
    )


def transform(vectorizers: Sequence[TfidfVectorizer], texts: Sequence[str]) -> sp.csr_matrix:
    """Features (N, F) of texts."""
    if not len(texts):  # scikit-learn refuses none
        return sp.csr_matrix((0, sum(len(v.vocabulary_) for v in vectorizers)))
    return sp.csr_matrix(sp.hstack([v.transform(texts) for v in vectorizers]))
