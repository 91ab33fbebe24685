"""The page docs/explain/quality.md, made from bench/quality/results; printed on stdout."""

from __future__ import annotations

import base64
import json
import tomllib
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from points import points

from lasttoken.evaluation.intervals import Interval
from lasttoken.evaluation.seeds import over_seeds

HERE = Path(__file__).parent
WORDS = {
    "embedding-last": "embedding, last token",
    "embedding-mean": "embedding, mean pooling",
    "embedding-suffix": "embedding, suffix",
    "embedding-r8": "embedding, r = 8",
    "embedding-nf4": "embedding, NF4",
    "embedding-half-rate": "embedding, rate .0007",
    "embedding-double-rate": "embedding, rate .003",
    "embedding-probe-start": "embedding, head begun without names",
    "instruction-base": "instruction, no chat template",
    "zero-shot-contextual": "zero-shot, contextual",
    "probe-minilm": "probe (MiniLM)",
    "setfit": "SetFit (MiniLM)",
    "random": "embedding, random weights",
    "embedding-bias": "embedding, head with a bias",
    "instruction-numbers": "instruction, answered by number",
    "trainer": "HF Trainer + PEFT, last token",
    "encoder": "encoder (MiniLM, 22 M)",
    "k0": "LoRA on all six blocks",
    "head": "head alone, cross-entropy",
    **{f"head-{loss}": f"head alone, {loss}" for loss in ("asymmetric", "balanced", "focal", "logit_adjusted")},
    **{
        f"{init}-{n}": f"{init} head, {n} epoch{'s' if n > 1 else ''}"
        for init in ("random", "probe")
        for n in (1, 3, 4)
    },
    **{f"k{k}": f"on the upper {6 - k}, trunk = {k}" for k in range(2, 6)},
}
REAL = ("smollm2", "curve", "few", "head-bias")  # experiments with a real model, which come first
HEADLINES = {False: ("accuracy", "macro_f1", "ece"), True: ("micro_f1", "macro_f1", "ece")}
DIFFERENCES = "Differences in rows decided exactly right:"
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "micro_f1": "micro-F1", "ece": "ECE"}


def results() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """problem -> method -> results by seed."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((HERE / "results").glob("*.json")):
        problem, method, _ = path.stem.rsplit(".", 2)
        found[problem][method].append(json.loads(path.read_text(encoding="utf-8")))
    return found


def figure(value: float) -> str:
    """.812, without the leading zero."""
    return f"{value:.3f}".replace("0.", ".", 1)


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
        seeds = {run["seed"] for run in runs} & {run["seed"] for run in own}
        if seeds:
            pair = [[run for run in side if run["seed"] in seeds] for side in (own, runs)]
            updates = f" and {max(both):,} updates" if max(both, default=0) else ""
            gap = interval(difference(*pair))
            lines.append(f"- {rows:,} rows{updates}, embedding less {WORDS.get(name, name)}: {gap}")
    return [DIFFERENCES, "", *lines, ""] if lines else []


def interval(found: Interval) -> str:
    """+.012 [-.003, +.027], no difference shown."""
    told = ", no difference shown" if found.low <= 0 <= found.high else ""
    return f"{signed(found.estimate)} [{signed(found.low)}, {signed(found.high)}]{told}"


def shown(runs: list[dict[str, Any]], metric: str) -> str:
    """The mean over seeds with their deviation; of one seed, the estimate with its 95 % interval."""
    if len(runs) > 1:
        return cell(runs, metric)
    one = runs[0]["test"]["metrics"][metric]
    return f"{figure(one['estimate'])} [{figure(one['low'])}, {figure(one['high'])}]"


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


def right(run: dict[str, Any]) -> np.ndarray:
    """Which test rows a result decided exactly right, (N,) bool."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(run["right"])), dtype=np.uint8))
    return bits[: run["problem"]["test"]].astype(bool)


