"""docs/explain/speed.md, or with `tables` docs/explain/speed-tables.md, from bench/speed/results, on stdout.

Also: what each bar came to.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
TASKS = {
    "embedding-training": "Training, embedding",
    "embedding-inference": "Prediction, embedding",
    "instruction-training": "Training, instruction",
    "instruction-scoring": "Prediction, instruction",
    "label-count": "77 labels beside 4",
    "probe": "Features of a frozen model",
    "scale": "From a thousand rows to a hundred thousand",
    "startup": "Start of a process",
}
MODELS = {
    "smollm2": "`smollm2` (135 M)",
    "tiny": "`tiny` (6.9 M)",
    "135m": "135 M Llama",
    "toy": "a toy of two blocks (0.6 M)",
}
AGAINST = {
    "best": "the best peer",
    "paper": "the paper's way",
    "one": "generate, one by one",
    "batched": "generate, batched",
    "four": "4 labels, time",
    **{f"rows{size}": f"the best peer at {size} rows an update" for size in (8, 16, 32)},
    "share": "the matrix-product peak, share",
    "predict_seconds_a_token": "seconds a token, predicting",
    "predict_memory": "peak memory, predicting",
    "train_seconds_a_token": "seconds a token, training",
    "train_memory": "peak memory, training",
    "help_seconds": "`lasttoken --help`, seconds",
    "import_seconds": "`import lasttoken`, seconds",
}
GPU_COLUMNS = ("step", "what", "figures", "asked")
PAGE = """# Speed

Made by `make docs` from `bench/speed/results`. Every contender of every comparison is in [the tables](speed-tables.md), what was
tried and did not help in [the lab](../lab.md).

## What is done

| | what it saves |
|---|---|
| rows are packed, not padded: one behind the other under a budget of tokens, none sees another | all padding |
| LoRA is one step of autograd in training, and part of the weights in prediction | most passes over a layer's activations |
| a Llama's block is three autograd functions on a CPU | intermediate results, dropout masks, conversions |
| float32 products come from oneDNN on processors not made by Intel | more than half of MKL's time there |
| on a CPU batches are predicted side by side, a thread each, and rows come in few sizes | waiting, making kernels |
| `embedding` computes no vocabulary logits, `instruction` only where an answer is predicted | a large product a token |
| all labels hang on a text as one tree of tokens, behind a prompt that is run once | a pass a label, or a token |
| `probe` stops below its layer, `trunk = k` below block k; what they saw is kept on disk | upper blocks, later epochs |
| memory is looked at before training: the budget gives way, then activation checkpointing | recomputing, where there is room |

## What to expect on your machine

- **A CPU with AMX or AVX512-BF16** computes in bfloat16. Matrix products are fast there; what stands between them takes most of
  the time.
- **A CPU without** computes in float32, and products take most of the time: ours and the best peer are about level.
- **A GPU**: {gpu}
- **Your own**: [`lasttoken plan`](../guides/plan.md) times the products of the CPU it runs on. It assumes that a training reaches
  35 % of their rate; `predict` tells how long it took.

What helps, if your time is short: `train.batch = 32` on a CPU (more rows a second than 8, [by how much](speed-tables.md), with a
quarter of the updates: look at the score); `trunk = k` for several epochs or trials; `tolerance = 0.001` for many labels;
a smaller `max_length`.

"""
TABLES = """# Speed, every contender

Made by `make docs` from `bench/speed/results`; each file there holds every round's figures, versions, commit and machine.
Repeat with `make bench-speed`, on a machine that does nothing else. Ours and the peers run in one process and take turns,
in an order drawn anew each round, with the same rows, weights, precision and LoRA (r 8 on the seven linears of a block).
Weights that are not in NF4 are in bfloat16 where the processor computes in it and in float32 elsewhere, on both sides; the
names of the contenders say which.
A rate is rows really processed by the second, without warm-up, loading, logging, saving or evaluation; a figure is the
median over rounds with the lowest and highest in brackets. A ratio is the median of the ratios of single rounds.

