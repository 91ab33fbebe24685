"""The folds of one run: a model is fitted and tuned for each, predicts the rows that it did not see, and is let go.

What a fold said is kept in RUN.folds/ beside the run until that is finished, so that an interrupted command goes on with
the next fold. Its name holds a digest of settings and rows: what another command left there is never taken.
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
    """What the model of one fold says of the rows that it did not see."""

    policy: Policy  # made on validation rows of the other folds
    raw: Predictions  # (N,) rows of the fold, before calibration
    fact: FoldFact


def run_folds(config: Run, splits: Splits, folder: Path, *, writes: bool, journal: Journal) -> list[Fold]:
    """Every fold, fitted or kept from before. writes: whether this process is the one that keeps them.

    Raises KeyboardInterrupt where a training was cut short: half a training judges nothing.
    """
    for part in splits.folds:  # before the first is fitted
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
    """Fit, tune and predict one fold. loud: show its notes, which other folds would repeat; none are kept in the run."""
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
    """A digest of the settings and rows of a fold, 16 hexadecimal digits."""
    model = config.method.model_dump().get("model")
    known = ""
    if model is not None:
        from lasttoken.model.backbone import fingerprint  # methods without a model need not wait for transformers

        known = fingerprint(model) or ""
    whole = "\n".join([to_toml(config), data_digest(part), known])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def write_fold(fold: Fold, folder: Path) -> None:
    """Write what a fold said, whole or not at all."""
    with writing(folder) as part:
        write_policy(fold.policy, part)
        write_predictions(fold.raw, part / "predictions.parquet", raw=fold.raw.probs)
        write_json(part / "fold.json", fold.fact.model_dump())


def read_fold(folder: Path) -> Fold:
    """What `write_fold` wrote. Raises ArtifactError where it is damaged."""
    verify(folder)
    path = folder / "predictions.parquet"
    raw = replace(read_predictions(path), probs=read_raw(path), decisions=None)
    return Fold(read_policy(folder), raw, read_fact(folder / "fold.json", FoldFact))


def remove_folds(folder: Path) -> None:
    """Remove what was kept for the run `folder`, which is finished."""
    shutil.rmtree(folder.with_name(folder.name + SUFFIX), ignore_errors=True)


def in_order(splits: Splits, parts: Sequence[Predictions]) -> Predictions:
    """The rows of all folds in the order of splits.test, each with its fold."""
    joined = Predictions.joined(parts)
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return replace(joined, fold=number).take(places(splits, parts))


def said_of(splits: Splits, folds: Sequence[Fold]) -> Said:
    """What the folds say of the rows of splits.test, before calibration."""
    order = places(splits, [fold.raw for fold in folds])
    lost = np.concatenate([np.array(fold.fact.lost, dtype=np.int64) for fold in folds])[order]
    invalid = [fold.fact.invalid for fold in folds if fold.fact.invalid is not None]
    return Said(
        np.concatenate([fold.raw.probs for fold in folds])[order],
        lost,
        invalid=np.concatenate(invalid)[order] if invalid else None,
    )


def rows_per_second(folds: Sequence[Fold]) -> float:
    """Rows of all folds by the time that their predictions took."""
    return sum(len(fold.raw) for fold in folds) / sum(fold.fact.predict_seconds for fold in folds)


def cross_validated(splits: Splits, folds: Sequence[Fold]) -> CrossValidated:
    """What the scores are of, for metrics.json."""
    rows = counted(len(splits.test), "row", "rows")
    told = (
        f"Scores are of {len(folds)}-fold cross-validation: each of {rows} was judged once, by a model of the same recipe "
        "that did not see it. The model in this folder is fitted on all rows and has never been judged on new ones."
    )
    return CrossValidated(folds=len(folds), train_seconds=sum(fold.fact.train_seconds for fold in folds), told=told)


def places(splits: Splits, parts: Sequence[Predictions]) -> np.ndarray:
    """Where each row of splits.test is among the rows of the folds, one after another, (N,)."""
    place = {row: i for i, row in enumerate(row for part in parts for row in part.ids)}
    return np.array([place[row] for row in splits.test.ids], dtype=np.int64)
