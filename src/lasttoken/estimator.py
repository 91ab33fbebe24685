"""The scikit-learn face: one estimator a method, its parameters the settings of the method's config.

Nested settings are written flat: `lora_r`, `train_epochs`. Everything else is the same code as the command line's; a
fitted estimator's classifier is `classifier_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lasttoken import catalog
from lasttoken.config import METHOD_CONFIGS, Data, Decision, Run, parse, read_run, to_toml
from lasttoken.config import names as setting_names
from lasttoken.data.dataset import Dataset
from lasttoken.data.split import shared_out
from lasttoken.errors import ConfigError, DataError
from lasttoken.evaluation.policy import check_decision, fit_policy, read_policy, write_policy
from lasttoken.evaluation.predictions import Predictions, check_finite
from lasttoken.experiment import compile_classifier
from lasttoken.experiment import load as load_classifier
from lasttoken.explain import By, Explanation, explain
from lasttoken.hierarchy import Hierarchy, hierarchy_of
from lasttoken.journal import LOGGER, Journal
from lasttoken.labels import NOTHING, LabelSpace
from lasttoken.run import writing
from lasttoken.seed import generator


def flat_names(method: str) -> dict[str, str]:
    """Flat parameter name -> dotted setting of a method: {"lora_r": "lora.r", ...}."""
    return {dotted.replace(".", "_"): dotted for dotted in setting_names(METHOD_CONFIGS[method]) - {"method"}}


def flat_values(config: Any) -> dict[str, Any]:
    """Flat parameter name -> value, of a method's config."""
    return {name: attrgetter(dotted)(config) for name, dotted in flat_names(config.method).items()}


def decision_values(decision: Decision) -> dict[str, Any]:
    """Flat parameter name -> value, of how decisions are made."""
    return {f"decision_{name}": getattr(decision, name) for name in Decision.model_fields}