Peers get what makes them fast: rows grouped by length as in a set of 6,400 rows, merged adapters to predict, rows sorted
before they are batched, the faster of transformers' two attentions, and of `generate` only as many tokens as the right
answer has. Neither side is compiled. "best" is the fastest of all else in a table; "the paper's way" is NF4 with 8 rows a
batch. Short rows are AG News, long ones titles and abstracts of patents, mixed ones Reuters, cut at 1,024 tokens. The 135 M
Llama has random weights in the shape of SmolLM2-135M and the tokenizer of `tiny`. What a frozen trunk (`trunk = k`) saves
and costs in quality is in [quality](quality.md), under trunk-ag-news-4k and trunk-banking77. Trainings were measured while
LoRA's dropout took its masks from a pool of draws; since that is gone `tiny` trains slower by a fourteenth to a tenth, and a
model of 135 M by a tenth or more ([the lab](../lab.md), 2026-11-28).

"""
NO_GPU = "nothing has been measured; `bench/gpu.py` does it in one call of ten minutes."
GPU = "see [the tables](speed-tables.md)."


def experiments() -> list[dict[str, Any]]:
    """The experiments in the order of TASKS."""
    read = [tomllib.loads(path.read_text(encoding="utf-8")) for path in (HERE / "experiments").glob("*.toml")]
    return sorted(read, key=lambda experiment: list(TASKS).index(experiment["task"]))


def name_of(case: dict[str, Any]) -> str:
    """The name of a case, and of its file: TASK.MODEL.ROWS."""
    return ".".join(case[key] for key in ("task", "model", "rows") if key in case)


def bars(case: dict[str, Any], result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each bar of a case came to, by the name CASE.BAR. A bar whose peer is missing is left out."""
    if "measures" in result:
        return {
            f"{result['case']}.{name}": {
                **entry([one["value"]], bound, "at most", one["unit"], runs=one["runs"]),
                **origin(result),
            }
            for name, bound in case["bars"].items()
            for one in [result["measures"][name]]
        }
    found = {}
    for name, bound in case.get("bars", {}).get(case["rows"], {}).items():
        size = int(name.removeprefix("rows")) if name.startswith("rows") else None
        own = fastest(result, ours=True, batch=size)
        rival = fastest(result, ours=False, tag=None if name == "best" or size else name, batch=size)
        if rival is not None and own is not None:
            ratios = [a / b for a, b in zip(own["rates"], rival["rates"], strict=True)]
            sense = "at most" if isinstance(bound, dict) else "at least"
            if isinstance(bound, dict):
                ratios, bound = [1 / ratio for ratio in ratios], bound["at_most"]
            found[f"{result['case']}.{name}"] = {
                **entry(ratios, bound, sense, "times"),
                "ours": own["name"],
                "peer": rival["name"],
                **origin(result),
            }
    own = fastest(result, ours=True)
    if "share" in case and "flops_a_row" in result and own is not None:
        shares = shares_of(result, own)
        found[f"{result['case']}.share"] = {
            **entry(shares, case["share"], "at least", f"of the {result['machine']['dtype']} peak"),
            "ours": own["name"],
            **origin(result),
        }
    return found


def origin(result: dict[str, Any]) -> dict[str, str]:
    """Where a figure is from."""
    about = result["machine"]
    return {"machine": f"{about['cpu']}, {about['dtype']}", "commit": result["commit"]}


def entry(values: Sequence[float], bar: float, sense: str, unit: str, runs: int | None = None) -> dict[str, Any]:
    """One bar: what was measured beside what was asked."""
    ratio = median(values)
    return {
        "ratio": ratio,
        "low": min(values),
        "high": max(values),
        "bar": bar,
        "sense": sense,
        "unit": unit,
        "runs": runs or len(values),
        "reached": ratio <= bar if sense == "at most" else ratio >= bar,
    }


def fastest(
    result: dict[str, Any], *, ours: bool, tag: str | None = None, batch: int | None = None
) -> dict[str, Any] | None:
    """The contender with the highest median rate, of ours or of the peers; with a tag or of a batch where one is given."""
    found = [c for c in result["contenders"] if c["ours"] == ours and (tag is None or tag in c["tags"])]
    found = [c for c in found if batch is None or c["batch"] == batch]
    return max(found, key=lambda contender: median(contender["rates"]), default=None)


def shares_of(result: dict[str, Any], contender: dict[str, Any]) -> list[float]:
    """The share of the machine's peak that a contender's needed FLOP take, round by round."""
    return [r * result["flops_a_row"] / p for r, p in zip(contender["rates"], result["peak_flops"], strict=True)]


def figure(value: float) -> str:
    """Three significant digits: 2,310 or 48.2 or 5.17 or .518."""
    if value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"
    return text.removeprefix("0")


def spread(values: Sequence[float]) -> str:
    """The median, and the range where there are several."""
    shown = figure(median(values))
    return f"{shown} [{figure(min(values))}, {figure(max(values))}]" if len(values) > 1 else shown