def difference(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> Interval:
    """The mean over test rows of how much larger a share of `own` decided them exactly right than of `other`."""
    gaps = np.mean([right(run) for run in own], axis=0) - np.mean([right(run) for run in other], axis=0)
    shares = [np.array([right(run).mean() for run in runs]) for runs in (own, other) if len(runs) > 1]
    return over_seeds(float(gaps.mean()), float(gaps.var(ddof=1)) / len(gaps), len(gaps), shares)[0]


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


def false_positives() -> list[str]:
    """The lines on how often a difference is claimed where there is none, from false_positives.py; none where it was not run."""
    path = HERE / "false_positives.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Differences claimed by chance",
        "",
        f"Data sets of {found['rows']} rows, or as many as the kind says, on which the methods are equally good,",
        f"{found['sets']:,} of each kind: the share in which",
        "`p <= .05` comes out of the test alone, and in which `compare` claims a difference (the interval must exclude 0 too, and",
        "p is Holm's over all pairs). Repeat with `python bench/quality/false_positives.py`.",
        "",
        "| kind | test alone | claimed | McNemar alone |",
        "|---|---|---|---|",
    ]
    for case, shares in found["cases"].items():
        cells = [f"{figure(one['estimate'])} [{figure(one['low'])}, {figure(one['high'])}]" for one in shares.values()]
        test, mcnemar, claimed = cells
        # the first pair of three methods is that of the best two: its test is no draw from the null
        several = "methods" in case
        lines.append(f"| {case} | {'' if several else test} | {claimed} | {'' if several else mcnemar} |")
    return [*lines, ""]


