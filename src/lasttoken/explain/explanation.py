"""Why a text got its label: what each of its words adds to the label's log-odds.

Two ways: integrated gradients (explain/gradients.py), for models that have them; removal, for any method: the drop in
log-odds when a word is left out. Both explain the raw model, before calibration. `auto` uses gradients if their scores
sum to the log-odds within MISSING, and removal otherwise.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lasttoken.labels import NOTHING
from lasttoken.methods.classifier import Classifier
from lasttoken.predictor import Predictor
from lasttoken.record.schema import Explained

By = Literal["auto", "gradients", "removal"]
STEPS = 32  # on the path of integrated gradients
PIECES = 200  # removals per text at most; words of longer texts are removed in groups
MISSING = 0.1  # largest share of the log-odds that gradients may leave unexplained
LOWEST = 1e-12


@dataclass(frozen=True, eq=False)
class Explanation:
    """What each word of a text adds to the log-odds of one label."""

    label: str
    text: str
    words: list[tuple[int, int]]  # (W,) character spans of the words
    scores: list[float]  # (W,); nan for a word that was not read
    log_odds: float  # of the label on the whole text
    by: str  # gradients or removal
    gap: float  # share of the log-odds that gradients do not account for; 0 by removal

    def strongest(self, most: int = 12) -> list[tuple[str, float]]:
        """The `most` words of the largest absolute score, largest first; words that were not read are left out."""
        known = [(self.text[a:b], s) for (a, b), s in zip(self.words, self.scores, strict=True) if s == s]
        return sorted(known, key=lambda pair: -abs(pair[1]))[:most]


def explain(
    predictor: Predictor, text: str, labels: Sequence[str] | None = None, *, by: By = "auto", steps: int = STEPS
) -> list[Explanation]:
    """An explanation for each of `labels`; None: for the predicted ones, or the most probable one if there are none.

    steps: of integrated gradients; where their gap is too large, by = "auto" falls back to removal.
    Raises DataError on an unknown label, ConfigError where the method has no gradients or captum is missing.
    """
    classifier, space = predictor.classifier, predictor.labels
    if labels is None:
        found = predictor([text])
        chosen = np.flatnonzero(found.decisions[0]) if space.multi else found.decisions[found.decisions != NOTHING]
        columns = chosen.tolist() or [int(found.probs[0].argmax())]
    else:
        columns = space.encode(list(labels)).tolist()
    if by == "removal" or (by == "auto" and method_for(classifier) == "removal"):
        return [by_removal(classifier, text, column) for column in columns]
    if by == "gradients":
        return [by_gradients(classifier, text, column, steps) for column in columns]
    return [by_auto(classifier, text, column, steps) for column in columns]


def method_for(classifier: Classifier) -> Literal["gradients", "removal"]:
    """Gradients if captum is installed and the method supports them, else removal."""
    possible = importlib.util.find_spec("captum") is not None and classifier.has_gradients
    return "gradients" if possible else "removal"


def words_of(text: str) -> list[tuple[int, int]]:
    """Character spans of the words of a text, split at white space."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def by_auto(classifier: Classifier, text: str, column: int, steps: int) -> Explanation:
    """By gradients, or by removal if their gap exceeds MISSING: more steps would take longer than the removals."""
    found = by_gradients(classifier, text, column, steps)
    return found if found.gap <= MISSING else by_removal(classifier, text, column)


def by_gradients(classifier: Classifier, text: str, column: int, steps: int) -> Explanation:
    """Integrated gradients of the tokens, summed over each word."""
    from lasttoken.explain.gradients import attribute

    found, words = attribute(classifier, text, column, steps=steps), words_of(text)
    scores = [float("nan")] * len(words)
    starts = np.array([start for start, _ in words], dtype=np.int64)
    for (start, end), value in zip(found.spans, found.scores.tolist(), strict=True):
        # by its last character: a token may begin with the space before its word
        place = int(np.searchsorted(starts, end - 1, side="right")) - 1
        if end > start and place >= 0:
            scores[place] = value + (0.0 if scores[place] != scores[place] else scores[place])
    return Explanation(classifier.labels.names[column], text, words, scores, found.log_odds, "gradients", found.gap)


def by_removal(classifier: Classifier, text: str, column: int) -> Explanation:
    """Drop in log-odds without each word; in texts of over PIECES words, the mean drop of a group of words."""
    words = words_of(text)
    size = max(1, -(-len(words) // PIECES))
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    without = [text[: group[0][0]] + text[group[-1][1] :].lstrip() for group in groups]
    odds = probs_log_odds(classifier.predict_proba([text, *without]).probs, column)
    scores = [float(odds[0] - odds[i + 1]) / len(group) for i, group in enumerate(groups) for _ in group]
    return Explanation(classifier.labels.names[column], text, words, scores, float(odds[0]), "removal", 0.0)


def explained(predictor: Predictor, rows: Sequence[tuple[str, str, str]], *, steps: int = 16) -> list[Explained]:
    """Explanations of (id, text, label) triples as records for the run folder; the score of an unread word is None."""
    records = []
    for row, text, label in rows:
        found = explain(predictor, text, [label], steps=steps)[0]
        scores = [None if score != score else round(score, 4) for score in found.scores]
        words = [text[start:end] for start, end in found.words]
        records.append(Explained(id=row, label=label, by=found.by, words=words, scores=scores))
    return records


def probs_log_odds(probs: np.ndarray, column: int) -> np.ndarray:
    """Log-odds (N,) of one label, of probabilities (N, C)."""
    held = np.clip(probs[:, column], LOWEST, 1 - LOWEST)
    return np.log(held) - np.log1p(-held)
