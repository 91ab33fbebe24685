"""Why a text got its label: what each of its words adds to the label's log-odds.

By gradients (methods/gradients.py) for models that have them, from what they read alone; or by removal, for any
method: what the log-odds lose when a word is left out. Both speak of the raw model, before calibration. Left to itself
(`auto`), an explanation is by gradients where their scores add up to what they explain, and else by removal.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lasttoken.evaluation.predictions import HALF
from lasttoken.methods.classifier import Classifier

By = Literal["auto", "gradients", "removal"]
STEPS = 32  # on the path of integrated gradients
PIECES = 200  # that are left out in turn; a longer text is left out several words at a time
MISSING = 0.1  # share of the log-odds that the scores of gradients may lack
FINER = 4  # times as many steps, where they lack more
LOWEST = 1e-12


@dataclass(frozen=True, eq=False)
class Explanation:
    """What each word of a text adds to the log-odds of one label."""

    label: str
    text: str
    words: list[tuple[int, int]]  # (W,) characters of the words of the text
    scores: list[float]  # (W,); nan for a word that was not read
    log_odds: float  # of the label on the whole text
    by: str  # gradients or removal
    gap: float  # share of the log-odds that gradients do not account for; 0 by removal

    def strongest(self, most: int = 12) -> list[tuple[str, float]]:
        """The words that weigh most, for or against, the heaviest first."""
        known = [(self.text[a:b], s) for (a, b), s in zip(self.words, self.scores, strict=True) if s == s]
        return sorted(known, key=lambda pair: -abs(pair[1]))[:most]


def explain(
    classifier: Classifier, text: str, labels: Sequence[str] | None = None, *, by: By = "auto", steps: int = STEPS
) -> list[Explanation]:
    """An explanation for each of `labels`; None: for those decided at one half, or the most probable one.

    steps: of integrated gradients; with by = "auto" they are raised, and the text read without each word, where scores do
    not add up to within MISSING.
    Raises DataError on an unknown label, ConfigError where the method has no gradients or captum is missing.
    """
    space = classifier.labels
    if labels is None:
        probs = classifier.predict_proba([text])[0]
        columns = np.flatnonzero(probs >= HALF).tolist() if space.multi else []
        columns = columns or [int(probs.argmax())]
    else:
        columns = space.encode(list(labels)).tolist()
    if by == "removal" or (by == "auto" and method_for(classifier) == "removal"):
        return [by_removal(classifier, text, column) for column in columns]
    if by == "gradients":
        return [by_gradients(classifier, text, column, steps) for column in columns]
    return [by_what_adds_up(classifier, text, column, steps) for column in columns]


def method_for(classifier: Classifier) -> Literal["gradients", "removal"]:
    """Gradients where captum is installed, the method has them, and its tokenizer tells the characters of its tokens."""
    from lasttoken.methods.linear import LinearModel

    if isinstance(classifier, LinearModel) or importlib.util.find_spec("captum") is None:
        return "removal"
    from lasttoken.methods.gradients import Differentiable

    fast = isinstance(classifier, Differentiable) and classifier.backbone.tokenizer.is_fast
    return "gradients" if fast else "removal"


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are: what stands between white space."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def by_what_adds_up(classifier: Classifier, text: str, column: int, steps: int) -> Explanation:
    """By gradients, of more steps where it takes them; by removal where their scores are not what they should sum to."""
    for tried in (steps, FINER * steps):
        found = by_gradients(classifier, text, column, tried)
        if found.gap <= MISSING:
            return found
    return by_removal(classifier, text, column)


def by_gradients(classifier: Classifier, text: str, column: int, steps: int) -> Explanation:
    """Integrated gradients of the tokens, added up over the words that they lie in."""
    from lasttoken.methods.gradients import attribute

    found, words = attribute(classifier, text, column, steps=steps), words_of(text)
    scores = [float("nan")] * len(words)
    starts = np.array([start for start, _ in words], dtype=np.int64)
    for (start, end), value in zip(found.spans, found.scores.tolist(), strict=True):
        place = (
            int(np.searchsorted(starts, end - 1, side="right")) - 1
        )  # a token may begin with the space before its word
        if end > start and place >= 0 and words:
            scores[place] = value + (0.0 if scores[place] != scores[place] else scores[place])
    return Explanation(classifier.labels.names[column], text, words, scores, found.log_odds, "gradients", found.gap)


def by_removal(classifier: Classifier, text: str, column: int) -> Explanation:
    """What the log-odds lose without each word, or without several where there are many."""
    words = words_of(text)
    size = max(1, -(-len(words) // PIECES))
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    without = [text[: group[0][0]] + text[group[-1][1] :].lstrip() for group in groups]
    odds = probs_log_odds(classifier.predict_proba([text, *without]), column)
    scores = [float(odds[0] - odds[i + 1]) / len(group) for i, group in enumerate(groups) for _ in group]
    return Explanation(classifier.labels.names[column], text, words, scores, float(odds[0]), "removal", 0.0)


def explained(
    classifier: Classifier, asked: Sequence[tuple[str, str, str]], *, steps: int = 16
) -> list[dict[str, Any]]:
    """For the run folder: what each word of a text adds to a label, of (id, text, label); null for a word not read."""
    rows = []
    for row, text, label in asked:
        found = explain(classifier, text, [label], steps=steps)[0]
        scores = [None if score != score else round(score, 4) for score in found.scores]
        words = [text[start:end] for start, end in found.words]
        rows.append({"id": row, "label": label, "by": found.by, "words": words, "scores": scores})
    return rows


def probs_log_odds(probs: np.ndarray, column: int) -> np.ndarray:
    """Log-odds (N,) of one label, of probabilities (N, C)."""
    held = np.clip(probs[:, column], LOWEST, 1 - LOWEST)
    return np.log(held) - np.log1p(-held)
