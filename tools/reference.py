"""Write what in the documentation is made from the code or from results; with --check, say what is out of date.

docs/reference/cli.md comes from the commands' own help, docs/reference/settings.md from the config models,
docs/explain/quality.md and docs/explain/speed.md from bench/quality/results and bench/speed/results.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from lasttoken.cli.main import app
from lasttoken.config import METHOD_CONFIGS, Data, Lora, Run, Settings, Training

ROOT = Path(__file__).parent.parent
CONFIG_SOURCE = (ROOT / "src/lasttoken/config.py").read_text(encoding="utf-8")


def command_page() -> str:
    """The help of every verb."""
    import click

    group = get_command(app)
    lines = ["# Commands", "", "Made by `make docs` from the commands themselves.", ""]
    context = click.Context(group, info_name="lasttoken", terminal_width=100, max_content_width=100)
    lines += ["```text", group.get_help(context), "```", ""]
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        inner = click.Context(verb, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        lines += [f"## {name}", "", "```text", verb.get_help(inner), "```", ""]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def settings_page() -> str:
    """Every setting of every table with its default and the remark beside it in config.py."""
    lines = ["# Settings", "", "Made by `make docs` from `src/lasttoken/config.py`.", ""]
    lines += ["In config.toml, and on the command line as `--set data.encoding=latin-1`, `--set method.lora.r=16`;", ""]
    lines += ["in `compare` also for one method alone: `--set embedding.train.epochs=5`.", ""]
    for kind in (Run, Data, *METHOD_CONFIGS.values(), Lora, Training):
        lines += [
            f"## {kind.__name__}",
            "",
            (kind.__doc__ or "").strip(),
            "",
            "| setting | default | |",
            "|---|---|---|",
        ]
        lines += [f"| `{name}` | `{default}` | {remark} |" for name, default, remark in settings_of(kind)] + [""]
    return "\n".join(lines)


def settings_of(kind: type[Settings]) -> list[tuple[str, str, str]]:
    """(name, default, remark) of each setting in the source of a config model; a choice of words stands in the remark."""
    body = re.search(rf"^class {kind.__name__}\(Settings\):\n(.*?)(?=^\S)", CONFIG_SOURCE, re.M | re.S)
    assert body is not None, kind
    lines = re.sub(r"= \(\n\s+(.+)\n\s+\)", r"= \1", body[1])  # a default that the formatter put on a line of its own
    found = []
    for name, kinds, default, remark in re.findall(r"^    (\w+): (.+?) = (.+?)(?:  # (.+))?$", lines, re.M):
        words = re.findall(r'"(\w[\w-]*)"', kinds)
        choice = ", ".join(words) if len(words) > 1 else ""
        found.append(
            (name, default.replace("|", "\\|"), "; ".join(x for x in (choice, remark.replace("|", "\\|")) if x))
        )
    return found


def bench_page(name: str) -> str:
    """The page of a benchmark's results, its tables made by bench/NAME/table.py."""
    made = subprocess.run(
        [sys.executable, str(ROOT / f"bench/{name}/table.py")], capture_output=True, text=True, check=True
    )
    return made.stdout


PAGES = {
    "docs/reference/cli.md": command_page,
    "docs/reference/settings.md": settings_page,
    "docs/explain/quality.md": lambda: bench_page("quality"),
    "docs/explain/speed.md": lambda: bench_page("speed"),
}


def main() -> None:
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print(
        "\n".join(f"{name}: {'out of date; run make docs' if '--check' in sys.argv else 'written'}" for name in stale)
    )
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