def folds() -> list[str]:
    """The lines on intervals and claims of cross-validations, from folds.py; none where it was not run."""
    path = HERE / "folds.json"
    if not path.exists():
        return []
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    lines = [
        "## Cross-validation of few rows",
        "",
        "Samples of AG News and of patents (the four commonest sections), cross-validated as `compare --folds` does it by",
        "logistic regression on TF-IDF of words. How often the 95 % interval of a score holds the expected score of such",
        "models (over other samples too), the mean score of this sample's fold models, and the score of the saved model of all",
        "rows, each measured on 1,200 other rows; how often that of a difference holds the true one (words against words and",
        "pairs); and how often two seeds of one method are told apart, which should be one time in twenty at most. `rows`: as",
        "if the rows were a test part of one model; `folds`: what `compare` says. The width stands in brackets. Repeat with",
        "`python bench/quality/folds.py --data ../shared/data --kept /tmp/worlds`.",
        "",
        "| set, rows, samples | folds x repeats | metric | interval | expected score | fold models | saved model | difference "
        "| claimed of two seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for way in ("rows", "folds") if case["repeats"] == 1 else ("folds",):
            score, difference = case["score"][way], case["difference"][way]
            lines.append(
                f"| {case['set']}, {case['rows']}, {case['worlds']} | {case['folds']} x {case['repeats']} | "
                f"{NAMES[case['metric']]} | {way} | {figure(score['expected'])} ({figure(score['width'])}) | "
                f"{figure(score['fold models'])} | {figure(score['saved model'])} | {figure(difference['difference'])} "
                f"({figure(difference['width'])}) | {figure(difference['claimed'])} |"
            )
    return [*lines, ""]


def guarantees() -> list[str]:
    """The lines on how often what is promised does not hold, from guarantees.py; none where it was not run."""
    path = HERE / "guarantees.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Promises that do not hold",
        "",
        "What thresholds for a wanted precision and abstaining promise of the surest rows, made on simulated validation rows",
        f"whose true probabilities are known, {found['sets']:,} sets of each kind: the share of sets in which the promise does",
        "not hold, and of how many of the rows it is made (none where it cannot be shown). Repeat with",
        "`python bench/quality/guarantees.py`.",
        "",
        "| promise | rows | rule | broken | allowed | of rows |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in found["cases"].items():
        for rule, one in case["rules"].items():
            broken = (
                f"{figure(one['broken']['estimate'])} [{figure(one['broken']['low'])}, {figure(one['broken']['high'])}]"
            )
            words = f"**{rule}**" if rule == "lasttoken" else rule
            lines.append(
                f"| {name} | {case['rows']:,} | {words} | {broken} | {figure(case['allowed'])} | {figure(one['of_rows'])} |"
            )
    return [*lines, ""]


def coverage() -> list[str]:
    """The lines on how often intervals hold the true value, from coverage.py; none where it was not run."""
    path = HERE / "coverage.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    sizes = list(found["cases"][0]["rows"])
    lines = [
        "## Coverage of intervals",
        "",
        "How often a 95 % interval holds the true value, in simulated test sets: the mean over populations (the lowest of them",
        f"in brackets), {found['sets']} test sets each, half as many from 100 rows on. A dash: too few rows for an interval. The",
        "last rows are the percentile bootstrap, for comparison. Repeat with `python bench/quality/coverage.py`.",
        "",
        "| interval | " + " | ".join(f"{n} rows" for n in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for multi, kind in ((False, "one label"), (True, "several labels")):
        cases = [case["rows"] for case in found["cases"] if case["multi"] == multi]
        for name in cases[0][sizes[0]] if cases else []:
            cells = " | ".join(held([case[n][name] for case in cases], found["sets"]) for n in sizes)
            lines.append(f"| {kind}: {name.removeprefix('own ').replace('_', ' ')} | {cells} |")
    return [*lines, ""]


def held(cases: list[list[float]], sets: int) -> str:
    """Mean and lowest coverage of populations, by (share of test sets with an interval, coverage, width) of each.

    Of a population that gives fewer than 30 intervals only the mean tells.
    """
    given = [one for one in cases if len(one) > 1]
    if not given:
        return "-"
    mean = sum(one[0] * one[1] for one in given) / sum(one[0] for one in given)
    enough = [one[1] for one in given if one[0] * sets >= 60]
    return figure(mean) + (f" ({figure(min(enough))})" if enough else "")


def few_rows() -> list[str]:
    """The lines on `linear` with few training rows, from few_rows.py; none where it was not run."""
    path = HERE / "few_rows.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    sets = found["sets"]
    methods = list(next(iter(next(iter(sets.values())).values())))
    lines = [
        "## Few training rows",
        "",
        "Accuracy, or micro-F1 of several labels (GoEmotions, Reuters), means over draws of the training rows as they come;",
        f"{found['tested']:,} test rows. `linear before` took `min_count = 2` and C = 3 or 30. Both hold a tenth of the rows out for",
        "calibration, scikit-learn (TF-IDF of words, logistic regression) learns from all. The last column is the gain of",
        "`linear` over `linear before`, paired over draws (95 %, Student's t).",
        "Repeat with `python bench/quality/few_rows.py --data ../shared/data`.",
        "",
        "| set | rows | draws | " + " | ".join(methods) + " | gain |",
        "|---|" + "---|" * (len(methods) + 3),
    ]
    for name, sizes in sets.items():
        for size, one in sizes.items():
            gain = one["linear before"]
            cells = " | ".join(figure(one[method]["score"]) for method in methods)
            ends = f"{signed(gain['gain'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
            lines.append(f"| {name} | {int(size):,} | {gain['draws']} | {cells} | {ends} |")
    return [*lines, ""]


def signed(value: float) -> str:
    """+.012 or -.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


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
        "`encoder`, and `probe (MiniLM)`, have MiniLM. Settings are in `bench/quality/experiments`. `embedding` on patents and",
        "GoEmotions, after 50 updates and with mean pooling, and all of `tiny`, are from before its head was held back at the",
        "start ([the lab](../lab.md), 2026-11-30), which may cost them a point.",
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
    missing = dict[str, list[str]]()
    for problem, experiment in wanted.items():
        if problem in found and any("@" in point for point in found[problem]):
            lines += curves(problem, experiment, found[problem])
        elif problem in found:
            lines += table(problem, experiment, found[problem])
            lines += differences(experiment, found[problem])
            lines += decided(problem, experiment, found[problem])
        for method in entries(experiment):
            seeds = len(experiment[method.partition("@")[0]].get("seeds", experiment["seeds"]))
            lacking = seeds - len(found.get(problem, {}).get(method, []))
            if lacking:
                of = f" ({lacking} of {seeds} seeds)" if seeds > 1 else ""
                missing.setdefault(problem, []).append(method + of)
    lines += coverage() + false_positives() + folds() + few_rows() + guarantees()
    if missing:
        told = [f"- {problem}: {', '.join(entries)}" for problem, entries in missing.items()]
        lines += ["## Not run yet", "", "`@` stands before training rows, then updates.", "", *told, ""]
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
