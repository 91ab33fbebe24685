"""Cross-validation of one run: a model per fold is fitted, tuned, predicts its held-out rows, and is discarded.

Finished folds are kept in RUN.folds/ until the run is finished: an interrupted command resumes at the next fold.
A fold's folder is named by a digest of its settings and rows: results of other settings or rows are never reused.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lasttoken import catalog
from lasttoken.config.parse import to_toml
from lasttoken.config.run import Run
from lasttoken.data.dataset import Splits
from lasttoken.data.splits_file import data_digest
from lasttoken.evaluation.metrics import HEADLINE, METRICS
from lasttoken.evaluation.policy import Policy, check_decision, fit_policy, read_policy, write_policy
from lasttoken.evaluation.predictions import Predictions, read_predictions, read_raw, write_predictions
from lasttoken.evaluation.run_record import read_fact
from lasttoken.journal import Journal, unheard
from lasttoken.methods.classifier import Said
from lasttoken.predictor import Predictor
from lasttoken.record.folder import verify, write_json, writing
from lasttoken.record.schema import CrossValidated, FoldFact
from lasttoken.wording import counted, figure

SUFFIX = ".folds"


@dataclass(frozen=True, eq=False)
class Fold:
    """The predictions of one fold's model on its held-out rows, and its policy."""

    policy: Policy  # fitted on validation rows of the other folds
    raw: Predictions  # (N,) rows of the fold, before calibration
    fact: FoldFact


def run_folds(config: Run, splits: Splits, folder: Path, *, writes: bool, journal: Journal) -> list[Fold]:
    """Every fold, fitted now or read from RUN.folds/. writes: whether this process saves the folds.

    Raises KeyboardInterrupt if a training was interrupted, since a partly trained model is not scored.
    """
    for part in splits.folds:  # fail before the first fold is fitted
        check_decision(config.decision, part.valid.targets, part.labels)
    found = []
    for number, part in enumerate(splits.folds, start=1):
        called = f"fold {number} of {len(splits.folds)}"
        place = folder.with_name(folder.name + SUFFIX) / f"{number}-{key_of(config, part)}"
        kept = place.exists()
        fold = read_fold(place) if kept else fit_fold(config, part, called, journal, loud=not found)
        if writes and not kept:
            write_fold(fold, place)
        shipped = fold.policy.shipped(fold.raw)
        metric = METRICS[HEADLINE]
        score = figure(metric(shipped.targets, shipped.probs, shipped.chosen))
        journal.tell(f"{called}: {score} {metric.words} on {counted(len(shipped), 'row', 'rows')}{', kept' * kept}")
        if fold.fact.told:
            journal.note(f"{called}: {fold.fact.told}")
        found.append(fold)
    return found


def fit_fold(config: Run, part: Splits, called: str, journal: Journal, *, loud: bool) -> Fold:
    """Fit, tune and predict one fold.

    loud: show the notes of this fold; False for the later ones, which repeat them. The run's record keeps none.
    """
    own = Journal(
        tell=(lambda sentence: journal.tell(f"{called}: {sentence}")) if loud else unheard,
        progress=lambda what, *seen: journal.progress(f"{called} {what}", *seen),
    )
    fitted = catalog.fit(config.method, part.train, part.valid, seed=config.seed, device=config.device, journal=own)
    if fitted.end.how == "interrupted":
        raise KeyboardInterrupt
    predictor = Predictor(fitted.classifier)
    said = predictor.said(part.valid.texts, own).probs
    valid = Predictions(part.valid.ids, part.valid.targets, said, part.labels)
    policy, _ = fit_policy(config.decision, valid, seed=config.seed, above=part.above)
    began = time.perf_counter()
    test = predictor.said(part.test.texts, own)
    fact = FoldFact(
        train_seconds=fitted.cost.seconds,
        predict_seconds=time.perf_counter() - began,
        lost=test.lost.tolist(),
        invalid=None if test.invalid is None else test.invalid.tolist(),
        told=fitted.end.told if fitted.end.how == "diverged" else "",
    )
    return Fold(policy, Predictions(part.test.ids, part.test.targets, test.probs, part.labels), fact)


def key_of(config: Run, part: Splits) -> str:
    """A digest of the settings, rows and base model of a fold: 16 hexadecimal digits."""
    model = config.method.model_dump().get("model")
    known = ""
    if model is not None:
        from lasttoken.model.load import fingerprint  # methods without a model need not wait for transformers

        known = fingerprint(model) or ""
    whole = "\n".join([to_toml(config), data_digest(part), known])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def write_fold(fold: Fold, folder: Path) -> None:
    """Write the folder of a fold; atomic."""
    with writing(folder) as part:
        write_policy(fold.policy, part)
        write_predictions(fold.raw, part / "predictions.parquet", raw=fold.raw.probs)
        write_json(part / "fold.json", fold.fact.model_dump())


def read_fold(folder: Path) -> Fold:
    """The fold that `write_fold` wrote. Raises ArtifactError if it is damaged."""
    verify(folder)
    path = folder / "predictions.parquet"
    raw = replace(read_predictions(path), probs=read_raw(path), decisions=None)
    return Fold(read_policy(folder), raw, read_fact(folder / "fold.json", FoldFact))


def remove_folds(folder: Path) -> None:
    """Remove RUN.folds/ of the finished run `folder`."""
    shutil.rmtree(folder.with_name(folder.name + SUFFIX), ignore_errors=True)


def in_order(splits: Splits, parts: Sequence[Predictions]) -> Predictions:
    """Predictions of all folds in the order of splits.test, with the fold number of each row."""
    joined = Predictions.joined(parts)
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return replace(joined, fold=number).take(places(splits, parts))


def said_of(splits: Splits, folds: Sequence[Fold]) -> Said:
    """Uncalibrated predictions of all folds, in the order of splits.test."""
    order = places(splits, [fold.raw for fold in folds])
    lost = np.concatenate([np.array(fold.fact.lost, dtype=np.int64) for fold in folds])[order]
    invalid = [fold.fact.invalid for fold in folds if fold.fact.invalid is not None]
    return Said(
        np.concatenate([fold.raw.probs for fold in folds])[order],
        lost,
        invalid=np.concatenate(invalid)[order] if invalid else None,
    )


def rows_per_second(folds: Sequence[Fold]) -> float:
    """Prediction speed over all folds."""
    return sum(len(fold.raw) for fold in folds) / sum(fold.fact.predict_seconds for fold in folds)


def cross_validated(splits: Splits, folds: Sequence[Fold]) -> CrossValidated:
    """Number of folds, training time, and a note on what the scores mean, for metrics.json."""
    rows = counted(len(splits.test), "row", "rows")
    told = (
        f"Scores are from {len(folds)}-fold cross-validation: each of {rows} was tested once, by a model with the same "
        f"settings that was not trained on it. The model in this folder is trained on {len(splits.train):,} of the rows, and "
        f"tuned on the other {len(splits.valid):,}; it was not tested on new ones."
    )
    return CrossValidated(folds=len(folds), train_seconds=sum(fold.fact.train_seconds for fold in folds), told=told)


def places(splits: Splits, parts: Sequence[Predictions]) -> np.ndarray:
    """Index (N,) of each row of splits.test in the concatenated rows of the folds."""
    place = {row: i for i, row in enumerate(row for part in parts for row in part.ids)}
    return np.array([place[row] for row in splits.test.ids], dtype=np.int64)
