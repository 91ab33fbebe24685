"""Results as text."""

from __future__ import annotations

from typing import Any

from lasttoken.cli.show import brief, interval, shortened, table, verdicts
from lasttoken.config.methods import Embedding, Instruction, Linear
from lasttoken.config.parse import flat, settings_line
from lasttoken.config.run import Run


def measure(estimate: float) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "level": 0.95}


def run(name: str, estimate: float, rate: float | None = 1234.5) -> dict[str, Any]:
    """A metrics.json."""
    metrics = {metric: measure(estimate) for metric in ("macro_f1", "micro_f1", "ece")}
    cost = {
        "trainable_parameters": 1_300_000,
        "train_seconds": 90.0,
        "train_rows_per_second": rate,
        "predict_rows_per_second": 50.4,
        "peak_memory_bytes": 3_000_000_000,
    }
    nothing = {"each": None, "cost": None, "answered": None, "wrong": None, "sets": None}
    return {
        "name": name,
        "guarantees": nothing,
        "splits": {"test": {"n": 40, "classes": 3, "metrics": metrics}},
        "cost": cost,
    }


def test_interval() -> None:
    assert interval({"estimate": 0.812, "low": 0.79, "high": 0.8342}) == ".812 [.790, .834]"
    assert interval({"estimate": 0.812, "low": None, "high": None}) == ".812"


def test_nested_settings_are_dotted() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3, "f": {}}) == [("a.b", 1), ("a.c.d", 2), ("e", 3), ("f", {})]


def test_settings_line_tells_what_differs_from_the_methods_defaults() -> None:
    assert settings_line(Run(method=Linear())) == "settings: all defaults"
    changed = Instruction(verbalizer={"a b": "c"}, train=Instruction().train.model_copy(update={"epochs": 3.0}))
    assert settings_line(Run(method=changed)) == (
        'settings: model=tiny, verbalizer."a b"=c, train.epochs=3.0; all others are defaults'
    )
    assert settings_line(Run(method=Embedding(suffix="\nTopic:"))) == (
        "settings: model=tiny, suffix=\\nTopic:; all others are defaults"
    )


def test_brief() -> None:
    assert brief(run("mine", 0.5)).splitlines() == [
        "mine on 40 test rows, 3 labels (95 % intervals)",
        "  macro-F1           .500 [.400, .600]",
        "  micro-F1           .500 [.400, .600]",
        "  ECE                .500 [.400, .600]",
    ]


def test_brief_tells_what_was_promised() -> None:
    none = {"estimate": 0.0, "low": 0.0, "high": 0.1, "level": 0.95}
    undefined = {"estimate": None, "low": None, "high": None, "level": 0.95}
    promised = {"answered": none, "wrong": undefined, "sets": {"promised": 0.9, "had": measure(0.8), "size": 1.5}}
    assert brief(run("mine", 0.5) | {"guarantees": {"each": None, "cost": None} | promised}).splitlines()[4:] == [
        "  answered           .000 [.000, .100], wrong - of them",
        "  every row is left to a person: allow more errors (decision.most_wrong), or give more validation rows",
        "  coverage of sets   .800 [.700, .900], .900 promised; 1.50 labels per set",
    ]


def test_table_has_the_best_first() -> None:
    assert table([run("linear", 0.5), run("embedding", 0.75, None)]).splitlines() == [
        "             macro-F1 [95 %]  micro-F1   ECE  trainable         fit  train/s  predict/s   memory",
        "embedding  .750 [.650, .850]      .750  .750     1.30 M  1 min 30 s        -         50  3.00 GB",
        "linear     .500 [.400, .600]      .500  .500     1.30 M  1 min 30 s    1,234         50  3.00 GB",
        "40 test rows; train/s and predict/s are rows a second; on a CPU memory is that of the whole process",
    ]


def test_long_names_are_shortened_in_the_middle() -> None:
    long = "all-tickets-of-the-last-five-years-embedding-Qwen3-0.6B-Base"
    lines = table([run(long, 0.75), run("linear", 0.5)]).splitlines()
    assert lines[1].startswith("all-tickets-of-the-l…ing-Qwen3-0.6B-Base  .750 [.650, .850]  ")
    assert lines[2].startswith("linear                                    .500 [.400, .600]  ")
    assert len({line.index("1 min 30 s") for line in lines[1:3]}) == 1
    alike = [long, long.replace("five", "nine")]
    assert shortened(alike) == alike  # else nobody could tell which is which


def test_scores_stand_below_each_other_whatever_they_are_called() -> None:
    further = [{"words": "macro-F1 of the second level", **measure(0.25)}]
    metrics = run("mine", 0.5)
    metrics["splits"]["test"]["further"] = further
    assert brief(metrics).splitlines()[1:] == [
        "  macro-F1                     .500 [.400, .600]",
        "  micro-F1                     .500 [.400, .600]",
        "  ECE                          .500 [.400, .600]",
        "  macro-F1 of the second level .250 [.150, .350]",
    ]


def test_table_is_ordered_by_the_metric_that_decides() -> None:
    lines = table([run("linear", 0.5), run("embedding", 0.75)], "ece").splitlines()
    assert lines[0].split("  ")[0] == ""
    assert lines[0].split()[:5] == ["ECE", "[95", "%]", "macro-F1", "micro-F1"]
    assert lines[1].startswith("linear     .500 [.400, .600]")  # the lower error


def test_remarks_stand_below_the_pairs() -> None:
    said = {
        "summary": "a is best.",
        "pairs": [{"verdict": "a beats b"}],
        "remarks": ["b was interrupted"],
        "learning": None,
    }
    assert verdicts(said) == ["a is best.", "a beats b", "b was interrupted"]
