"""A run's policy: the calibration of its probabilities and the decision rule.

Both are fitted on validation rows alone, stored in the run's policy.json and applied whenever the run predicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.config.settings import Decision
from lasttoken.errors import ArtifactError, DataError
from lasttoken.evaluation.calibration import NONE, Calibration, check_calibration, fit_calibration, folds_of
from lasttoken.evaluation.conformal import covered, fit_sets, rows_needed, sets_of
from lasttoken.evaluation.costs import cost_matrix, label_costs, paid
from lasttoken.evaluation.decisions import (
    NEEDED,
    NEVER,
    WRONG,
    Rule,
    abstain_below,
    confidence,
    fit_thresholds,
    lowest_share,
    rows_to_show,
)
from lasttoken.evaluation.intervals import share_of
from lasttoken.evaluation.metrics import Formula, Metric, exact, mean, once
from lasttoken.evaluation.predictions import Predictions, most_probable
from lasttoken.evaluation.row_statistics import RowSums
from lasttoken.evaluation.significance import bootstrap, bootstrap_difference
from lasttoken.hierarchy import Above, coherent, upwards
from lasttoken.labels import LabelSpace
from lasttoken.record.folder import read_json, write_json
from lasttoken.seed import generator

FILE = "policy.json"


@dataclass(frozen=True, eq=False)
class Policy:
    """From raw probabilities to calibrated ones and decisions. Default: no calibration, thresholds of one half."""

    calibration: Calibration = NONE
    rule: Rule = field(default_factory=Rule)

    def __call__(self, raw: np.ndarray, multi: bool) -> tuple[np.ndarray, np.ndarray]:
        """(calibrated probabilities (N, C), decisions (N,) or (N, C)) of raw probabilities (N, C)."""
        probs = self.calibrated(raw)
        return probs, self.rule(probs, multi)

    def calibrated(self, raw: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, C); in a hierarchy a label is at least as probable as those below it."""
        return coherent(self.calibration(raw), self.rule.above)

    def sets(self, raw: np.ndarray) -> np.ndarray:
        """Each row's conformal set, (N, C) bool, including the labels above its members."""
        return upwards(sets_of(raw, self.rule.set_from), self.rule.above)

    def shipped(self, raw: Predictions) -> Predictions:
        """The same rows with calibrated probabilities and the decisions made on them."""
        probs, decisions = self(raw.probs, raw.labels.multi)
        return Predictions(raw.ids, raw.targets, probs, raw.labels, decisions, raw.fold)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"calibration": self.calibration.to_dict(), "rule": self.rule.to_dict()}


def check_decision(settings: Decision, y: np.ndarray, labels: LabelSpace) -> None:
    """Raises DataError, before training, where the settings do not suit validation rows with targets y."""
    multi, rows, classes = labels.multi, len(y), len(labels)
    multi_only = {
        "thresholds": settings.thresholds != "auto",
        "top": settings.top > 0,
        "at_least_one": settings.at_least_one,
    }
    wrong = next((name for name, value in multi_only.items() if value), None)
    if wrong and not multi:
        hint = "; give the costs of mistakes with decision.costs alone" if settings.thresholds == "cost" else ""
        raise DataError(f"decision.{wrong}: each row has one label; leave it out{hint}")
    check_used(settings, multi=multi)
    costs_of(settings, labels)
    if settings.top > classes:
        raise DataError(f"decision.top: {settings.top} labels of {classes} are asked for; ask for {classes} at most")
    if settings.thresholds in ("precision", "recall") and rows < NEEDED:  # guarantees; for F1 it stays at one half
        raise DataError(
            f"decision.thresholds: {settings.thresholds} needs {NEEDED} validation rows, there are {rows}; "
            "give more with --valid or a larger --valid-share, or leave it out"
        )
    check_calibration(settings.calibration, y, classes)


def costs_of(settings: Decision, labels: LabelSpace) -> np.ndarray | None:
    """Costs of mistakes: (C, C) with one label a row, None where all are equal; (2, C) with any number of labels."""
    costs = settings.costs or {}
    if labels.multi:
        return label_costs(costs, labels, false=settings.false_cost, missed=settings.missed_cost)
    return cost_matrix(costs, labels) if costs else None


