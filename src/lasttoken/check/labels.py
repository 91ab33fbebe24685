"""What is wrong with labels: names that may be one, classes too small to learn or judge, rows that are likely mislabelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from lasttoken import catalog
from lasttoken.check.finding import Finding, Place, first, shown
from lasttoken.check.texts import cut
from lasttoken.config.methods import Linear
from lasttoken.data.dataset import Dataset, Rows
from lasttoken.data.quick_checks import alike, unsplit
from lasttoken.data.split import nearest
from lasttoken.errors import UserError
from lasttoken.fitting.regression import fold_of
from lasttoken.journal import Journal, unheard
from lasttoken.labels import LabelSpace
from lasttoken.wording import counted

FEW = 10  # rows below which a label is hardly learnt and not at all judged
SLIPS = 50  # times as many rows as a misspelt label, that the one which was meant has at least
FOLDS = 5
JUDGED = 200  # rows below which no mislabelled rows are looked for
PLAIN = Linear(characters=(0, 0), regularisation=(10.0,))


def names(rows: Rows) -> Iterator[Finding]:
    """Names that may be one, and lists that were read as names."""
    known = sorted({name for labels in rows.labels or () for name in labels})
    several = any(len(labels) > 1 for labels in rows.labels or ())  # or a separator that separates nothing
    for kind, sentence in (("names", alike(known)), ("lists", None if several else unsplit(known))):
        if sentence:
            yield Finding(kind, sentence)
    counts = Counter(name for labels in rows.labels or () for name in labels)
    for name in known:
        meant = nearest(name, [other for other in known if counts[other] >= SLIPS * counts[name]])
        if meant:
            where = tuple(
                Place(row, cut(text))
                for row, text, labels in zip(rows.ids, rows.texts, rows.labels or (), strict=True)
                if name in labels
            )
            told = f"{name!r}, the label of {counted(counts[name], 'row', 'rows')}, may be {meant!r} misspelt"
            yield Finding(
                "misspelt", told, where, f"write it alike, if they are one: {meant!r} has {counts[meant]} rows"
            )


def balance(rows: Rows) -> Iterator[Finding]:
    """Small classes, one that outnumbers the others, and one that is alone."""
    counts = Counter(name for labels in rows.labels or () for name in labels)
    if not counts:
        return
    if len(counts) == 1:
        told = f"there is one label, {next(iter(counts))!r}"
        yield Finding("one-label", told, (), "there is nothing to tell apart; check which column --label names")
        return
    learnt = learnt_labels(rows) or counts.keys()  # of the others `unseen` tells
    rare = sorted(
        (name for name, count in counts.items() if count < FEW and name in learnt), key=lambda name: counts[name]
    )
    if rare:
        told = first([f"{name!r} ({counts[name]})" for name in rare])
        yield Finding(
            "rare-labels",
            f"{len(rare)} of {len(counts)} labels {'has' if len(rare) == 1 else 'have'} fewer than {FEW} rows: {told}",
            (),
            "add rows, or merge them into another label"
            + ("; train refuses labels of one row" if counts[rare[0]] == 1 and not rows.multi else ""),
        )
    (most, count), (least, fewest) = counts.most_common(1)[0], counts.most_common()[-1]
    if count >= 10 * fewest:
        yield Finding(
            "imbalance",
            f"{most!r} has {count} rows, {least!r} {fewest}: {count / fewest:.0f} times as many",
            (),
            "judge by macro-F1; "
            + ("leave thresholds at auto" if rows.multi else "try --set embedding.loss=logit_adjusted in compare"),
            serious=False,
        )


def unseen(rows: Rows) -> Iterator[Finding]:
    """Labels of valid and test that no training row has, where a split is given."""
    learnt = learnt_labels(rows)
    if not learnt or rows.splits is None or rows.labels is None:
        return
    found = {i: [name for name in names if name not in learnt] for i, names in enumerate(rows.labels)}
    places = tuple(Place(rows.ids[i], f"{rows.splits[i]}: {shown(names)}") for i, names in found.items() if names)
    if places:
        unknown = sorted({name for names in found.values() for name in names})
        where = " or ".join(
            part for part in ("valid", "test") if any(rows.splits[i] == part for i in found if found[i])
        )
        yield Finding(
            "unseen-labels",
            f"{counted(len(unknown), 'label stands', 'labels stand')} in {where} alone, so it can never be predicted: "
            f"{shown(unknown)}; rows with them: {len(places)}",
            places,
            "train refuses that: move some of their rows to train, or remove them",
        )


def learnt_labels(rows: Rows) -> set[str]:
    """The labels of the training rows of a given split; none where no split is given."""
    parts = zip(rows.labels or (), rows.splits or (), strict=False)  # rows without labels or without a split have none
    return {name for names, part in parts if part == "train" for name in names}


def mislabelled(rows: Rows, *, seed: int) -> Iterator[Finding]:
    """Rows whose label a linear model that never saw them finds most unlikely (confident learning, through cleanlab).

    Northcutt 2021, arXiv:1911.00068; with several labels a row, label by label (Thyagarajan 2022, arXiv:2211.13895).
    Labels with few rows are left out.
    """
    if rows.labels is None:
        return
    enough = {name for name, count in Counter(n for names in rows.labels for n in names).items() if count >= FEW}
    truth = [[name for name in names if name in enough] for names in rows.labels]
    kept = [i for i, names in enumerate(truth) if rows.has_text(i) and (names or rows.multi)]
    counts = Counter(name for i in kept for name in truth[i])
    space = sorted(name for name in counts if len(kept) - counts[name] >= (FEW if rows.multi else 1))  # of both kinds
    if len(kept) < JUDGED or len(space) < 2:
        return
    labels = LabelSpace(tuple(space), rows.multi)
    named = [[name for name in truth[i] if name in labels.names] for i in kept]
    targets = labels.encode_sets(named) if rows.multi else labels.encode([name for (name,) in named])
    data = Dataset([rows.ids[i] for i in kept], [rows.texts[i] for i in kept], targets, labels)
    try:
        probs = out_of_fold(data, seed)
    except UserError:  # texts without a word that occurs twice
        return
    shares = np.array([counts[name] for name in labels.names]) / len(kept)
    loss = -np.log(np.maximum(probs[np.arange(len(kept)), targets], 1e-12)).mean() if not rows.multi else 0.0
    if loss >= -(shares * np.log(shares)).sum():  # no better than the labels' frequencies
        told = "mislabelled rows were not looked for: these texts do not tell a linear model their labels"
        yield Finding("label-errors", told, serious=False)
        return
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.multilabel_classification.filter import find_label_issues as find_among_several
    except ImportError:
        yield Finding("label-errors", "not looked for: pip install 'lasttoken[audit]'", serious=False)
        return
    ranked = {"return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    if rows.multi:
        found = find_among_several([np.flatnonzero(row).tolist() for row in targets], probs, **ranked)
    else:
        found = find_label_issues(targets, probs, **ranked)
    if len(found):
        places: list[int] = found.tolist()
        told = (f"{likelier(labels, targets[i], probs[i])}: {cut(data.texts[i])}" for i in places)
        yield Finding(
            "label-errors",
            f"{len(places)} of {len(kept)} rows look mislabelled to a linear model that never saw them",
            tuple(Place(data.ids[i], detail) for i, detail in zip(places, told, strict=True)),
            "read the first ones; if most are wrong indeed, go through all",
            serious=False,
        )


def likelier(labels: LabelSpace, target: np.ndarray, probs: np.ndarray) -> str:
    """What a row is labelled with and what is likelier: `A, probably B (0.93)`, of several labels the least likely decision."""
    if not labels.multi:
        best = int(probs.argmax())
        return f"{labels.names[int(target)]}, probably {labels.names[best]} ({probs[best]:.2f})"
    column = int(np.where(target, 1 - probs, probs).argmax())
    name, p = labels.names[column], probs[column]
    return f"{name}, probably not ({1 - p:.2f})" if target[column] else f"not {name}, probably so ({p:.2f})"


def out_of_fold(data: Dataset, seed: int) -> np.ndarray:
    """Probabilities (N, C) of each row by a linear model of the other folds."""
    folds = fold_of(data.targets, FOLDS, seed)
    probs = np.empty((len(data), len(data.labels)))
    for fold in range(FOLDS):
        rest, held = data.take(np.flatnonzero(folds != fold)), data.take(np.flatnonzero(folds == fold))
        fitted = catalog.fit(PLAIN, rest, held, seed=seed, journal=Journal(tell=unheard))
        probs[folds == fold] = fitted.classifier.predict_proba(held.texts).probs
    return probs
