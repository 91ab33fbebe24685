"""The scikit-learn face: one estimator a method, its parameters the settings of the method's config.

Nested settings are written flat, as scikit-learn does: `lora__r`, `train__epochs`. Everything else is the same code
as the command line's; a fitted estimator's classifier is `classifier_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lasttoken import catalog
from lasttoken.config import METHOD_CONFIGS, Data, parse
from lasttoken.config import names as setting_names
from lasttoken.data.dataset import Rows
from lasttoken.data.split import splits_from
from lasttoken.errors import DataError
from lasttoken.evaluation.predictions import decide
from lasttoken.experiment import columns_of
from lasttoken.journal import Journal


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"lora__r": 4} -> {"lora": {"r": 4}}."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = name.split("__")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return values


class _TextClassifier(ClassifierMixin, BaseEstimator):
    """fit, predict and predict_proba of texts, under scikit-learn's contract. One label a text, or an indicator (N, C).

    Parameters are the method's settings; `seed`, `device` and `valid_share` (of the training rows, held out to choose
    the best weights, unless `fit` is given validation rows) are its own.
    """

    _method: ClassVar[str]

    def __init__(self, model: str | None = None, **settings: Any):
        known = self._defaults()
        unknown = sorted(settings.keys() - known.keys())
        if unknown:
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if model is not None:
            settings["model"] = model
        for name, default in known.items():
            setattr(self, name, settings.get(name, default))

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Every parameter with its default."""
        config = METHOD_CONFIGS[cls._method]()
        found: dict[str, Any] = {"seed": 0, "device": "auto", "valid_share": Data().valid_share}
        for dotted in sorted(setting_names(type(config)) - {"method"}):
            value: Any = config
            for part in dotted.split("."):
                value = getattr(value, part)
            found[dotted.replace(".", "__")] = value
        return found

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted(cls._defaults())

    def fit(self, texts: Sequence[str], labels: Any, *, valid: tuple[Sequence[str], Any] | None = None) -> _TextClassifier:
        """Fit on texts (N,) and labels: names (N,), or an indicator (N, C) of 0 and 1 for several labels a text.

        valid: (texts, labels) that choose the best weights; None holds out `valid_share` of the rows. Raises UserError.
        """
        rows = rows_of(texts, labels, "")
        given = None if valid is None else rows_of(*valid, "valid:")
        splits = splits_from(rows, given, rows_of([], [], "test:") if False else None, seed=self.seed, valid_fraction=self.valid_share, test_fraction=0.0)
        own = ("seed", "device", "valid_share")
        settings = {name: getattr(self, name) for name in self._defaults() if name not in own}
        config = parse(METHOD_CONFIGS[self._method], nested(settings))
        self.journal_ = Journal()
        self.classifier_ = catalog.fit(
            config, splits.train, splits.valid, seed=self.seed, device=self.device, journal=self.journal_
        )
        if self.journal_.failure is not None:
            raise self.journal_.failure
        self.classes_ = np.array(splits.labels.names)
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities (N, C) float64; column j is `classes_[j]`."""
        check_is_fitted(self, "classifier_")
        return self.classifier_.predict_proba(as_texts(texts))

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Names (N,), or an indicator (N, C) int64 where several labels were learnt."""
        decided = decide(self.predict_proba(texts), self.classifier_.labels.multi)
        return decided.astype(np.int64) if decided.ndim == 2 else self.classes_[decided]
