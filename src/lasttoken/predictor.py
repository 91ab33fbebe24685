"""From texts to answers: the one entry point for the command line, estimators, explanations and servers.

A `Predictor` may be called from many threads at once: nothing of the shared model is switched, and every call gives bit for bit
what it gives alone. It is read from a run folder where it is needed, never sent to another machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lasttoken import catalog
from lasttoken.errors import DataError
from lasttoken.evaluation.policy import Policy, read_policy
from lasttoken.evaluation.predictions import check_finite
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Classifier, Said
from lasttoken.paths import local, local_text
from lasttoken.record.folder import verify
from lasttoken.text.truncation import Truncation

if TYPE_CHECKING:
    from lasttoken.model.shared import Shared

KEPT = 2**28  # bytes of probabilities that are kept for the next call
PART = 2048  # texts per progress update


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers for N texts, as columns."""

    space: LabelSpace
    probs: np.ndarray  # (N, C) float64, calibrated
    raw: np.ndarray  # (N, C) float64, as the classifier gave them
    decisions: np.ndarray  # (N,) int64, NOTHING where no label is given; with several labels a text (N, C) bool
    abstained: np.ndarray  # (N,) bool, texts to abstain on, for a person to decide
    sets: np.ndarray | None  # (N, C) bool, each text's conformal set; None without a coverage
    truncation: Truncation  # truncation counts over all texts
    lost: np.ndarray  # (N,) int64, tokens that each text lost
    invalid: np.ndarray | None  # (N,) bool, generated answers that name no label; None: nothing was generated
    tokens: np.ndarray | None  # (N,) int64, tokens of each text that the model read; None without a tokenizer

    @property
    def labels(self) -> list[str | None] | list[tuple[str, ...]]:
        """The decisions as names: one a text, None where there is none; or a tuple of names a text."""
        if self.space.multi:
            return self.space.decode_sets(self.decisions)
        return [name or None for name in self.space.decode(self.decisions)]

    def __len__(self) -> int:
        return len(self.probs)


class Predictor:
    """A classifier with the policy that calibrates and decides: texts -> Answers."""

    def __init__(self, classifier: Classifier, policy: Policy | None = None):
        """policy: None takes probabilities as they are, and decides at one half."""
        self.classifier = classifier
        self.policy = policy or Policy()
        self._latest: tuple[bytes, Said] | None = None

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str = "auto",
        trust_remote_code: bool = False,
        model: str | None = None,
        merge: str | None = None,
        precision: str | None = None,
        shared: Shared | None = None,
        backend: str | None = None,
    ) -> Predictor:
        """The predictor of a finished run, an export, or an estimator that was saved. Every file is checked first.

        trust_remote_code: allow a base model that brings its own code, which a run folder alone never can. model: the folder
        that the base model is in here, where that is another than in training; it must hold the same weights. merge: auto or
        off, in the place of what the run was fitted with; off keeps 4-bit weights as they are, for less memory and more time.
        precision: float32, bfloat16, or auto for the faster one here, in the place of what the run was computed in. shared:
        models in memory that other runs have loaded, over whose weights this one is built. backend: of an exported model, the
        name of a form, or auto for the fastest of those near the run.
        Raises ArtifactError, naming the file, where anything is missing or damaged.
        """
        folder, model = local(folder), None if model is None else local_text(model)
        verify(folder)
        classifier = catalog.load(
            folder,
            device=device,
            trust_remote_code=trust_remote_code,
            model=model,
            merge=merge,
            precision=precision,
            shared=shared,
            backend=backend,
        )
        return cls(classifier, read_policy(folder))

    @property
    def labels(self) -> LabelSpace:
        """What column j of the probabilities means."""
        return self.classifier.labels

    def __call__(self, texts: Sequence[str], journal: Journal | None = None) -> Answers:
        """The answers for N texts, their order kept. journal: is shown progress.

        The same texts asked again right afterwards are not run again. Raises ArtifactError where a probability is not finite.
        """
        said, policy, space = self.said(texts, journal), self.policy, self.labels
        probs, decisions = policy(said.probs, space.multi)
        return Answers(
            space,
            probs,
            said.probs,
            decisions,
            policy.rule.abstains(probs, space.multi),
            policy.sets(said.probs) if policy.rule.coverage else None,
            said.truncation,
            said.lost,
            said.invalid,
            said.tokens,
        )

    def said(self, texts: Sequence[str], journal: Journal | None = None, what: str = "predicting") -> Said:
        """The classifier's own predictions, before calibration. what: the task's name for the journal."""
        if isinstance(texts, str):
            raise DataError("texts must be a list of strings, got one string; put it into a list")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {i} is {repr(text)[:40]}, no string; leave such rows out, or give an empty string"
                )
        key, latest = digest(texts), self._latest
        if latest is not None and latest[0] == key:
            return latest[1]
        if journal is not None:
            journal.progress(what, 0, len(texts))
        parts = []
        for start, encoded in encoded_parts(self.classifier, texts):
            ends = start, min(start + PART, len(texts)), len(texts)
            watch = () if journal is None else (partial(part_done, journal, what, ends),)
            parts.append(self.classifier.predict_encoded(encoded, *watch))
        said = Said.joined(parts)
        check_finite(said.probs, [str(i) for i in range(len(texts))])
        for part in (said.probs, said.lost, said.invalid, said.tokens):
            if part is not None:
                part.setflags(write=False)  # whoever changes an answer must not change the next one
        if said.probs.nbytes <= KEPT:
            self._latest = key, said  # replaced whole, so that a thread never sees half of it
        return said


def encoded_parts(classifier: Classifier, texts: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield (first row, `encode`d texts) of every PART texts.

    Where the model runs on a GPU, another thread encodes the next part meanwhile. On a CPU both would want the same cores:
    8 % slower (docs/lab.md, 2026-11-29).
    """
    starts = range(0, max(1, len(texts)), PART)
    if len(starts) == 1 or not classifier.on_accelerator:
        yield from ((start, classifier.encode(texts[start : start + PART])) for start in starts)
        return
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(classifier.encode, texts[:PART])
        for start in starts:
            encoded, end = waiting.result(), start + PART
            if end in starts:
                waiting = ahead.submit(classifier.encode, texts[end : end + PART])
            yield start, encoded


def part_done(journal: Journal, what: str, ends: tuple[int, int, int], done: int, total: int) -> None:
    """Tell the journal how many texts are done. ends: first and last of the part at work, and of all texts."""
    first, last, whole = ends
    journal.progress(what, first + (last - first) * done // max(1, total), whole)


def digest(texts: Sequence[str]) -> bytes:
    """SHA-256 over the texts and their boundaries."""
    whole = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.digest()
