"""Run what is missing of the quality benchmark: experiments/*.toml -> results/PROBLEM.METHOD.SEED.json.

    python bench/quality/run.py --data ../shared/data [--only ag-news-4k] [--methods embedding,linear] [--seeds 0] [--points 8,16]

An experiment is a problem and its entries: settings under a method's name, or `like` another entry with a difference. Other
ways to fit are `by = "trainer"` (HF Trainer + PEFT), `by = "setfit"`, `by = "head_only"` (the head alone, on the frozen
model) and `weights = "random"`. An entry with `rows = [50, 200]` or `updates = [60, 240]` is one entry for each, named
`embedding@200@60`: a curve. Rows are those of each label where the experiment says `per_label = true`; `tested` limits its
test rows. A result holds the metrics with their intervals, the cost, and every decision on the test rows, so that any two
results of one problem can be compared row by row later (`python bench/quality/table.py` does).
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import platform
import tempfile
import time
import tomllib
import zlib
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from points import at, points
from problems import PROBLEMS, describe
from transformers import AutoConfig, AutoModel, AutoTokenizer

from lasttoken import catalog
from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.parse import parse
from lasttoken.config.settings import Decision
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.evaluation.metrics import exact
from lasttoken.evaluation.policy import fit_policy, judged
from lasttoken.evaluation.predictions import Predictions, decide
from lasttoken.evaluation.summary import measured, summarize
from lasttoken.journal import Journal
from lasttoken.model.files import TINY
from lasttoken.seed import generator
from lasttoken.studies.one import git_commit

HERE = Path(__file__).parent
COVERAGE = 0.9  # promised of conformal sets


def random_tiny(folder: Path, seed: int) -> str:
    """A folder with tiny's architecture and tokenizer, and fresh weights."""
    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(TINY)).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


