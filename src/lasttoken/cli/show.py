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
    """Names cut in the middle to WIDEST characters; left whole if that would make two of them the same."""
    half = WIDEST // 2
    short = [name if len(name) <= WIDEST else f"{name[:half]}…{name[half + 1 - WIDEST :]}" for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def brief(metrics: Mapping[str, Any]) -> str:
    """The test metrics of one run, one per line."""
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
    """One line that names the metrics without an interval, and why; empty if all have one."""
    bare = [
        METRICS[name].words
        for name, one in test["metrics"].items()
        if one["low"] is None and one["estimate"] is not None
    ]
    if not bare:
        return []
    depend = "they depend" if bare[1:] else "it depends"
    return [f"  no interval for {listed(bare)}: {depend} on too few of the {test['n']} test rows"]


def guarantees(found: Mapping[str, Any]) -> list[str]:
    """How the policy's guarantees held on the test rows, one line each."""
    lines = []
    if found["each"] is not None:
        each = found["each"]
        lines.append(
            f"  {each['of'] + ' wanted':<18} {figure(each['wanted'])} for each label, {interval(each['had'])} over all; "
            f"{each['short']} of {each['labels']} labels are significantly below"
        )
    if found["cost"] is not None:
        cost = found["cost"]
        lines.append(
            f"  {'cost per answer':<18} {interval(cost['each'])}; the most probable label would cost "
            f"{interval(cost['by_most_probable'])}, saved {interval(cost['saved'])}"
        )
    if found["answered"] is not None:
        lines.append(f"  {'answered':<18} {interval(found['answered'])}, wrong {interval(found['wrong'])} of them")
        if found["answered"]["estimate"] == 0:
            lines.append(
                "  every row is left to a person: allow more errors (decision.most_wrong), or give more validation rows"
            )
    if found["sets"] is not None:
        sets = found["sets"]
        lines.append(
            f"  {'coverage of sets':<18} {interval(sets['had'])}, {figure(sets['promised'])} promised; "
            f"{sets['size']:.2f} labels per set"
        )
    return lines


def best_first(runs: Sequence[Mapping[str, Any]], metric: str = HEADLINE) -> list[Mapping[str, Any]]:
    """The runs sorted by a test metric, best first; runs without a value come last."""
    return sorted(runs, key=lambda run: METRICS[metric].place(run["splits"]["test"]["metrics"][metric]["estimate"]))


def table(runs: Sequence[Mapping[str, Any]], metric: str = HEADLINE) -> str:
    """A table of runs, best by `metric` first: columns of quality, then of cost. The report shows more."""
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
    rows = f"{count:,} rows, {crossed['folds']}-fold cross-validation" if crossed else f"{count:,} test rows"
    rows += "; intervals: Student's t over the folds, cut at 0 and 1" if crossed else ""
    note = f"{rows}; train/s and predict/s are rows a second; on a CPU memory is that of the whole process"
    return "\n".join(["  ".join(row).rstrip() for row in aligned] + [note])


def verdicts(comparison: Mapping[str, Any]) -> list[str]:
    """A comparison in lines: the summary, every pair, remarks on training, and the gain expected from more rows."""
    lines = [comparison["summary"], *(pair["verdict"] for pair in comparison["pairs"]), *comparison["remarks"]]
    return lines + ([] if comparison["learning"] is None else comparison["learning"]["sentences"])
