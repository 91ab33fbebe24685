"""The page docs/explain/quality.md, made from bench/quality/results; printed on stdout."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from claims import claims
from paired import alike, difference
from points import points
from sections import coverage, false_positives, few_rows, folds, guarantees
from words import NAMES, WORDS, ends, figure, interval

HERE = Path(__file__).parent
REAL = ("smollm2", "curve", "few", "head-bias")  # experiments with a real model, which come first
HEADLINES = {False: ("accuracy", "macro_f1", "ece"), True: ("micro_f1", "macro_f1", "ece")}
DIFFERENCES = "Differences in rows decided exactly right:"


def results() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """problem -> method -> results by seed."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((HERE / "results").glob("*.json")):
        problem, method, _ = path.stem.rsplit(".", 2)
        found[problem][method].append(json.loads(path.read_text(encoding="utf-8")))
    return found


def cell(runs: list[dict[str, Any]], metric: str) -> str:
    """The mean over seeds, and the standard deviation between them where there are several."""
    values = [run["test"]["metrics"][metric]["estimate"] for run in runs]
    spread = f" ± {figure(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return figure(float(np.mean(values))) + spread


def entries(experiment: dict[str, Any]) -> list[str]:
    """The names of what an experiment runs, each point of a curve by itself."""
    return [
        point for name, value in experiment.items() if isinstance(value, dict) for point in points(experiment, name)
    ]


