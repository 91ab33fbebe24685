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

from lasttoken.evaluation.seeds import over_seeds
from lasttoken.evaluation.significance import Interval

HERE = Path(__file__).parent
WORDS = {
    "embedding-last": "embedding, last token",
    "random": "embedding, random weights",
    "instruction-numbers": "instruction, answered by number",
    "trainer": "HF Trainer + PEFT, last token",
    "encoder": "encoder (MiniLM, 22 M)",
    "k0": "LoRA on all six blocks",
    "head": "head alone, cross-entropy",
    **{
        f"head-{loss}": f"head alone, {loss}"
        for loss in ("asymmetric", "ranking", "balanced", "focal", "logit_adjusted")
    },
    **{
        f"{init}-{n}": f"{init} head, {n} epoch{'s' if n > 1 else ''}"
        for init in ("random", "probe")
        for n in (1, 3, 4)
    },
    **{f"k{k}": f"on the upper {6 - k}, trunk = {k}" for k in range(2, 6)},
}
HEADLINES = {False: ("accuracy", "macro_f1", "ece"), True: ("micro_f1", "macro_f1", "ece")}
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
    """The names of what an experiment runs."""
    return [name for name, value in experiment.items() if isinstance(value, dict)]


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
        f"{size['mean_characters']} characters a text. A 95 % interval of {NAMES[metrics[0]]} is at most ± {figure(widest)} wide.",
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
            found = difference(methods[against], methods[method])
            shown = ", no difference shown" if found.low <= 0 <= found.high else ""
            lines.append(
                f"- {WORDS.get(against, against)} less {WORDS.get(method, method)}: {signed(found.estimate)} "
                f"[{signed(found.low)}, {signed(found.high)}]{shown}"
            )
    title = "Rows decided exactly right, paired over test rows, means over seeds; intervals count rows and seeds:"
    return [title, "", *lines, ""] if lines else []


def chance() -> list[str]:
    """The lines on how often a difference is claimed where there is none, from chance.py; none where it was not run."""
    path = HERE / "chance.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Differences claimed by chance",
        "",
        f"Data sets of {found['rows']} rows on which the methods are equally good, {found['sets']:,} of each kind: the share in which",
        "`p <= .05` comes out of the test alone, and in which `compare` claims a difference (the interval must exclude 0 too, and",
        "p is Holm's over all pairs). Repeat with `python bench/quality/chance.py`.",
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


def promises() -> list[str]:
    """The lines on how often what is promised does not hold, from promises.py; none where it was not run."""
    path = HERE / "promises.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Promises that do not hold",
        "",
        "What thresholds for a wanted precision and abstaining promise of the surest rows, made on simulated validation rows",
        f"whose true probabilities are known, {found['sets']:,} sets of each kind: the share of sets in which the promise does",
        "not hold, and of how many of the rows it is made (none where it cannot be shown). Repeat with",
        "`python bench/quality/promises.py`.",
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


def signed(value: float) -> str:
    """+.012 or -.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def main() -> None:
    lines = [
        "# Quality, measured",
        "",
        "Made by `make docs` from `bench/quality/results`; each file there holds settings, seed, versions, commit and every",
        "decision. Repeat with `make bench`. Figures are means over seeds ± the standard deviation between seeds. Times are of",
        "one CPU thread beside other work, good for a rough comparison only (but where a trunk is compared: two threads, little",
        "beside them); some machines had bfloat16, others computed in float32 (`machine` in a result says which). The model is",
        "`tiny` (6.9 M parameters) unless the table says otherwise: what is shown is that the methods work and how they stand to",
        "each other, not what a large model reaches.",
        "",
    ]
    found = results()
    wanted = {
        path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
        for path in sorted((HERE / "experiments").glob("*.toml"))
    }
    missing = []
    for problem, experiment in wanted.items():
        if problem in found:
            lines += table(problem, experiment, found[problem])
            lines += differences(experiment, found[problem])
            lines += decided(problem, experiment, found[problem])
        for method in entries(experiment):
            seeds = len(experiment[method].get("seeds", experiment["seeds"]))
            lacking = seeds - len(found.get(problem, {}).get(method, []))
            if lacking:
                missing.append(f"{problem} {method}: {lacking} of {seeds} seeds")
    lines += chance() + promises()
    if missing:
        lines += ["## Not run yet", "", *(f"- {line}" for line in missing), ""]
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
