"""Write what in the documentation is made from the code or from results; with --check, say what is out of date.

docs/reference/cli.md comes from the commands' own help, settings.md from the config models, python.md from docstrings;
docs/explain/quality.md, speed.md and speed-tables.md from bench/quality/results and bench/speed/results.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from typer.main import get_command

import lasttoken
from lasttoken.cli.main import app
from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.parse import differing, flat
from lasttoken.config.run import Run
from lasttoken.config.settings import Data, Decision, Ends, Long, Lora, Settings, Training
from lasttoken.errors import UserError
from lasttoken.estimator import TextClassifier
from lasttoken.packages import default_probed

ROOT = Path(__file__).parent.parent


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
    """Every setting of every table: its default, what else it may be, and what it means."""
    lines = ["# Settings", "", "Made by `make docs` from the models in `src/lasttoken/config/`.", ""]
    lines += ["In config.toml, and on the command line as `--set data.encoding=latin-1`, `--set method.lora.r=16`;"]
    lines += ["in `compare` also for one method alone: `--set embedding.train.epochs=5`.", ""]
    for kind in (Run, Data, Decision, *METHOD_CONFIGS.values(), Lora, Long, Ends, Training):
        title = [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", ""]
        lines += [*title, "| setting | default | choices | meaning |", "|---|---|---|---|"]
        for name, field in kind.model_fields.items():
            cells = (f"`{name}`", default_of(field), ", ".join(choices_of(field.annotation)), field.description)
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def default_of(field: FieldInfo) -> str:
    """A default as TOML writes it; of a table, where it stands and what differs from it; nothing for one that is not set."""
    if field.default_factory is not None:  # the model: what it is depends on what is installed
        probed = field.default_factory is default_probed
        return "`minilm` if installed, else as for `embedding`" if probed else "`smollm2` if installed, else `tiny`"
    value = field.default
    if not isinstance(value, Settings):
        return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"
    kind = type(value)
    changed = ", ".join(f"`{name} = {json.dumps(own)}`" for name, own in flat(differing(value)) if name != "model")
    return f"[{kind.__name__}](#{kind.__name__.lower()})" + (f" with {changed}" if changed else "")


def choices_of(annotation: Any) -> list[str]:
    """The words that a setting may be, where it may be several."""
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    inner = [word for part in get_args(annotation) if not isinstance(part, str) for word in choices_of(part)]
    return [str(word) for word in words] if len(words) > 1 else inner


def python_page() -> str:
    """Every public name: how it is called, and its docstring. What estimators share is told once, settings elsewhere."""
    groups: dict[str, list[str]] = {"Classifiers": [], "Data and judgement": [], "Settings": [], "Errors": []}
    for name in sorted(lasttoken.__all__, key=str.lower):
        groups[group_of(getattr(lasttoken, name))].append(name)
    lines = ["# Python", "", "Made by `make docs` from the docstrings of what `lasttoken` exports.", ""]
    for title, names in groups.items():
        lines += [f"## {title}", ""]
        if title == "Classifiers":
            lines += [inspect.getdoc(TextClassifier) or "", "", *methods_of(TextClassifier)]
        if title == "Settings":
            lines += ["Each with its fields and defaults in [settings.md](settings.md).", ""]
        for name in names:
            value = getattr(lasttoken, name)
            if title in ("Settings", "Errors"):
                lines += [f"- `{name}`: {one_line(inspect.getdoc(value) or '')}"]
            elif title == "Classifiers":
                lines += [f"### {name}", "", inspect.getdoc(value) or "", ""]
            elif callable(value):
                lines += [
                    f"### {name}",
                    "",
                    "```python",
                    called(name, value),
                    "```",
                    "",
                    inspect.getdoc(value) or "",
                    "",
                ]
                lines += methods_of(value) if inspect.isclass(value) else []
            else:
                lines += [f"### {name}", "", f"Names and what is known of them: {', '.join(map(repr, value))}.", ""]
        lines += [""] if lines[-1] else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def group_of(value: Any) -> str:
    """The part of the page that a public name belongs to."""
    if not inspect.isclass(value):
        return "Data and judgement"
    kinds = {TextClassifier: "Classifiers", Settings: "Settings", UserError: "Errors"}
    return next((group for kind, group in kinds.items() if issubclass(value, kind)), "Data and judgement")


def called(name: str, value: Any) -> str:
    """The line that calls a function or makes an object, without the modules of its types."""
    signature = inspect.signature(value)
    if inspect.isclass(value):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature))  # annotations are kept as text
    shown = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z_])", "", shown)
    return name + shown.replace("(self, ", "(").replace("(self)", "()")


def methods_of(kind: type) -> list[str]:
    """A line for each public method in the source of a class."""
    own = [(n, f) for n, f in vars(kind).items() if inspect.isfunction(f) and not n.startswith("_") and f.__doc__]
    return [f"- `{called(name, method)}`: {one_line(inspect.getdoc(method) or '')}" for name, method in own] + [""]


def one_line(text: str) -> str:
    """A docstring on one line."""
    return " ".join(text.split())


def bench_page(name: str, *which: str) -> str:
    """A page of a benchmark's results, made by bench/NAME/table.py."""
    made = subprocess.run(
        [sys.executable, str(ROOT / f"bench/{name}/table.py"), *which], capture_output=True, text=True, check=True
    )
    return made.stdout


PAGES = {
    "docs/reference/cli.md": command_page,
    "docs/reference/settings.md": settings_page,
    "docs/reference/python.md": python_page,
    "docs/explain/quality.md": lambda: bench_page("quality"),
    "docs/explain/speed.md": lambda: bench_page("speed"),
    "docs/explain/speed-tables.md": lambda: bench_page("speed", "tables"),
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
