"""One problem, one or several methods: fit, predict, judge, and write each run folder; then compare them on the same rows."""

from __future__ import annotations

import itertools
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken import catalog
from lasttoken.config import Data, Run, flat, read_run, to_toml
from lasttoken.data.dataset import Dataset, Rows, Splits
from lasttoken.data.doubts import doubts
from lasttoken.data.read import Columns, read_parts, without_empty
from lasttoken.data.record import data_digest, write_splits
from lasttoken.data.split import splits_from
from lasttoken.data.subset import with_fewer
from lasttoken.errors import ArtifactError, UserError
from lasttoken.evaluation.further import further, label_counts
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.policy import check_decision, fit_policy, judged, write_policy
from lasttoken.evaluation.predictions import Predictions, read_predictions, write_predictions
from lasttoken.evaluation.summary import brier, interval_of, measured, summarize
from lasttoken.evaluation.wording import figure, span
from lasttoken.explain import explained
from lasttoken.hierarchy import Hierarchy, hierarchy_of
from lasttoken.journal import Journal, Truncation
from lasttoken.methods.artifact import SETTINGS
from lasttoken.methods.classifier import Classifier
from lasttoken.model.device import choose_device, describe_device, peak_memory, reset_peak
from lasttoken.report.collect import collect
from lasttoken.report.page import render, write_page
from lasttoken.report.tables import Mistake, mistakes
from lasttoken.report.verdict import title
from lasttoken.run import FORMAT, INTERRUPTED, check_free, files, read_json, verify, write_json, write_jsonl, writing
from lasttoken.train.world import join

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "scikit-learn", "numpy")
WARM_UP = 32  # rows predicted before the clock starts
FEW = 20  # rows of a kind below which a score says little
PART = 2048  # rows predicted between two signs of life


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run."""

    folder: Path
    name: str
    classifier: Classifier | None  # None where the folder was there already
    test: Predictions
    metrics: Mapping[str, Any]  # metrics.json
    failure: BaseException | None = None  # what cut training short, its best weights being kept


def load_data(data: Data, *, seed: int, journal: Journal) -> Splits:
    """The three parts of the problem that `data` describes, told with what looks wrong in them. Raises DataError.

    seed: of the run, which draws the training rows where `data` asks for fewer than there are.
    """
    rows = read_parts(
        data.source,
        data.valid,
        data.test,
        columns=columns_of(data),
        encoding=data.encoding,
        keep_empty=data.drop_empty,
    )
    for part, read in rows.items() if data.drop_empty else ():
        source = data.source if part == "train" else getattr(data, part)
        rows[part], dropped = without_empty(read, source)
        if dropped:
            journal.note(f"{source}: {dropped} left out")
    hierarchy = None
    if data.hierarchy is not None:
        known = sorted({name for read in rows.values() for names in read.labels or () for name in names})
        hierarchy = hierarchy_of(data.hierarchy, known)
        rows = {part: with_ancestors(read, hierarchy) for part, read in rows.items()}
    splits = splits_from(
        rows["train"],
        rows.get("valid"),
        rows.get("test"),
        seed=seed if data.split_seed is None else data.split_seed,
        valid_fraction=data.valid_share,
        test_fraction=data.test_share,
    )
    splits = replace(splits, hierarchy=hierarchy)
    splits = replace(splits, doubts=doubts(splits, data.separator, data.label))
    if data.train_rows is not None:
        splits = with_fewer(splits, data.train_rows, seed=seed)
    for sentence in (splits.summary, *splits.doubts):
        journal.note(sentence)
    return splits


def with_ancestors(rows: Rows, hierarchy: Hierarchy) -> Rows:
    """Rows of several labels with those above them; of one label as they are, its name being in the hierarchy."""
    closed = [hierarchy.closed(names) for names in rows.labels or ()]
    return replace(rows, labels=closed) if rows.multi else rows


def columns_of(data: Data, *, labels: bool = True) -> Columns:
    """What the columns of `data` mean; without `labels`, only what a prediction needs."""
    if not labels:
        return Columns(text=data.text, template=data.template)
    return Columns(data.text, data.template, data.label, data.separator, data.id, data.group, data.split)


def run_method(config: Run, splits: Splits, folder: Path, *, name: str, journal: Journal) -> Outcome:
    """Fit, predict, judge and save one method. The folder is written whole or not at all, by the first process only."""
    check_decision(config.decision, splits.valid.targets, splits.labels)
    device = choose_device(config.device)
    world = join(device)
    check_free(folder)  # before hours are spent
    reset_peak(device)
    classifier = catalog.fit(
        config.method, splits.train, splits.valid, seed=config.seed, device=config.device, journal=journal
    )
    peak = peak_memory(device)
    raw, rate, invalid = predictions_of(classifier, splits, journal)
    policy, notes = fit_policy(config.decision, raw["valid"], seed=config.seed, above=splits.above)
    for sentence in notes:
        journal.note(sentence)
    shipped = {"valid": raw["valid"], "test": policy.shipped(raw["test"])}  # the policy knows validation too well
    if told := silent(shipped["test"]):
        journal.note(f"test: {told}")
    truncation = cost_of_truncation(shipped["test"], np.array(journal.lost), seed=config.seed)
    if truncation is not None:
        journal.note(f"test: {truncation['told']}")
    learnt = label_counts(splits.train.targets, len(splits.labels))
    more = further(splits.labels, learnt, len(splits.train), splits.hierarchy)
    metrics = {
        "format": FORMAT,
        "name": name,
        "method": config.method.method,
        "ended": ended(journal.failure),
        "model": config.method.model_dump().get("model"),
        "splits": {part: summarize(predictions, seed=config.seed, more=more) for part, predictions in shipped.items()},
        "raw": measured(raw["test"]),
        "brier": {of: one.to_dict() for of, one in brier(shipped["test"], seed=config.seed).items()},
        "promises": judged(policy, raw["test"], config.decision),
        "truncation": truncation,
        "cost": {
            **{
                key: journal.facts.get(key)
                for key in ("trainable_parameters", "total_parameters", "train_seconds", "train_rows_per_second")
            },
            "predict_rows_per_second": rate,
            "peak_memory_bytes": peak["bytes"],
            "peak_memory_kind": peak["kind"],
            "peak_reserved_bytes": peak["reserved"],
            "model_bytes": 0,
        },
        "notes": list(journal.notes),
        "invalid_answers": invalid,
    }
    try:
        if world.rank == 0:
            folder = vacant(folder, journal)
            with writing(folder) as part:
                classifier.save(part)
                on_disk = sum((part / file).stat().st_size for file in files(part))
                metrics["cost"]["model_bytes"] = journal.facts.get("model_bytes", on_disk)
                write_policy(policy, part)
                write_records(part, config, splits, metrics, shipped, raw, journal)
                wrong = mistakes(collect(part), config.explained)
                write_jsonl(part / "explained.jsonl", weighed(classifier, wrong, splits.test, journal))
                write_json(part / "metrics.json", {**metrics, "notes": list(journal.notes)})
                views = [collect(part)]
                write_page(render(views, None, title=title(views)), part / "report.html")
    finally:
        world.wait()  # where the disk is full too: the others wait here
    return Outcome(folder, name, classifier, shipped["test"], metrics, journal.failure)


def load(
    folder: Path | str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    model: str | None = None,
    merge: str | None = None,
) -> Classifier:
    """The classifier of a finished run. Raises ArtifactError, naming the file, where anything in it is missing or damaged.

    trust_remote_code: allow a base model that brings its own code, which a run folder alone never can. model: the folder
    that the base model is in here, where that is another than in training; it must hold the same weights. merge: auto or off,
    in the place of what it was fitted with; off keeps 4-bit weights as they are and the adapter beside them.
    """
    verify(Path(folder))
    return catalog.load(Path(folder), device=device, trust_remote_code=trust_remote_code, model=model, merge=merge)


def compile_classifier(classifier: Classifier) -> float:
    """Seconds that it took to compile the model of a classifier, which then predicts faster; see model/compiled.py.

    Raises ConfigError where there is no model or no C++ compiler, ModelError where the model cannot be compiled.
    """
    from lasttoken.model.compiled import backbone_of, compile_blocks

    return compile_blocks(backbone_of(classifier))


def weighed(classifier: Classifier, wrong: Sequence[Mistake], test: Dataset, journal: Journal) -> list[dict[str, Any]]:
    """The words of the surest mistakes, weighed; none, and a note, where that cannot be: a trained model is not lost for it."""

    place = {row: i for i, row in enumerate(test.ids)}
    asked = [(one.id, test.texts[place[one.id]], one.label) for one in wrong]
    try:
        return explained(classifier, asked)
    except (UserError, MemoryError, RuntimeError) as error:  # torch's own, of memory too
        journal.note(f"mistakes are not explained: {str(error).splitlines()[0]}")
        return []


def vacant(folder: Path, journal: Journal) -> Path:
    """`folder`, or another beside it where one was written there while this run trained: it is not lost for that."""
    names = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(2))
    free = folder if not folder.exists() else next(path for path in names if not path.exists())
    if free != folder:
        journal.note(f"{folder} was written by another process meanwhile; this run is {free}")
    return free


def ended(failure: BaseException | None) -> str:
    """How training ended, in a word for metrics.json."""
    if failure is None:
        return "finished"
    return "interrupted" if isinstance(failure, KeyboardInterrupt) else "diverged"


def predictions_of(
    classifier: Classifier, splits: Splits, journal: Journal
) -> tuple[dict[str, Predictions], float, float | None]:
    """(what the classifier says of valid and test, rows predicted a second on test, share of invalid answers or None)."""
    valid = predicted(splits.valid, in_parts(classifier, splits.valid.texts, "predicting validation", journal))
    classifier.predict_proba(splits.test.texts[:WARM_UP])
    began = time.perf_counter()
    journal.truncation, journal.lost, journal.invalid = Truncation(), [], None
    probs = in_parts(classifier, splits.test.texts, "predicting test", journal)
    invalid = None if journal.invalid is None else journal.invalid / len(splits.test)
    spent = time.perf_counter() - began
    if journal.truncation:
        journal.note(f"test: {journal.truncation}")
    return {"valid": valid, "test": predicted(splits.test, probs)}, len(splits.test) / spent, invalid


def silent(test: Predictions) -> str | None:
    """The sentence where no row with several labels is given any, though some should be; else None."""
    if not test.labels.multi or test.chosen.any() or not test.targets.any():
        return None
    most = figure(float(test.probs.max()))
    return (
        f"no row is given any label, the highest probability being {most}, so micro- and macro-F1 are 0; thresholds below one "
        "half take 50 validation rows, decision.at_least_one gives every row its likeliest label (AUROC says how labels rank)"
    )


def cost_of_truncation(test: Predictions, lost: np.ndarray, *, seed: int) -> dict[str, Any] | None:
    """The score on rows that were cut and on the others, for metrics.json; None where there are few of either.

    lost: tokens that each row lost, (N,); empty for a method without a limit. The two kinds of rows may differ in more
    than that, so this is what to look at before another `long.keep` is tried, not what that would bring.
    """
    if min((lost > 0).sum(), (lost == 0).sum()) < FEW:
        return None
    metric = METRICS["micro_f1" if test.labels.multi else "accuracy"]
    parts = {"cut": lost > 0, "whole": lost == 0}
    found = {name: interval_of(test.take(np.flatnonzero(rows)), metric, seed=seed) for name, rows in parts.items()}
    cut, whole = (f"{figure(one.estimate)} {span(one.low, one.high)}" for one in found.values())
    told = f"{metric.words} {cut} on the {int(parts['cut'].sum())} rows that were cut, {whole} on the others"
    return {"rows": int(parts["cut"].sum()), "metric": metric.name, "told": told} | {
        name: one.to_dict() for name, one in found.items()
    }


def in_parts(classifier: Classifier, texts: Sequence[str], what: str, journal: Journal) -> np.ndarray:
    """Probabilities (N, C) of many texts, PART at a time, so that progress shows."""
    parts = []
    for start in range(0, len(texts), PART):
        journal.progress(what, start, len(texts))
        parts.append(classifier.predict_proba(texts[start : start + PART], journal))
    return np.concatenate(parts)


def predicted(data: Dataset, probs: np.ndarray) -> Predictions:
    """Predictions of `data`."""
    return Predictions(data.ids, data.targets, probs, data.labels)


def write_records(
    part: Path,
    config: Run,
    splits: Splits,
    metrics: Mapping[str, Any],
    shipped: Mapping[str, Predictions],
    raw: Mapping[str, Predictions],
    journal: Journal,
) -> None:
    """Everything of a run folder that is not the model itself."""
    (part / "config.toml").write_text(to_toml(config), encoding="utf-8")
    write_json(part / "env.json", environment(config, splits))
    write_json(part / "labels.json", {"names": splits.labels.names, "multi": splits.labels.multi})
    write_jsonl(part / "steps.jsonl", journal.steps)
    write_json(part / "metrics.json", metrics)
    write_splits(splits, part / "splits.parquet")
    (part / "predictions").mkdir()
    for name, predictions in shipped.items():
        texts = splits.valid.texts if name == "valid" else splits.test.texts
        path = part / "predictions" / f"{name}.parquet"
        write_predictions(predictions, path, texts=texts, raw=raw[name].probs)


def environment(config: Run, splits: Splits) -> dict[str, Any]:
    """env.json: what a run was made with, and from what."""
    rows = {"train": len(splits.train), "valid": len(splits.valid), "test": len(splits.test)}
    return {
        "format": FORMAT,
        "lasttoken": version("lasttoken"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "device": describe_device(choose_device(config.device)),
        "seed": config.seed,
        "git_commit": git_commit(),
        "data_digest": data_digest(splits),
        "data": {"source": config.data.source, "origin": splits.origin, "rows": rows, "doubts": splits.doubts},
    }


def git_commit() -> str | None:
    """The commit of the folder one works in; None outside a repository or without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def finished(config: Run, splits: Splits, folder: Path, name: str) -> Outcome | None:
    """The run that `folder` holds already, if it is this very one; None where there is none. Raises ArtifactError on another.

    A run that Ctrl-C cut short is none: it makes room, as FOLDER.interrupted, for the one that will be finished.
    """
    if not folder.exists():
        return None
    verify(folder)
    check_same(config, splits, folder)
    metrics = read_json(folder / "metrics.json")
    if metrics["ended"] == "interrupted":
        if leads(config.device):
            aside = folder.with_name(f"{folder.name}{INTERRUPTED}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        return None
    failure = (
        None if metrics["ended"] == "finished" else RuntimeError("its training diverged; the best weights were kept")
    )
    return Outcome(folder, name, None, read_predictions(folder / "predictions" / "test.parquet"), metrics, failure)


def check_same(config: Run, splits: Splits, folder: Path) -> None:
    """Raises ArtifactError where `folder` holds another run than this one, by its settings and its rows."""
    others = differences(read_run(folder / "config.toml"), config)
    if read_json(folder / "env.json")["data_digest"] != data_digest(splits):
        others.append("the rows")
    base = read_json(folder / SETTINGS).get("base") or {}
    if base.get("fingerprint") is not None:
        from lasttoken.model.backbone import fingerprint  # methods without a model need not wait for transformers

        others += ["the base model"] if fingerprint(base["name"]) != base["fingerprint"] else []
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise ArtifactError(f"{folder} holds a run that differs in {shown}; name another folder with --out")


def differences(one: Run, other: Run) -> list[str]:
    """Dotted names of the settings in which two runs differ."""
    a, b = dict(flat(one.model_dump())), dict(flat(other.model_dump()))
    return [name for name in a | b if a.get(name) != b.get(name)]


def in_step(device: str) -> None:
    """Wait until all processes that train together are here, so that none sees a folder the first one is yet to write."""
    join(choose_device(device)).wait()


def leads(device: str) -> bool:
    """Whether this process is the first of those that train together: the one that speaks and writes."""
    return join(choose_device(device)).rank == 0
