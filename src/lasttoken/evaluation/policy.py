"""What is shipped beside a classifier: the calibration of its probabilities and the rule that decides on them.

Both are made on validation rows alone, stored in the run's policy.json and applied wherever the run predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.config import Decision
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.calibration import NONE, Calibration, fit_calibration
from lasttoken.evaluation.conformal import covered, fit_sets, sets_of
from lasttoken.evaluation.decisions import Rule, abstain_below, confidence, fit_thresholds
from lasttoken.evaluation.metrics import exact
from lasttoken.evaluation.predictions import Predictions
from lasttoken.run import read_json, write_json

FILE = "policy.json"


@dataclass(frozen=True, eq=False)
class Policy:
    """From what a classifier says to what its user is told. Without arguments: probabilities as they are, one half."""

    calibration: Calibration = NONE
    rule: Rule = field(default_factory=Rule)

    def shipped(self, raw: Predictions) -> Predictions:
        """The same rows with calibrated probabilities and the decisions made on them."""
        probs = self.calibration(raw.probs)
        return Predictions(raw.ids, raw.targets, probs, raw.labels, self.rule(probs, raw.labels.multi))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"calibration": self.calibration.to_dict(), "rule": self.rule.to_dict()}


def fit_policy(settings: Decision, raw: Predictions, *, seed: int = 0) -> tuple[Policy, list[str]]:
    """(the policy that validation rows give, a sentence about each of its parts). Raises DataError on a setting that
    does not fit the kind of rows.
    """
    multi, y = raw.labels.multi, raw.targets
    refuse_other_kind(settings, multi)
    calibration, told = fit_calibration(raw.probs, y, method=settings.calibration, seed=seed)
    notes, probs = [told], calibration(raw.probs)
    limits = None
    if multi and not settings.top:
        objective = "macro_f1" if settings.thresholds == "auto" else settings.thresholds
        limits, told = fit_thresholds(
            probs,
            y,
            objective=objective,
            wanted=settings.wanted,
            false_cost=settings.false_cost,
            missed_cost=settings.missed_cost,
            seed=seed,
        )
        notes.append(told)
    rule = Rule(limits, at_least_one=settings.at_least_one, top=settings.top)
    if settings.most_wrong is not None:
        limit = abstain_below(exact(y, rule(probs, multi)), confidence(probs, multi), settings.most_wrong)
        rule = Rule(limits, settings.at_least_one, settings.top, limit)
        answered = float((confidence(probs, multi) >= limit).mean())
        notes.append(
            f"abstains below {limit:.3f}, so that at most {settings.most_wrong:.1%} of answers are wrong: {answered:.1%} answered"
        )
    if settings.coverage is not None:
        rule = Rule(**{**vars(rule), "set_from": fit_sets(probs, y, settings.coverage), "coverage": settings.coverage})
        notes.append(f"sets hold every label from {rule.set_from:.4f}, for {settings.coverage:.1%} coverage")
    return Policy(calibration, rule), notes


def refuse_other_kind(settings: Decision, multi: bool) -> None:
    """Raises DataError where thresholds, top or at_least_one are asked of rows with one label each."""
    asked = {
        "thresholds": settings.thresholds != "auto",
        "top": settings.top > 0,
        "at_least_one": settings.at_least_one,
    }
    wrong = next((name for name, value in asked.items() if value), None)
    if wrong and not multi:
        raise DataError(f"decision.{wrong}: each row has one label, the most probable is given; leave it out")


def judged(policy: Policy, shipped: Predictions) -> dict[str, Any]:
    """What the policy's promises came to on rows it was not made on; ready for JSON."""
    multi, y, rule = shipped.labels.multi, shipped.targets, policy.rule
    found: dict[str, Any] = {}
    if rule.abstain_below:
        answered = ~rule.abstains(shipped.probs, multi)
        wrong = ~exact(y, shipped.chosen)[answered]
        found["answered"] = float(answered.mean())
        found["wrong"] = float(wrong.mean()) if answered.any() else None
    if rule.coverage:
        found["sets"] = asdict(covered(sets_of(shipped.probs, rule.set_from), y, rule.coverage))
    return found


def write_policy(policy: Policy, folder: Path) -> None:
    """FOLDER/policy.json."""
    write_json(folder / FILE, policy.to_dict())


def read_policy(folder: Path) -> Policy:
    """The policy of a run folder; the plain one where none was made. Raises ArtifactError on a damaged file."""
    if not (folder / FILE).exists():
        return Policy()
    stored: Mapping[str, Any] = read_json(folder / FILE)
    try:
        return Policy(Calibration.of(stored["calibration"]), Rule.of(stored["rule"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / FILE}: damaged ({error!r}); fit again") from error
    except DataError as error:
        raise ArtifactError(f"{folder / FILE}: {error}") from error


def decided(policy: Policy, raw: np.ndarray, multi: bool) -> tuple[np.ndarray, np.ndarray]:
    """(calibrated probabilities (N, C), decisions) of rows without truth."""
    probs = policy.calibration(raw)
    return probs, policy.rule(probs, multi)