def named(value: Any) -> Any:
    """A table whose names are labels, as text; any other value as it is."""
    return {str(name): named(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"lora.r": 4} -> {"lora": {"r": 4}}."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return values


class TextClassifier(ClassifierMixin, BaseEstimator):
    """fit, predict and predict_proba of texts, under scikit-learn's contract. One label a text, or an indicator (N, C).

    Parameters are the method's settings; `seed`, `device` and `valid_share` (of the training rows, held out to choose the
    best weights, unless `fit` is given validation rows), and how probabilities are calibrated and decided on, also from
    those rows: `decision_calibration`, `decision_thresholds` and the other settings of `config.Decision`.
    `hierarchy`: where labels lie below one another and a text may have several, what stands between their levels
    (`A/A61`), or a CSV file of columns label and parent.
    """

    _method: ClassVar[str]
    seed: int
    device: str
    valid_share: float
    hierarchy: str | None

    def __init__(self, model: str | None = None, **settings: Any):
        known = self._defaults()
        if model is not None:
            settings["model"] = model
        unknown = sorted(settings.keys() - known.keys())
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no setting {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        for name, default in known.items():
            setattr(self, name, settings.get(name, default))

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Every parameter with its default."""
        own: dict[str, Any] = {"seed": 0, "device": "auto", "valid_share": Data().valid_share, "hierarchy": None}
        return own | decision_values(Decision()) | flat_values(METHOD_CONFIGS[cls._method]())

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted(cls._defaults())

    def fit(self, texts: Sequence[str], labels: Any, *, valid: tuple[Sequence[str], Any] | None = None) -> Self:
        """Fit on texts (N,) and labels: (N,) of any sortable values; for several labels a text, N lists of names, or an
        indicator (N, C) of 0 and 1 (lists of names are better for `instruction`, which has to say them).

        valid: (texts, labels) that choose the best weights; None holds out `valid_share` of the rows. Raises UserError.
        """
        run = self._run()
        tree = None
        if valid is not None and not (isinstance(valid, tuple | list) and len(valid) == 2):
            raise DataError(
                "valid takes a pair, the texts and the labels of the validation rows: valid=(texts, labels)"
            )
        if self.hierarchy is not None:
            tree, labels, valid = self._lifted(labels, valid)
        classes, targets = encoded(labels)
        space = LabelSpace(tuple(str(name) for name in classes), multi=targets.ndim == 2)
        whole = dataset(as_texts(texts), targets, space)
        if valid is None:
            held = held_out(targets, run.data.valid_share, run.seed)
            train, chosen = whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
        else:
            truth = encoded(valid[1], classes)[1]
            if truth.shape[1:] != targets.shape[1:]:
                raise DataError(f"validation labels have the shape {truth.shape}, training labels {targets.shape}")
            train, chosen = whole, dataset(as_texts(valid[0]), truth, space)
        config, decision = run.method, run.decision
        check_decision(decision, chosen.targets, space)
        self.journal_ = Journal()
        self.classifier_ = catalog.fit(config, train, chosen, seed=run.seed, device=run.device, journal=self.journal_)
        self.classes_ = classes
        said = self.classifier_.predict_proba(chosen.texts)
        raw = Predictions(chosen.ids, chosen.targets, said, space)
        above = tree.columns(space) if tree and space.multi else ()
        self.policy_, notes = fit_policy(decision, raw, seed=run.seed, above=above)
        for sentence in notes:
            self.journal_.note(sentence)
        if self.journal_.failure is not None:  # the best weights up to then are in classifier_
            raise self.journal_.failure
        return self

    def save(self, folder: Path | str) -> None:
        """Write a run folder that `lasttoken.load` and `lasttoken predict` read. It must not exist. Raises ArtifactError."""
        check_is_fitted(self, "classifier_")
        run = self._run()
        with writing(Path(folder)) as part:
            self.classifier_.save(part)
            write_policy(self.policy_, part)
            (part / "config.toml").write_text(to_toml(run), encoding="utf-8")

    def _lifted(self, labels: Any, valid: tuple[Sequence[str], Any] | None) -> tuple[Hierarchy, Any, Any]:
        """(the hierarchy, labels and valid with the labels above each). Raises DataError where rows are no lists of names."""
        rows = [list(labels), *([] if valid is None else [list(valid[1])])]
        if not all(isinstance(row, list | tuple | set | frozenset) for part in rows for row in part):
            raise DataError("hierarchy: give each text's labels as a list of names, so that those above can be added")
        tree = hierarchy_of(str(self.hierarchy), sorted({name for part in rows for row in part for name in row}))
        first, *rest = [[tree.closed(row) for row in part] for part in rows]
        return tree, first, None if valid is None else (valid[0], rest[0])

    def _run(self) -> Run:
        """The run that the parameters describe. Raises ConfigError with every one that will not do."""
        data = {"source": "rows given from Python", "valid_share": self.valid_share, "hierarchy": self.hierarchy}
        settings = {dotted: getattr(self, name) for name, dotted in flat_names(self._method).items()}
        values = {
            "seed": self.seed,
            "device": self.device,
            "data": data,
            "decision": {name: named(getattr(self, f"decision_{name}")) for name in Decision.model_fields},
            "method": {"method": self._method, **nested(settings)},
        }
        try:
            return parse(Run, values)
        except ConfigError as error:
            raise ConfigError([as_parameter(problem) for problem in error.problems]) from error

    def predict_proba(self, texts: Sequence[str], *, calibrated: bool = True) -> np.ndarray:
        """Probabilities (N, C) float64; column j is `classes_[j]`. Raises ArtifactError where they are not finite."""
        check_is_fitted(self, "classifier_")
        journal = Journal()
        raw = self.classifier_.predict_proba(as_texts(texts), journal)
        check_finite(raw, [str(i) for i in range(len(raw))])
        if journal.truncation:
            LOGGER.warning("%s", journal.truncation)
        return self.policy_.calibrated(raw) if calibrated else raw

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Labels (N,) as they were given, or an indicator (N, C) int64 where several labels were learnt; of rows that
        `abstains` names too. None where a generated answer named no label.
        """
        probs = self.predict_proba(texts)
        chosen = self.policy_.rule(probs, self.classifier_.labels.multi)
        if chosen.ndim == 2:
            return chosen.astype(np.int64)
        given = self.classes_[chosen]
        if (chosen == NOTHING).any():
            given = given.astype(object)
            given[chosen == NOTHING] = None
        return given

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of texts X whose decision is right, with several labels a text all of it; y as `fit` takes labels."""
        truth = encoded(y, self.classes_)[1].astype(np.int64) if self.classifier_.labels.multi else y
        return super().score(X, truth, sample_weight)

    def predict_sets(self, texts: Sequence[str]) -> np.ndarray:
        """The labels of each text's conformal set, (N, C) bool. Raises ConfigError where `decision_coverage` was not set."""
        check_is_fitted(self, "classifier_")
        if not self.policy_.rule.coverage:
            raise ConfigError(["decision_coverage: not set, so no sets were made; fit with decision_coverage=0.9"])
        return self.policy_.sets(self.predict_proba(texts, calibrated=False))

    def explain(self, text: str, labels: Sequence[Any] | None = None, *, by: By = "auto") -> list[Explanation]:
        """What each word of one text adds to the log-odds of each label; None: of those decided, or the most probable one.

        The same as `lasttoken explain`. Raises DataError on what is no text or an unknown label, ConfigError where gradients cannot
        be had.
        """
        check_is_fitted(self, "classifier_")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"explain takes one text with words in it, got {text!r}; call it once a text")
        if labels is None:
            space = self.classifier_.labels
            decided = self.policy_(self.classifier_.predict_proba([text]), space.multi)[1]
            given = space.decode_sets(decided)[0] if space.multi else space.decode(decided)
            labels = [name for name in given if name] or None
        if isinstance(labels, str):
            raise DataError(f"labels must be a list, got one string; put it into a list: labels=[{labels!r}]")
        names = None if labels is None else [str(label) for label in labels]
        return explain(self.classifier_, text, names, by=by)

    def abstains(self, texts: Sequence[str]) -> np.ndarray:
        """The texts (N,) bool that are better left to a person; none unless `decision_most_wrong` was set."""
        probs = self.predict_proba(texts)
        return self.policy_.rule.abstains(probs, self.classifier_.labels.multi)


class EmbeddingClassifier(TextClassifier):
    """A causal LM with LoRA and a head on the final token's hidden state; settings as in `config.Embedding`."""

    _method = "embedding"


class InstructionClassifier(TextClassifier):
    """A causal LM that answers with the label's text; settings as in `config.Instruction`."""

    _method = "instruction"


class EncoderClassifier(TextClassifier):
    """An encoder with a head, all of it trained; settings as in `config.Encoder`."""

    _method = "encoder"


class ProbeClassifier(TextClassifier):
    """Logistic regression on a frozen model's hidden states; settings as in `config.Probe`."""

    _method = "probe"


class LinearClassifier(TextClassifier):
    """TF-IDF and logistic regression; settings as in `config.Linear`."""

    _method = "linear"

    def __init__(self, **settings: Any):
        super().__init__(**settings)


ESTIMATORS: dict[str, type[TextClassifier]] = {
    kind._method: kind
    for kind in (EmbeddingClassifier, InstructionClassifier, EncoderClassifier, ProbeClassifier, LinearClassifier)
}


def load(
    folder: Path | str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    compile: bool = False,
    model: str | None = None,
    merge: str | None = None,
) -> TextClassifier:
    """The fitted estimator of a finished run or of `save`; unless `merge` is given it predicts bit for bit what was
    fitted on the same device.

    Its `classes_` are the label names as text. Raises ArtifactError, naming the file, where anything is missing or damaged.

    trust_remote_code: allow a base model that brings its own code, which a run folder alone never can.
    compile: take ten seconds or more to predict faster afterwards, up to what another order of sums rounds; raises
    ConfigError where the method has no language model or torch finds no C++ compiler.
    model: the folder that the base model is in on this machine, where that is another than in training; it must hold the
    same weights.
    merge: auto or off, in the place of what it was fitted with; off keeps 4-bit weights as they are, which takes less memory
    and more time.
    """
    classifier = load_classifier(folder, device=device, trust_remote_code=trust_remote_code, model=model, merge=merge)
    if compile:
        compile_classifier(classifier)
    run = read_run(Path(folder) / "config.toml")
    settings = decision_values(run.decision) | flat_values(run.method) | ({} if merge is None else {"merge": merge})
    settings |= {
        "seed": run.seed,
        "device": device,
        "valid_share": run.data.valid_share,
        "hierarchy": run.data.hierarchy,
    }
    estimator = ESTIMATORS[run.method.method](**settings)
    estimator.classifier_ = classifier
    estimator.policy_ = read_policy(Path(folder))
    estimator.classes_ = np.array(classifier.labels.names)
    return estimator


def as_parameter(problem: str) -> str:
    """The problem of a setting under the name that it has as a parameter: method.lora.r is lora_r."""
    name, colon, rest = problem.partition(":")
    return name.removeprefix("method.").removeprefix("data.").replace(".", "_") + colon + rest


def as_texts(texts: Any) -> list[str]:
    """A list of the texts; of a table of one column, that column. Raises DataError on one string, or on what is no text."""
    if isinstance(texts, str):
        raise DataError("texts must be a list of strings, got one string; put it into a list")
    if getattr(texts, "ndim", 1) == 2:  # iterating a DataFrame would give the names of its columns
        if texts.shape[1] != 1:
            raise DataError(f"texts must be one column, got {texts.shape[1]}; pass one, or join them into one first")
        texts = np.asarray(texts, dtype=object)[:, 0]
    found = list(texts)
    wrong = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"text {wrong} is {found[wrong]!r}, not a string; drop or fill such rows")
    return found


