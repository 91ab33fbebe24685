"""Results as text for a terminal: a table of methods, one run in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lasttoken.evaluation.metrics import HEADLINE, METRICS
from lasttoken.wording import data_size, duration, figure, listed, size

WIDEST = 40  # characters of a name in a table


def interval(measured: Mapping[str, Any]) -> str:
    """`.812 [.790, .834]`, or the estimate alone where there is no interval."""
    if measured["estimate"] is None:
        return "-"
    if measured["low"] is None:
        return figure(measured["estimate"])
    return f"{figure(measured['estimate'])} [{figure(measured['low'])}, {figure(measured['high'])}]"


def shortened(names: Sequence[str]) -> list[str]:
    """Names of at most WIDEST characters, their middle left out where they are longer; whole where that makes two the same."""
    half = WIDEST // 2
    short = [name if len(name) <= WIDEST else f"{name[:half]}…{name[half + 1 - WIDEST :]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def brief(metrics: Mapping[str, Any]) -> str:
    """One run on the test rows, a metric a line."""
    test = metrics["splits"]["test"]
    crossed = metrics.get("cross_validated")
    rows = f"{test['n']} rows, {crossed['folds']}-fold cross-validation" if crossed else f"{test['n']} test rows"
    lines = [f"{metrics['name']} on {rows}, {test['classes']} labels (95 % intervals)"]
    scores = [(METRICS[name].words, measured) for name, measured in test["metrics"].items()]
    scores += [(one["words"], one) for one in test.get("further", [])]
    width = max([18, *(len(words) for words, _ in scores)])
    lines += [f"  {words:<{width}} {interval(measured)}" for words, measured in scores]
    return "\n".join(
        [*lines, *without_interval(test), *guarantees(metrics["guarantees"]), *([crossed["told"]] if crossed else [])]
    )


def without_interval(test: Mapping[str, Any]) -> list[str]:
    """The sentence that says of which metrics there is no interval, and why; none where all have one."""
    bare = [
        METRICS[name].words
        for name, one in test["metrics"].items()
        if one["low"] is None and one["estimate"] is not None
    ]
    if not bare:
        return []
    return [f"  no interval for {listed(bare)}: too few of the {test['n']} test rows decide on them"]


def guarantees(found: Mapping[str, Any]) -> list[str]:
    """What the policy's promises came to on the test rows, a line each."""
    lines = []
    if found["each"] is not None:
        each = found["each"]
        lines.append(
            f"  {each['of'] + ' wanted':<18} {figure(each['wanted'])} of each label, {interval(each['had'])} of all together; "
            f"{each['short']} of {each['labels']} labels are shown to have less"
        )
    if found["cost"] is not None:
        cost = found["cost"]
        lines.append(
            f"  {'cost an answer':<18} {interval(cost['each'])}; the most probable label {interval(cost['by_most_probable'])}, "
            f"saved {interval(cost['saved'])}"
        )
    if found["answered"] is not None:
        lines.append(f"  {'answered':<18} {interval(found['answered'])}, wrong {interval(found['wrong'])} of them")
        if found["answered"]["estimate"] == 0:
            lines.append(
                "  every row is left to a person: allow more (decision.most_wrong), or give more validation rows"
            )
    if found["sets"] is not None:
        sets = found["sets"]
        lines.append(
            f"  {'sets hold':<18} {interval(sets['had'])} of {figure(sets['promised'])} promised, {sets['size']:.2f} labels"
        )
    return lines


def best_first(runs: Sequence[Mapping[str, Any]], metric: str = HEADLINE) -> list[Mapping[str, Any]]:
    """The runs by a metric of the test rows, those without one last."""
    return sorted(runs, key=lambda run: METRICS[metric].place(run["splits"]["test"]["metrics"][metric]["estimate"]))


def table(runs: Sequence[Mapping[str, Any]], metric: str = HEADLINE) -> str:
    """The runs side by side, the best by `metric` first: quality, then cost. The report has the rest."""
    ordered = best_first(runs, metric)
    beside = [name for name in ("macro_f1", "micro_f1", "ece") if name != metric]
    quality = [f"{METRICS[metric].words} [95 %]", *(METRICS[name].words for name in beside)]
    rows = [["", *quality, "trainable", "fit", "train/s", "predict/s", "memory"]]
    for name, run in zip(shortened([run["name"] for run in ordered]), ordered, strict=True):
        measured, cost = run["splits"]["test"]["metrics"], run["cost"]
        rate = cost["train_rows_per_second"]
        rows.append(
            [
                name,
                interval(measured[metric]),
                *(figure(measured[name]["estimate"]) for name in beside),
                size(cost["trainable_parameters"]),
                duration(cost["train_seconds"]),
                "-" if rate is None else f"{rate:,.0f}",
                f"{cost['predict_rows_per_second']:,.0f}",
                data_size(cost["peak_memory_bytes"]),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    aligned = (
        [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))] for row in rows
    )
    count, crossed = ordered[0]["splits"]["test"]["n"], ordered[0].get("cross_validated")
    rows = f"{count} rows, {crossed['folds']}-fold cross-validation" if crossed else f"{count} test rows"
    note = f"{rows}; train/s and predict/s are rows a second; on a CPU memory is that of the whole process"
    return "\n".join(["  ".join(row).rstrip() for row in aligned] + [note])


def verdicts(comparison: Mapping[str, Any]) -> list[str]:
    """What a comparison says, in lines: the summary, every pair, remarks on trainings, and what more labels would bring."""
    lines = [comparison["summary"], *(pair["verdict"] for pair in comparison["pairs"]), *comparison["remarks"]]
    return lines + ([] if comparison["learning"] is None else comparison["learning"]["sentences"])
