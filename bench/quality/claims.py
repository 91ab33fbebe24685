"""The section of docs/explain/quality.md on the paper's three claims: each where both of its sides have a result."""

from __future__ import annotations

from typing import Any

from paired import alike, difference
from words import ends, interval

CLAIMS = {"instruction": "head less instruction", "embedding-mean": "last less mean pooling"}


def claims(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """The lines of the table; none where no claim can be tested. found: problem -> method -> results by seed."""
    lines = []
    for problem, methods in found.items():
        for name, runs in methods.items():
            entry, _, point = name.partition("@")
            if entry != "embedding" or not problem.startswith(("smollm2-", "curve-")):
                continue
            named = {other: f"{other}@{point}" if point else other for other in CLAIMS}
            pairs = {other: alike(runs, methods.get(name, [])) for other, name in named.items()}  # empty where none
            if not any(own for own, _ in pairs.values()):
                continue
            gaps = [interval(difference(*pair)) if pair[0] else "" for pair in pairs.values()]
            errors = "; ".join(ends(side[0]["test"]["metrics"]["ece"]) for side in pairs["instruction"] if side)
            rows, updates = runs[0]["problem"]["train"], runs[0]["updates"]
            where = f"{problem.removeprefix('smollm2-').removeprefix('curve-')} | {rows:,} | {updates or 'all'}"
            lines.append(((problem, rows, updates or 0), f"| {where} | {' | '.join([*gaps, errors])} |"))
    if not lines:
        return []
    titles = ["set", "rows", "updates", *CLAIMS.values(), "ECE of the head; of instruction"]
    return [
        "## The paper's claims",
        "",
        "SmolLM2-135M-Instruct on equal rows and updates: differences in rows decided exactly right, and the ECE of",
        "probabilities that were not calibrated, with 95 % intervals. What they come to:",
        "[the paper's claims, on a small model](../guides/reproduce.md#the-papers-claims-on-a-small-model).",
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
        *(line for _, line in sorted(lines)),
        "",
    ]