def table(case: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The lines of one comparison: every contender, and how many times as fast ours is."""
    rows, about, own = result["rows"], result["machine"], fastest(result, ours=True)
    assert own is not None
    lines = [
        f"### {MODELS.get(case['model'], case['model'])}, {case['rows']} rows",
        "",
        f"{rows['slice']} rows of {rows['tokens_a_row']:g} tokens on average (the set: {rows['pool_tokens_a_row']:g}), the longest "
        f"{rows['longest']:,}; {rows['labels']} labels; {result['rounds']} rounds; matrix products reach "
        f"{figure(median(result['peak_flops']) / 1e12)} TFLOP/s in {about['dtype']} ({about['cpu']}, {about['device']})."
        f"{agreed(result)}",
        "",
        "| | rows/s | our best is x times as fast | our same batch |" + (" share of peak |" if "share" in case else ""),
        "|---|---|---|---|" + ("---|" if "share" in case else ""),
    ]
    for one in sorted(result["contenders"], key=lambda contender: -median(contender["rates"])):
        alike = next((c for c in result["contenders"] if c["ours"] and c["batch"] and c["batch"] == one["batch"]), None)
        cells = [f"**{one['name']}**" if one["ours"] else one["name"], spread(one["rates"])]
        cells.append("" if one is own else against(own, one))
        cells.append("" if one["ours"] or alike is None else against(alike, one))
        cells += [f"{median(shares_of(result, one)):.0%}"] if "share" in case else []
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def agreed(result: dict[str, Any]) -> str:
    """How far the peers' answers are from ours, where they could be compared."""
    errors = result["agreement"].values()
    return f" What both sides say differs by at most {max(errors):.2%} (L2 norm)." if errors else ""


def against(own: dict[str, Any], other: dict[str, Any]) -> str:
    """The median ratio of two contenders' rates."""
    return figure(median([a / b for a, b in zip(own["rates"], other["rates"], strict=True)]))


def sizes(case: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The lines of the table of `scale`."""
    about = result["machine"]
    lines = [
        f"### {MODELS.get(case['model'], case['model'])}, {case['rows']} rows",
        "",
        f"{about['cpu']}, {about['device']}, {about['dtype']}.",
        "",
    ]
    lines += ["| rows | tokens | predict, s | peak, GB | train, s | peak, GB |", "|---|---|---|---|---|---|"]
    for one in result["sizes"]:
        cells = [f"{one['rows']:,}", f"{one['tokens']:,}"]
        for what in ("predict", "train"):
            cells += [figure(median(one[f"{what}_seconds"])), figure(median(one[f"{what}_memory"]) / 1e9)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def bar_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table of bars."""
    lines = [
        "## What was asked, and what was reached",
        "",
        f"{sum(one['reached'] for one in found.values())} of {len(found)} are reached; [the lab](../lab.md) says what holds the "
        "others back. Medians of rounds, the lowest and",
        "the highest in brackets. The best peer is the fastest of what people use today; the paper's way is 4 bits and 8 rows a",
        "batch. Two kinds of bars asked for more than the products allow, and are replaced. Prediction by `embedding`: a peer that",
        "sorts its rows by length runs the same matrix products, so twice its speed is not to be had; asked is a share of the",
        "products' measured peak. 77 labels beside 4: a question and its tree of answers have 566 tokens against 56, so twice the",
        "time is not to be had; asked is .6 of that ratio. Bars of `tiny` for features and for scoring are also out of reach of",
        "products, and stand as they were.",
        "",
        "| | against | measured | asked | | on |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        task, *where, bar = name.split(".")
        place = ", ".join([TASKS[task], *(MODELS.get(word, word) for word in where)])
        measured = figure(one["ratio"])
        if one["low"] != one["high"]:
            measured += f" [{figure(one['low'])}, {figure(one['high'])}]"
        verdict = "reached" if one["reached"] else "**not reached**"
        lines.append(
            f"| {place} | {AGAINST[bar]} | {measured} | {one['sense']} {one['bar']:g} | {verdict} | {one['machine']} |"
        )
    return [*lines, ""]


def reached_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of what ours does a second, and how long ten thousand rows take."""
    lines = ["| two CPU cores | rows | computes in | rows a second | 10,000 rows, minutes |", "|---|---|---|---|---|"]
    for name, result in found.items():
        own = fastest(result, ours=True) if "contenders" in result else None
        if own is None:
            continue
        task, model, rows = name.split(".")
        rate = median(own["rates"])
        lines.append(
            f"| {TASKS[task]}, {MODELS.get(model, model)} | {rows}, {result['rows']['tokens_a_row']:.0f} tokens | "
            f"{result['machine']['dtype']} | {figure(rate)} | {figure(10_000 / rate / 60)} |"
        )
    return [*lines, ""] if len(lines) > 2 else []


def gpu_lines(result: dict[str, Any]) -> list[str]:
    """The lines of one run of bench/gpu.py."""
    steps = result["steps"]
    cards = [step["figures"]["card"]["name"] for step in steps if "card" in step.get("figures", {})]
    lines = [
        f"## One GPU: {cards[0] if cards else result['device']}",
        "",
        f"Random weights in the shapes of known models, random words (bench/gpu.py, {result['began']}).",
        "",
        "| " + " | ".join(GPU_COLUMNS) + " |",
        "|---" * len(GPU_COLUMNS) + "|",
    ]
    for step in steps:
        for name, value in step.get("figures", {}).items():
            lines.append(f"| {step['step']} | {name} | {in_words(value)} | {step['aims'].get(name, '')} |")
    left = [f"- {step['step']}: {told}" for step in steps if (told := step.get("error") or step.get("skipped"))]
    return [*lines, "", *(["Not measured, or not to its end:", "", *left, ""] if left else [])]


def exported_lines(path: Path) -> list[str]:
    """The table of other runtimes on a CPU (exported.py); empty where it was not measured."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        f"| `{model}` | {name} | {figure(rate)} | {one['agreement'][name]:.1%} |"
        for model, one in found["models"].items()
        for name, rate in sorted(one["rows a second"].items(), key=lambda pair: -pair[1])
        if name != "ours, as trained"
    ]
    refused = [f"- `{model}`: {told}" for model, one in found["models"].items() for told in one["refused"]]
    return [
        "## Exported to another runtime",
        "",
        f"AG News at {found['tokens']} tokens, two cores of {found['machine']['machine']['cpu']}, alternated, medians of five rounds "
        "(bench/speed/exported.py). Agreement: decisions that are the run's, of 1,000 test rows. `transformers`: its own "
        "classifier on the exported weights, padded, sorted by length.",
        "",
        "| model | form | rows a second | agreement |",
        "|---|---|---|---|",
        *rows,
        "",
        *(["Refused by the check:", "", *refused, ""] if refused else []),
    ]


def in_words(value: Any) -> str:
    """A figure of a step on one line; lists, and tables within tables, stay in the file."""
    if isinstance(value, dict):
        plain = {name: one for name, one in value.items() if one is not None and not isinstance(one, dict | list)}
        return ", ".join(f"{name} {in_words(one)}" for name, one in plain.items())
    return figure(value) if isinstance(value, float) else "in the file" if isinstance(value, list) else str(value)


def main(which: str = "page") -> None:
    """Print the "page", or the "tables"."""
    if which not in ("page", "tables"):
        raise SystemExit(f"{which!r} is neither page nor tables")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "results").glob("*.json")}
    found.pop("summary", None)
    reached, body, waiting, cases = {}, [], [], []
    for experiment in experiments():
        lines = []
        for case in experiment["cases"]:
            settings = {**experiment, **case}
            cases.append(settings)
            name = name_of(settings)
            result = found.get(name)
            if result is None:
                waiting.append(f"- {name}")
                continue
            reached |= bars(settings, result)
            lines += (
                sizes(settings, result)
                if "sizes" in result
                else table(settings, result)
                if "contenders" in result
                else []
            )
        body += [f"## {TASKS[experiment['task']]}", "", *lines] if lines else []
    cards = [name for name in sorted(found) if name.startswith("gpu")]
    body += [line for name in cards for line in gpu_lines(found[name])]
    body += exported_lines(HERE / "exported.json")
    waiting += [] if cards else ["- bench/gpu.py, on any GPU"]
    if which == "tables":
        print(TABLES + "\n".join([*body, *(["## Not measured yet", "", *waiting] if waiting else [])]).rstrip())
    else:
        measured = {name: found[name] for name in map(name_of, cases) if name in found}
        lines = [*reached_lines(measured), *(bar_lines(reached) if reached else [])]
        page = PAGE.format(gpu=GPU if cards else NO_GPU) + "\n".join(lines)
        print(page.rstrip())


if __name__ == "__main__":
    main(*sys.argv[1:])
