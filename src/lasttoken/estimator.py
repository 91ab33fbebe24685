"""The scikit-learn face: one estimator a method, its parameters the settings of the method's config.

Nested settings are written flat: `lora_r`, `train_epochs`. The code is the command line's otherwise: `predictor_`
answers; `steps_`, `cost_`, `end_` and `notes_` describe the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lasttoken import catalog
from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.parse import names as setting_names
from lasttoken.config.parse import parse, read_run, to_toml
from lasttoken.config.run import Run
from lasttoken.config.settings import Data, Decision
from lasttoken.data.from_python import as_texts, dataset, encoded, held_out
from lasttoken.errors import ConfigError, DataError, Diverged
from lasttoken.evaluation.policy import check_decision, fit_policy, write_policy
from lasttoken.evaluation.predictions import Predictions
from lasttoken.explain.explanation import By, Explanation, explain
from lasttoken.hierarchy import Hierarchy, hierarchy_of
from lasttoken.journal import LOGGER
from lasttoken.labels import NOTHING, LabelSpace
from lasttoken.packages import stand_in
from lasttoken.paths import local
from lasttoken.predictor import Answers, Predictor
from lasttoken.record.folder import writing
from lasttoken.wording import did_you_mean


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
            hint = did_you_mean(unknown[0], known) or f"; known are {', '.join(sorted(known))}"
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}{hint}")
        for name, default in known.items():
            setattr(self, name, settings.get(name, default))
        self._model_named = "model" in settings

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
        default = METHOD_CONFIGS[self._method]()
        if getattr(run.method, "model", None) == "tiny" and not self._model_named and (told := stand_in([default])):
            LOGGER.warning("%s", told)
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
        fitted = catalog.fit(config, train, chosen, seed=run.seed, device=run.device)
        self.classes_ = classes
        raw = Predictions(chosen.ids, chosen.targets, fitted.classifier.predict_proba(chosen.texts).probs, space)
        above = tree.columns(space) if tree and space.multi else ()
        policy, notes = fit_policy(decision, raw, seed=run.seed, above=above)
        for sentence in notes:
            LOGGER.info(sentence)
        self.steps_, self.cost_, self.end_, self.notes_ = fitted.steps, fitted.cost, fitted.end, (*fitted.notes, *notes)
        self.predictor_ = Predictor(
            fitted.classifier, policy
        )  # where training was cut short, of the best weights until then
        if fitted.end.how == "interrupted":
            raise KeyboardInterrupt
        if fitted.end.how == "diverged":
            raise Diverged(fitted.end.told)
        return self

    def save(self, folder: Path | str) -> None:
        """Write a run folder that `lasttoken.load` and `lasttoken predict` read. It must not exist. Raises ArtifactError."""
        check_is_fitted(self, "predictor_")
        run = self._run()
        with writing(local(folder)) as part:
            self.predictor_.classifier.save(part)
            write_policy(self.predictor_.policy, part)
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

    def answers(self, texts: Sequence[str]) -> Answers:
        """All predictions of the texts (N,): probabilities, decisions, sets, abstentions, truncation.

        `predict`, `predict_proba`, `predict_sets` and `abstains` return its columns. Called on the same texts in a row,
        they run the model once. Raises ArtifactError where probabilities are not finite.
        """
        check_is_fitted(self, "predictor_")
        found = self.predictor_(as_texts(texts))
        if found.truncation:
            LOGGER.warning("%s", found.truncation)
        return found

    def predict_proba(self, texts: Sequence[str], *, calibrated: bool = True) -> np.ndarray:
        """Probabilities (N, C) float64; column j is `classes_[j]`."""
        found = self.answers(texts)
        return found.probs if calibrated else found.raw

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Labels (N,) as they were given, or an indicator (N, C) int64 where several labels were learnt; of rows that
        `abstains` names too. None where a generated answer named no label.
        """
        found = self.answers(texts)
        chosen = found.decisions
        if found.space.multi:
            return chosen.astype(np.int64)
        given = self.classes_[chosen]
        if (chosen == NOTHING).any():
            given = given.astype(object)
            given[chosen == NOTHING] = None
        return given

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of texts X whose decision is right, with several labels a text all of it; y as `fit` takes labels."""
        check_is_fitted(self, "predictor_")
        if self.predictor_.labels.multi:
            return super().score(X, encoded(y, self.classes_)[1].astype(np.int64), sample_weight)
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))  # None is never right

    def predict_sets(self, texts: Sequence[str]) -> np.ndarray:
        """The labels of each text's conformal set, (N, C) bool. Raises ConfigError where `decision_coverage` was not set."""
        check_is_fitted(self, "predictor_")
        if not self.predictor_.policy.rule.coverage:
            raise ConfigError(["decision_coverage: not set, so no sets were made; fit with decision_coverage=0.9"])
        sets = self.answers(texts).sets
        assert sets is not None
        return sets

    def explain(self, text: str, labels: Sequence[Any] | None = None, *, by: By = "auto") -> list[Explanation]:
        """What each word of one text adds to the log-odds of each label; None: of those decided, or the most probable one.

        The same as `lasttoken explain`. Raises DataError on what is no text or an unknown label, ConfigError where gradients cannot
        be had.
        """
        check_is_fitted(self, "predictor_")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"explain takes one text with words in it, got {text!r}; call it once a text")
        if isinstance(labels, str):
            raise DataError(f"labels must be a list, got one string; put it into a list: labels=[{labels!r}]")
        return explain(self.predictor_, text, None if labels is None else [str(label) for label in labels], by=by)

    def abstains(self, texts: Sequence[str]) -> np.ndarray:
        """The texts (N,) bool that are better left to a person; none unless `decision_most_wrong` was set."""
        return self.answers(texts).abstained


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
    model: str | None = None,
    merge: str | None = None,
    precision: str | None = None,
) -> TextClassifier:
    """The fitted estimator of a finished run or of `save`; unless `merge` or `precision` is given it predicts bit for bit what was
    fitted on the same device.

    Its `classes_` are the label names as text. The options are those of `Predictor.load`. Raises ArtifactError, naming the file,
    where anything is missing or damaged.
    """
    folder = local(folder)
    predictor = Predictor.load(
        folder, device=device, trust_remote_code=trust_remote_code, model=model, merge=merge, precision=precision
    )
    run = read_run(folder / "config.toml")
    settings = (
        decision_values(run.decision)
        | flat_values(run.method)
        | {name: value for name, value in (("merge", merge), ("precision", precision)) if value is not None}
    )
    settings |= {
        "seed": run.seed,
        "device": device,
        "valid_share": run.data.valid_share,
        "hierarchy": run.data.hierarchy,
    }
    estimator = ESTIMATORS[run.method.method](**settings)
    estimator.predictor_ = predictor
    estimator.classes_ = np.array(predictor.labels.names)
    return estimator


def as_parameter(problem: str) -> str:
    """The problem of a setting under the name that it has as a parameter: method.lora.r is lora_r."""
    name, colon, rest = problem.partition(":")
    return name.removeprefix("method.").removeprefix("data.").replace(".", "_") + colon + rest