def encoded(labels: Any, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(classes (C,), targets (N,) int64 or (N, C) bool). An indicator's classes are 0, 1, ... C - 1.

    With `classes` the labels must be among them. Raises DataError.
    """
    if isinstance(labels, pd.DataFrame):
        labels = labels.to_numpy()
    found = list(labels)
    lists = [isinstance(row, list | tuple | set | frozenset) for row in found]
    indicator = all(lists) and any(found) and not any(isinstance(x, str) or missing(x) for row in found for x in row)
    if any(lists) and not indicator:
        for number, row in enumerate(found):
            if not lists[number] or not all(isinstance(x, str) and x for x in row):
                raise DataError(
                    f"the labels of text {number} are {row!r}, where others have lists of names; give a list of names, [] where "
                    "a text has no label"
                )
        known = np.array(sorted({name for row in found for name in row})) if classes is None else classes
        space = LabelSpace(tuple(known.tolist()), multi=True)
        return known, space.encode_sets(found)
    values = np.asarray(found)
    if values.ndim == 2:
        if not np.isin(values, (0, 1)).all():
            raise DataError("labels with two axes are an indicator of 0 and 1, one column a label")
        return np.arange(values.shape[1]), values.astype(bool)
    if pd.isna(np.array(found, dtype=object)).any():
        raise DataError("some labels are None or NaN; drop or fill such rows")
    known = np.unique(values) if classes is None else classes
    if len(known) < 2:
        raise DataError(f"labels hold {len(known)} class(es): {known.tolist()}; two or more are needed")
    targets = np.searchsorted(known, values).clip(max=len(known) - 1)
    unknown = sorted(set(values[known[targets] != values].tolist()))
    if unknown:
        raise DataError(f"validation labels {unknown[:5]} are not among those of training")
    return known, targets.astype(np.int64)


def missing(value: Any) -> bool:
    """Whether a label is none: None or nan."""
    return value is None or (isinstance(value, float) and np.isnan(value))


def dataset(texts: list[str], targets: np.ndarray, space: LabelSpace) -> Dataset:
    """The rows as a Dataset, numbered from 0. Raises DataError where texts and labels differ in number."""
    if len(texts) != len(targets):
        raise DataError(
            f"{len(texts)} texts and {len(targets)} labels; there must be one label, or row of labels, a text"
        )
    return Dataset([str(i) for i in range(len(texts))], texts, targets, space)


def held_out(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which rows are validation (N,) bool, stratified by label. Raises DataError where there are too few rows."""
    names = [tuple(map(str, np.flatnonzero(row))) if targets.ndim == 2 else (str(row),) for row in targets]
    parts = shared_out(names, None, (1 - share, share), multi=targets.ndim == 2, rng=generator(seed, "split"))
    if not (parts == 1).any():
        raise DataError(
            f"{len(targets)} rows are too few to hold out {share:.0%} for validation; give valid=(texts, labels)"
        )
    return parts == 1