def curves(problem: str, experiment: dict[str, Any], methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of a problem's curves: a line a number of training rows, a column an entry and its number of updates."""
    found = {point: methods[point] for point in entries(experiment) if "@" in point and point in methods}
    if not found:
        return []
    first = next(iter(found.values()))[0]
    metric = HEADLINES[first["test"]["multi"]][0]
    sizes = sorted({runs[0]["rows"] for runs in found.values()})
    columns = list(dict.fromkeys((point.partition("@")[0], runs[0]["updates"]) for point, runs in found.items()))
    titles = [WORDS.get(name, name) + (f", {updates} updates" if updates else "") for name, updates in columns]
    lines = [
        f"## {problem}: {NAMES[metric]} by training rows{' of each label' * bool(experiment.get('per_label'))}",
        "",
        f"{first['problem']['test']:,} test rows, {first['problem']['labels']} labels; a quarter as many rows again to validate.",
        "",
        f"| rows{' of each label' * bool(experiment.get('per_label'))} | " + " | ".join(titles) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for size in sizes:
        by = {
            (point.partition("@")[0], runs[0]["updates"]): runs
            for point, runs in found.items()
            if runs[0]["rows"] == size
        }
        cells = [shown(by[column], metric) if column in by else "" for column in columns]
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return [*lines, "", *beside(found)]


def beside(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines that set embedding against the others at equal rows: at the most updates that both had, else each at its most."""
    at: dict[tuple[int, str], dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for point, runs in found.items():
        at[runs[0]["rows"], point.partition("@")[0]][runs[0]["updates"] or 0] = runs
    lines = []
    for (rows, name), theirs in sorted(at.items(), key=lambda item: item[0][0]):
        ours = at.get((rows, "embedding"))
        if name == "embedding" or ours is None:
            continue
        both = ours.keys() & theirs.keys()
        own, runs = (side[max(both or side)] for side in (ours, theirs))
        pair = alike(own, runs)
        if pair[0]:
            updates = f" and {max(both):,} updates" if max(both, default=0) else ""
            gap = interval(difference(*pair))
            lines.append(f"- {rows:,} rows{updates}, embedding less {WORDS.get(name, name)}: {gap}")
    return [DIFFERENCES, "", *lines, ""] if lines else []


def shown(runs: list[dict[str, Any]], metric: str) -> str:
    """The mean over seeds with their deviation; of one seed, the estimate with its 95 % interval."""
    if len(runs) > 1:
        return cell(runs, metric)
    one = runs[0]["test"]["metrics"][metric]
    return ends(one)


def table(problem: str, experiment: dict[str, Any], methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of one problem's table."""
    first = next(iter(methods.values()))[0]
    size, test = first["problem"], first["test"]
    metrics = HEADLINES[test["multi"]]
    widest = (
        max(m["high"] - m["low"] for runs in methods.values() for m in [runs[0]["test"]["metrics"][metrics[0]]]) / 2
    )
    lines = [
        f"## {problem}",
        "",
        f"{size['train']:,} rows to train on, {size['valid']:,} to validate, {size['test']:,} to test; {size['labels']} labels; "
        f"{size['mean_characters']} characters a text. A 95 % interval of {NAMES[metrics[0]]} is at most ± {figure(widest)}.",
        "",
        "| method | " + " | ".join(NAMES[m] for m in metrics) + " | seeds | fit, s | predict, rows/s |",
        "|---|" + "---|" * (len(metrics) + 3),
    ]
    for method in entries(experiment):
        if runs := methods.get(method):
            fit = np.median([run["fit_seconds"] for run in runs])
            rate = np.median([run["predict_rows_per_second"] for run in runs])
            cells = " | ".join(cell(runs, metric) for metric in metrics)
            lines.append(f"| {WORDS.get(method, method)} | {cells} | {len(runs)} | {fit:,.0f} | {rate:,.0f} |")
    return [*lines, ""]


def decided(problem: str, experiment: dict[str, Any], methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines on what calibration, thresholds and sets of labels came to, of the results that tell; means over seeds."""
    lines = []
    for method in entries(experiment):
        runs = [run for run in methods.get(method, []) if run.get("policies")]
        if not runs:
            continue

        def mean(policy: str, metric: str, runs: list[dict[str, Any]] = runs) -> str:
            found = [run["policies"][policy] for run in runs]
            return figure(float(np.mean([one.get("metrics", one)[metric] for one in found])))

        sets = [run["policies"]["auto"]["promises"]["sets"] for run in runs]
        held = float(np.mean([one["had"]["estimate"] for one in sets]))
        size = float(np.mean([one["size"] for one in sets]))
        metrics = ("micro_f1", "macro_f1") if runs[0]["test"]["multi"] else ("macro_f1",)
        cells = (
            [f"{mean('raw', m)} → {mean('auto', m)}" for m in metrics]
            if len(metrics) > 1
            else [mean("raw", metrics[0])]
        )
        cells.append(f"{mean('raw', 'ece')} → {mean('auto', 'ece')}")
        cells.append(f"{figure(held)} ({size:.1f} labels)")
        lines.append(f"| {WORDS.get(method, method)} | " + " | ".join([*cells, str(len(runs))]) + " |")
    if not lines:
        return []
    multi = next(iter(methods.values()))[0]["test"]["multi"]
    names = ["micro-F1, .5 → tuned", "macro-F1, .5 → tuned"] if multi else ["macro-F1"]
    head = ["method", *names, "ECE, raw → calibrated", "sets hold, .9 promised", "seeds"]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines, ""]


def differences(experiment: dict[str, Any], methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines that set embedding against the others, row by row, and a variant against what it is like.

    A row's score is the share of a method's seeds that decided it exactly right; the difference of two methods is the
    mean over the test rows of the difference of these. Its 95 % interval counts both other test rows and, where a method
    has several, other seeds: variances added, Student's t with Welch's degrees of freedom.
    """
    lines = []
    for method in entries(experiment)[1:]:
        against = experiment[method].get("like", "embedding")
        if method in methods and against in methods:
            found = interval(difference(methods[against], methods[method]))
            lines.append(f"- {WORDS.get(against, against)} less {WORDS.get(method, method)}: {found}")
    return [DIFFERENCES, "", *lines, ""] if lines else []


def opening() -> list[str]:
    """README's table: what `make demo` prints."""
    readme = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    block = next(part for part in readme.split("```") if part.startswith("text\n") and "macro-F1 [95 %]" in part)
    return [
        "# Quality, measured",
        "",
        "`make demo`: which of nine libraries a docstring is from, with SmolLM2-135M (`embedding`, `zero-shot`) and MiniLM",
        "(`encoder`, `probe`):",
        "",
        f"```{block}```",
        "",
        "The rest is made by `make docs` from files in `bench/quality`: `make bench` writes those in `results`, each with",
        "settings, seed, versions, commit and every decision; the others have a script of their own each. Figures are means",
        "over seeds ± the standard deviation between seeds. Times are of one CPU thread beside other work, good for a rough",
        "comparison only (but where a trunk is compared: two threads, little beside them); some machines had bfloat16, others",
        "computed in float32 (`machine` in a result says which).",
        "",
        "In tables that begin with `smollm2`, `curve`, `few` and `head-bias` the language model is SmolLM2-135M-Instruct, in the",
        "others `tiny` (6.9 M parameters), which shows how the methods stand to each other, not what a larger model reaches.",
        "`encoder`, and `probe (MiniLM)`, have MiniLM. Settings are in `bench/quality/experiments`. `embedding` after",
        "50 updates, and all of `tiny`, are from before its head was held back at the start ([the lab](../lab.md), 2026-11-30).",
        "",
        "*Differences* are of the share of test rows decided exactly right, paired row by row, with 95 % intervals. Of several",
        "seeds, they are means, and the intervals are wider for it. In curves without a number of updates, the longest training",
        "of each side is compared. *Sets hold*: the share of test rows whose set of labels holds the right one, where 9 of 10",
        "was promised.",
        "",
    ]


def main() -> None:
    lines, found = opening(), results()
    files = sorted((HERE / "experiments").glob("*.toml"), key=lambda path: (not path.stem.startswith(REAL), path.stem))
    wanted = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in files}
    lines += claims(found)
    missing: dict[str, dict[str, list[str]]] = {}  # problem -> entry -> its points that lack a result
    for problem, experiment in wanted.items():
        if problem in found and any("@" in point for point in found[problem]):
            lines += curves(problem, experiment, found[problem])
        elif problem in found:
            lines += table(problem, experiment, found[problem])
            lines += differences(experiment, found[problem])
            lines += decided(problem, experiment, found[problem])
        for entry in entries(experiment):
            name, _, point = entry.partition("@")
            seeds = len(experiment[name].get("seeds", experiment["seeds"]))
            lacking = seeds - len(found.get(problem, {}).get(entry, []))
            if lacking > 0:
                of = f"{lacking} of {seeds} seeds" if seeds > 1 else ""
                missing.setdefault(problem, {}).setdefault(name, []).append(": ".join(filter(None, (point, of))))
    lines += coverage() + false_positives() + folds() + few_rows() + guarantees()
    if missing:
        lines += ["## Not run yet", "", "Points of a curve are training rows, `@`, updates.", ""]
        for problem, names in missing.items():
            told = [f"{name} ({', '.join(of)})" if any(of) else name for name, of in names.items()]
            lines.append(f"- {problem}: {'; '.join(told)}")
        lines.append("")
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
