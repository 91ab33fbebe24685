"""The sections of docs/explain/quality.md that are no table of results, each from the file that a script of its own wrote.

A section whose script has not been run has no lines.
"""

from __future__ import annotations

import json
from pathlib import Path

from words import NAMES, ends, figure, signed

HERE = Path(__file__).parent


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
        cells = [ends(one) for one in shares.values()]
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
            broken = ends(one["broken"])
            words = f"**{rule}**" if rule == "lasttoken" else rule
            lines.append(
                f"| {name} | {case['rows']:,} | {words} | {broken} | {figure(case['allowed'])} | {figure(one['of_rows'])} |"
            )
    return [*lines, ""]
