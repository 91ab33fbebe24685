"""Results as text for a terminal: a table of methods, one run in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lasttoken.evaluation.metrics import HEADLINE, METRICS
from lasttoken.evaluation.wording import figure
from lasttoken.report.units import data_size, duration, size


def interval(measured: Mapping[str, Any]) -> str:
    """`.812 [.790, .834]`, or the estimate alone where there is no interval."""
    if measured["estimate"] is None:
        return "-"
    if measured["low"] is None:
        return figure(measured["estimate"])
    return f"{figure(measured['estimate'])} [{figure(measured['low'])}, {figure(measured['high'])}]"


def brief(metrics: Mapping[str, Any]) -> str:
    """One run on the test rows, a metric a line."""
    test = metrics["splits"]["test"]
    lines = [f"{metrics['name']} on {test['n']} test rows, {test['classes']} labels (95 % intervals)"]
    lines += [f"  {METRICS[name].words:<18} {interval(measured)}" for name, measured in test["metrics"].items()]
    lines += [f"  {one['words']:<18} {interval(one)}" for one in test.get("further", [])]
    return "\n".join([*lines, *promises(metrics.get("promises") or {})])


def promises(found: Mapping[str, Any]) -> list[str]:
    """What the policy's promises came to on the test rows, a line each."""
    lines = []
    if "each" in found:
        each = found["each"]
        lines.append(
            f"  {each['of'] + ' wanted':<18} {figure(each['wanted'])} of each label, {interval(each['had'])} of all together; "
            f"{each['short']} of {each['labels']} labels are shown to have less"
        )
    if "cost" in found:
        cost = found["cost"]
        lines.append(
            f"  {'cost an answer':<18} {interval(cost['each'])}; the most probable label {interval(cost['by_most_probable'])}, "
            f"saved {interval(cost['saved'])}"
        )
    if "answered" in found:
        lines.append(f"  {'answered':<18} {interval(found['answered'])}, wrong {interval(found['wrong'])} of them")
        if found["answered"]["estimate"] == 0:
            lines.append(
                "  every row is left to a person: allow more (decision.most_wrong), or give more validation rows"
            )
    if "sets" in found:
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
    for run in ordered:
        measured, cost = run["splits"]["test"]["metrics"], run["cost"]
        rate = cost["train_rows_per_second"]
        rows.append(
            [
                run["name"],
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
    count = ordered[0]["splits"]["test"]["n"]
    note = f"{count} test rows; train/s and predict/s are rows a second; on a CPU memory is that of the whole process"
    return "\n".join(["  ".join(row).rstrip() for row in aligned] + [note])


def verdicts(comparison: Mapping[str, Any]) -> list[str]:
    """What a comparison says, in lines: the summary, every pair, and what more labels would bring."""
    lines = [comparison["summary"], *(pair["verdict"] for pair in comparison["pairs"])]
    return lines + ([] if comparison["learning"] is None else comparison["learning"]["sentences"])