def settings_of(experiment: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of an entry: its own, over those of the entry it is `like`; an entry like no other is named by its method."""
    name, *_ = name.split("@")
    own = {key: value for key, value in experiment[name].items() if key not in ("like", "seeds", "rows", "updates")}
    like = experiment[name].get("like")
    return {**settings_of(experiment, like), **own} if like else {"method": name, **own}


def drawn(splits: Splits, rows: int, seed: int) -> Splits:
    """`rows` training rows drawn by the seed, nested as rows grow, and a quarter as many again to validate with."""
    train, valid = (
        part.take(generator(seed, f"curve {name}").permutation(len(part))[:count])
        for name, part, count in (("train", splits.train, rows), ("valid", splits.valid, max(20, rows // 4)))
    )
    return replace(splits, train=train, valid=valid)


def drawn_by_label(splits: Splits, rows: int, seed: int) -> Splits:
    """`rows` training rows of each label drawn by the seed, nested as rows grow, and a quarter as many again to validate with.

    A label with fewer rows has all of its rows drawn.
    """

    def some(name: str, part: Dataset, count: int) -> Dataset:
        rng = generator(seed, f"of each label, {name}")
        kept = [rng.permutation(np.flatnonzero(part.targets == j))[:count] for j in range(len(part.labels))]
        return part.take(np.sort(np.concatenate(kept)))

    valid = some("valid", splits.valid, max(2, rows // 4))
    return replace(splits, train=some("train", splits.train, rows), valid=valid)


def run(experiment: dict[str, Any], name: str, seed: int, splits: Splits) -> dict[str, Any]:
    """One result."""
    settings = settings_of(experiment, name)
    rows, updates = at(experiment, name)
    if rows is not None:
        splits = (drawn_by_label if experiment.get("per_label") else drawn)(splits, rows, seed)
    if updates is not None:
        train = settings["train"]
        settings["train"] = {**train, "epochs": updates * train["batch"] / len(splits.train)}
    by, weights = settings.pop("by", "lasttoken"), settings.pop("weights", "own")
    valid = None  # what a method of ours says of validation rows
    cost: dict[str, Any] = {}  # of a fit of ours, as it tells it
    journal = Journal(tell=lambda sentence: print("   ", sentence[:160], flush=True))
    with tempfile.TemporaryDirectory() as folder:
        if weights == "random":
            settings["model"] = random_tiny(Path(folder), seed)
        if by == "trainer":
            from trainer import fit_and_predict

            probs, seconds, predict_seconds = fit_and_predict(settings, splits, seed)
        elif by == "setfit":
            from contrastive import fit_and_predict as fit_contrastive

            probs, seconds, predict_seconds = fit_contrastive(settings, splits, seed)
        elif by == "head_only":
            from head_only import fit_and_predict as fit_alone

            said, probs, seconds, predict_seconds = fit_alone(settings, splits, journal)
            valid = Predictions(splits.valid.ids, splits.valid.targets, said, splits.labels)
        else:
            config = parse(METHOD_CONFIGS[settings["method"]], settings)
            began = time.perf_counter()
            fitted = catalog.fit(config, splits.train, splits.valid, seed=seed, journal=journal)
            seconds, began = time.perf_counter() - began, time.perf_counter()
            probs = fitted.classifier.predict_proba(splits.test.texts).probs
            predict_seconds = time.perf_counter() - began
            said = fitted.classifier.predict_proba(splits.valid.texts).probs
            valid = Predictions(splits.valid.ids, splits.valid.targets, said, splits.labels)
            cost = asdict(fitted.cost)
    predictions = Predictions(splits.test.ids, splits.test.targets, probs, splits.labels)
    return {
        "problem": describe(splits),
        "settings": settings_of(experiment, name),
        "rows": rows,
        "updates": updates,
        "seed": seed,
        "test": summarize(predictions, seed=0),
        "fit_seconds": round(seconds, 1),
        "predict_rows_per_second": round(len(probs) / predict_seconds, 1),
        "cost": cost,
        "policies": {} if valid is None else policies(valid, predictions, seed),
        "decisions": packed(decide(probs, splits.labels.multi)),
        "right": packed(exact(splits.test.targets, predictions.chosen)[:, None]),
        "versions": {name: version(name) for name in ("lasttoken", "torch", "transformers", "peft", "scikit-learn")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "commit": git_commit(),
    }


def policies(valid: Predictions, test: Predictions, seed: int) -> dict[str, Any]:
    """What calibration, thresholds and sets made on validation rows come to on test rows: every metric, and what was promised."""
    asked = {"auto": Decision(coverage=COVERAGE)}
    if valid.labels.multi:
        asked["micro_f1"] = Decision(thresholds="micro_f1")
    found = {}
    for name, decision in asked.items():
        policy, told = fit_policy(decision, valid, seed=seed)
        shipped = measured(policy.shipped(test))
        found[name] = {"told": told, "metrics": shipped, "promises": judged(policy, test, decision)}
    return {"raw": measured(test), **found}


def packed(decisions: np.ndarray) -> str:
    """Decisions (N,) as bytes or (N, C) as bits, deflated, in base64."""
    raw = np.packbits(decisions) if decisions.ndim == 2 else decisions.astype(np.uint8)
    return base64.b64encode(zlib.compress(raw.tobytes(), 9)).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="problems, with commas")
    parser.add_argument("--methods", default="", help="methods, with commas")
    parser.add_argument("--seeds", default="", help="seeds, with commas")
    parser.add_argument("--points", default="", help="of curves: rows, or rows@updates, with commas")
    arguments = parser.parse_args()
    chosen = {
        name: [x for x in getattr(arguments, name).split(",") if x] for name in ("only", "methods", "seeds", "points")
    }
    read = functools.cache(lambda problem: PROBLEMS[problem](arguments.data))
    for path, experiment, name, seed in missing():
        method, _, point = name.partition("@")
        wanted = {"only": path.stem, "methods": method, "seeds": str(seed), "points": point}
        target = HERE / "results" / f"{path.stem}.{name}.{seed}.json"
        if target.exists() or any(chosen[key] and value not in chosen[key] for key, value in wanted.items()):
            continue
        if (peer := experiment[method].get("by")) == "setfit" and find_spec(peer) is None:
            print(f"{path.stem} {name}: left out; make bench installs it", flush=True)
            continue
        print(f"{path.stem} {name} seed {seed}", flush=True)
        splits = read(experiment["problem"])
        if tested := experiment.get("tested"):
            judged_on = generator(0, "tested").permutation(len(splits.test))[:tested]
            splits = replace(splits, test=splits.test.take(judged_on))
        result = run(experiment, name, seed, splits)
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        scores = {k: round(v["estimate"], 4) for k, v in result["test"]["metrics"].items()}
        print("   ", scores, f"fit {result['fit_seconds']} s", flush=True)


def seeds_of(experiment: dict[str, Any], name: str) -> list[int]:
    """The seeds of an entry: its own, or those of the experiment."""
    return experiment[name].get("seeds", experiment["seeds"])


def missing() -> list[tuple[Path, dict[str, Any], str, int]]:
    """(file, experiment, entry, seed) of what has no result yet, seed by seed: the first seed of everything comes first."""
    found = []
    for path in sorted((HERE / "experiments").glob("*.toml")):
        experiment = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = [name for name, value in experiment.items() if isinstance(value, dict)]
        found += [
            (path, experiment, point, seed)
            for name in entries
            for point in points(experiment, name)
            for seed in seeds_of(experiment, name)
        ]
    found = [x for x in found if not (HERE / "results" / f"{x[0].stem}.{x[2]}.{x[3]}.json").exists()]
    return sorted(found, key=lambda x: x[3])


if __name__ == "__main__":
    main()
