"""Whether results moved: the same experiment and seeds fitted before and after a change, paired over test rows, on stdout.

    python bench/quality/before_after.py BEFORE [AFTER]

BEFORE and AFTER are folders of results of run.py, AFTER being the committed ones unless it is named. A row's score is the
share of the seeds in both folders that decided it exactly right; the interval is as in paired.py.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from paired import difference
from words import signed


def pairs(before: Path, after: Path) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """PROBLEM.METHOD -> its results in either folder, seed by seed; those that only one of them has are left out."""
    found: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = defaultdict(lambda: ([], []))
    for path in sorted(before.glob("*.json")):
        if (after / path.name).exists():
            for side, folder in zip(found[path.stem.rpartition(".")[0]], (before, after), strict=True):
                side.append(json.loads((folder / path.name).read_text(encoding="utf-8")))
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    found = pairs(arguments.before, arguments.after)
    if not found:
        raise SystemExit(f"no result is in both {arguments.before} and {arguments.after}")
    for name, (old, new) in found.items():
        gap = difference(new, old)
        seeds = ", ".join(str(run["seed"]) for run in new)
        commits = " to ".join("/".join(dict.fromkeys(run["commit"][:8] for run in runs)) for runs in (old, new))
        changed = sorted({key for a, b in zip(old, new, strict=True) for key in told(a, b)})
        print(
            f"{name}: {signed(gap.estimate)} [{signed(gap.low)}, {signed(gap.high)}] of {new[0]['problem']['test']:,} rows "
            f"(seeds {seeds}; {commits}{'; settings that differ: ' if changed else ''}{', '.join(changed)})"
        )


def told(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """The settings that two results do not share."""
    return {
        key for key in {**old["settings"], **new["settings"]} if old["settings"].get(key) != new["settings"].get(key)
    }


if __name__ == "__main__":
    main()