def check_used(settings: Decision, *, multi: bool) -> None:
    """Raises DataError on a setting that has no effect because of another one."""
    if settings.top and (settings.thresholds != "auto" or settings.at_least_one):
        other = "at_least_one" if settings.at_least_one else "thresholds"
        raise DataError(f"decision.top: gives so many labels whatever they score; leave it or decision.{other} out")
    if settings.at_least_one and settings.thresholds == "precision":
        raise DataError(
            "decision.at_least_one: gives labels below the threshold that guarantees precision; leave one of the two out"
        )
    scalars = [name for name in ("false_cost", "missed_cost") if getattr(settings, name) != 1.0]
    if scalars and not multi:
        raise DataError(
            f"decision.{scalars[0]}: each row has one label; give the costs of mistakes with decision.costs"
        )
    for name, modes in (
        ("wanted", ("precision", "recall")),
        ("false_cost", ("cost",)),
        ("missed_cost", ("cost",)),
        *([("costs", ("cost",))] if multi else []),
    ):
        if getattr(settings, name) != Decision.model_fields[name].default and settings.thresholds not in modes:
            raise DataError(
                f"decision.{name}: is for decision.thresholds = {' or '.join(modes)}; set that too, or leave it out"
            )


def fit_policy(settings: Decision, raw: Predictions, *, seed: int = 0, above: Above = ()) -> tuple[Policy, list[str]]:
    """(policy fitted on validation rows, a sentence about each of its parts). Raises DataError as `check_decision`.

    above: the columns above each label, in a hierarchy of labels. Thresholds and abstaining use cross-fitted
    probabilities, sets use raw ones.
    """
    multi, y = raw.labels.multi, raw.targets
    check_decision(settings, y, raw.labels)
    calibration, probs, told = fit_calibration(raw.probs, y, method=settings.calibration, seed=seed)
    notes = [told]
    probs = coherent(probs, above)
    costs = costs_of(settings, raw.labels)
    rule = Rule(at_least_one=settings.at_least_one, top=settings.top, above=above, costs=None if multi else costs)
    thresholded = multi and not settings.top
    before = coherent(raw.probs, above)

    def with_thresholds(rows: np.ndarray) -> tuple[Rule, str]:
        limits, told = fit_thresholds(
            probs[rows],
            y[rows],
            objective=settings.thresholds,
            wanted=settings.wanted,
            costs=(1.0, 1.0) if costs is None or not multi else (costs[0], costs[1]),
            seed=seed,
            above=above,
            raw=before[rows],
        )
        return replace(rule, thresholds=limits), told

    chosen = rule(probs, multi)
    if rule.costs is not None:
        others = int((chosen != most_probable(probs)).sum())
        notes.append(
            f"decisions: the label of least expected cost; not the most probable one for {others} of {len(y)} validation rows"
        )
    if thresholded and settings.most_wrong is not None:  # the guarantee needs held-out decisions
        folds = folds_of(len(y), seed)
        for fold in np.unique(folds):
            held = folds == fold
            chosen[held] = with_thresholds(~held)[0](probs[held], multi)
    if thresholded:
        rule, told = with_thresholds(np.ones(len(y), dtype=bool))
        never = np.flatnonzero([] if rule.thresholds is None else rule.thresholds >= NEVER)
        if len(never):
            told += f": {', '.join(raw.labels.names[j] for j in never[:10])}{', ...' if len(never) > 10 else ''}"
        notes.append(told)
    if settings.most_wrong is not None:
        sure = confidence(probs, chosen)
        rule = replace(rule, abstain_below=abstain_below(exact(y, chosen), sure, settings.most_wrong))
        notes.append(abstaining_note(settings.most_wrong, rule.abstain_below, sure))
    if settings.coverage is not None:
        rule = replace(rule, set_from=fit_sets(raw.probs, y, settings.coverage), coverage=settings.coverage)
        notes.append(sets_note(settings.coverage, rule.set_from, len(raw)))
    return Policy(calibration, rule), notes


def abstaining_note(most: float, limit: float, sure: np.ndarray) -> str:
    """Threshold and effect of abstaining on validation rows, in a sentence."""
    if limit > 1:
        return (
            f"abstains from every row: these {len(sure)} validation rows do not guarantee that at most {most:.1%} of answers are "
            f"wrong, which takes at least {rows_to_show(1 - most, WRONG)} rows without a mistake; give more rows "
            "with --valid or a larger --valid-share, or allow more"
        )
    share = float((sure >= limit).mean())
    answered = f"{share:.1%} of validation rows answered"
    return f"abstains below {limit:.3f}: {answered}, at most {most:.1%} wrong at 95 % confidence"


