"""The floor that every language model must beat: TF-IDF of words and characters under logistic regression."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from lasttoken.config import Linear
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, DataError
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import read_settings, read_tensors, write_settings, write_tensors
from lasttoken.methods.regression import Regression, fit_regression

VOCABULARY = "vocabulary.json"


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Fitted vectorizers and the regression on top: texts -> probabilities."""

    config: Linear
    labels: LabelSpace
    vectorizers: tuple[TfidfVectorizer, ...]
    regression: Regression

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept."""
        return self.regression(transform(self.vectorizers, texts))

    def save(self, folder: Path) -> None:
        """method.json, the vocabulary, and weights with document frequencies as tensors."""
        write_settings(folder, self.config, self.labels)
        terms = [sorted(v.vocabulary_, key=v.vocabulary_.__getitem__) for v in self.vectorizers]
        (folder / VOCABULARY).write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        idfs = {f"idf.{i}": torch.from_numpy(v.idf_) for i, v in enumerate(self.vectorizers)}
        write_tensors(folder / "head.safetensors", {**self.regression.tensors(), **idfs})


def fit(config: Linear, train: Dataset, valid: Dataset, *, seed: int, device: str, journal: Journal) -> LinearModel:
    """The model of `train`; C is chosen by cross-validation inside it, so `valid` and `device` are not used."""
    began = time.perf_counter()
    vectorizers = make_vectorizers(config)
    journal.progress("counting words", 0, 1)
    try:
        features = sp.csr_matrix(sp.hstack([v.fit_transform(train.texts) for v in vectorizers]))
    except ValueError as error:  # scikit-learn's own: no term is left
        raise DataError(f"linear: no word occurs in {config.min_count} rows ({error}); lower min_count") from error
    regression = fit_regression(
        features,
        train.targets,
        len(train.labels),
        strengths=config.regularisation,
        balanced=config.class_weights == "balanced",
        seed=seed,
        journal=journal,
    )
    spent = time.perf_counter() - began
    weights = regression.weight.size + regression.bias.size
    journal.facts |= {
        "trainable_parameters": weights,
        "total_parameters": weights,
        "train_seconds": spent,
        "train_rows": len(train),
        "train_rows_per_second": len(train) / spent,
    }
    journal.note(f"{regression.weight.shape[1]} features of {len(train)} rows")
    return LinearModel(config, train.labels, vectorizers, regression)


def load(folder: Path, *, device: str) -> LinearModel:
    """The model that `save` wrote."""
    config, labels, _ = read_settings(folder)
    tensors = read_tensors(folder / "head.safetensors")
    vectorizers = make_vectorizers(config)
    try:
        terms = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        for i, (vectorizer, words) in enumerate(zip(vectorizers, terms, strict=True)):
            vectorizer.vocabulary = {word: j for j, word in enumerate(words)}
            vectorizer.idf_ = tensors.pop(f"idf.{i}").numpy()
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder / VOCABULARY}: missing or damaged ({error}); fit again") from error
    return LinearModel(config, labels, vectorizers, Regression.of(tensors, labels.multi))


def make_vectorizers(config: Linear) -> tuple[TfidfVectorizer, ...]:
    """Words, and characters inside words where they are asked for."""
    kinds = [("word", config.words), ("char_wb", config.characters)]
    return tuple(
        TfidfVectorizer(
            analyzer=analyzer,
            ngram_range=ngrams,
            min_df=config.min_count,
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