def sets_note(coverage: float, limit: float, rows: int) -> str:
    """Which labels conformal sets take, in a sentence."""
    if rows < (needed := rows_needed(coverage)):
        return (
            f"sets hold every label: {coverage:.1%} coverage needs {needed} validation rows and there are {rows}; "
            "give more rows with --valid or a larger --valid-share, or a lower decision.coverage"
        )
    return f"sets hold every label from {limit:.4f} before calibration, for {coverage:.1%} coverage"


def judged(policy: Policy, raw: Predictions, settings: Decision) -> dict[str, Any]:
    """The guarantees of a policy and what was achieved on rows that it was not fitted on, with 95 % intervals, for JSON."""
    return judged_parts([(policy, raw)], settings)


def judged_parts(parts: Sequence[tuple[Policy, Predictions]], settings: Decision) -> dict[str, Any]:
    """As `judged`, of several policies on rows of their own: those of the folds of a cross-validation."""
    rules = [policy.rule for policy, _ in parts]
    each = [policy.shipped(raw) for policy, raw in parts]
    shipped, rule = Predictions.joined(each), rules[0]
    multi = shipped.labels.multi
    answered = ~np.concatenate([own.abstains(one.probs, multi) for own, one in zip(rules, each, strict=True)])
    found: dict[str, Any] = {}
    if any(own.abstain_below for own in rules):
        found["answered"] = share_of(answered).to_dict()
        found["wrong"] = share_of(~exact(shipped.targets, shipped.chosen)[answered]).to_dict()
    if settings.thresholds in ("precision", "recall"):
        found["each"] = each_label(settings.thresholds, settings.wanted, shipped.targets, shipped.chosen)
    if rule.costs is not None:
        found["cost"] = spent(rule.costs, shipped.take(np.flatnonzero(answered)))
    if rule.coverage:
        sets = np.concatenate([policy.sets(raw.probs) for policy, raw in parts])
        found["sets"] = {
            "promised": rule.coverage,
            "had": share_of(covered(sets, shipped.targets)).to_dict(),
            "size": float(sets.sum(axis=1).mean()),
        }
    return found


def spent(costs: np.ndarray, answered: Predictions) -> dict[str, Any]:
    """Mean cost of an answered row, the same if the most probable label were given, and the saving."""

    def sums(y: np.ndarray, probs: np.ndarray, chosen: np.ndarray) -> RowSums:
        return once(paid(costs, y, chosen))

    metric = Metric("cost", "cost a row", False, (0.0, float(costs.max())), Formula(sums, mean), None)
    y, probs = answered.targets, answered.probs
    given, plain = answered.chosen, most_probable(probs)
    rng = generator(0, "intervals")
    return {
        "each": bootstrap(metric, y, probs, given, rng=rng).to_dict(),
        "by_most_probable": bootstrap(metric, y, probs, plain, rng=rng).to_dict(),
        "saved": bootstrap_difference(metric, y, probs, probs, chosen=(plain, given), rng=rng).to_dict(),
    }


def each_label(of: str, wanted: float, y: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """The precision or recall (`of`) that labels achieved, against `wanted`. y and chosen (N, C) bool.

    `had` is over all labels pooled, `labels` the number that can be judged, and `short` how many of these are shown to
    have less, by exact intervals at 97.5 % for all of them jointly (Bonferroni).
    """
    counted, other = (chosen, y) if of == "precision" else (y, chosen)
    rows, hits = counted.sum(axis=0), (counted & other).sum(axis=0)
    rows, hits = rows[rows > 0], hits[rows > 0]
    highest = 1 - lowest_share(rows - hits, rows, 1 - 0.025 / max(1, len(rows)))
    return {
        "of": of,
        "wanted": wanted,
        "had": share_of(other[counted]).to_dict(),
        "labels": len(rows),
        "short": int((highest < wanted).sum()),
    }


def write_policy(policy: Policy, folder: Path) -> None:
    """FOLDER/policy.json."""
    write_json(folder / FILE, policy.to_dict())


def read_policy(folder: Path) -> Policy:
    """The policy of a run folder, or the default one without policy.json. Raises ArtifactError on a damaged file."""
    if not (folder / FILE).exists():
        return Policy()
    stored: Mapping[str, Any] = read_json(folder / FILE)
    try:
        return Policy(Calibration.of(stored["calibration"]), Rule.of(stored["rule"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / FILE}: damaged ({error!r}); fit again") from error
    except DataError as error:
        raise ArtifactError(f"{folder / FILE}: {error}") from error
