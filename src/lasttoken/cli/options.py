"""The options that verbs share, and how they become a config."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.errors import ConfigError

if TYPE_CHECKING:
    from lasttoken.config import Run  # what reads settings is imported once there are some: --help need not wait

DATA = "Data"
METHOD = "Method"

Text = Annotated[str, typer.Option("--text", help="Text column, or several: title,body", rich_help_panel=DATA)]
Label = Annotated[
    str, typer.Option("--label", help="Label column; or several columns of 0 and 1, with commas", rich_help_panel=DATA)
]
Separator = Annotated[
    str | None,
    typer.Option("--separator", help='Splits a label such as "A;C" into several labels', rich_help_panel=DATA),
]
Template = Annotated[
    str | None, typer.Option("--template", help='Joins text columns: "{title}. {body}"', rich_help_panel=DATA)
]
HierarchyOf = Annotated[
    str | None,
    typer.Option(
        "--hierarchy", help='Separator of levels in labels ("A/A61"), or a CSV of label,parent', rich_help_panel=DATA
    ),
]
Id = Annotated[str | None, typer.Option("--id", help="Column of unique row ids", rich_help_panel=DATA)]
Group = Annotated[
    str | None, typer.Option("--group", help="Rows of one group never cross a split", rich_help_panel=DATA)
]
Split = Annotated[
    str | None, typer.Option("--split", help="Column that says train, valid or test", rich_help_panel=DATA)
]
Valid = Annotated[str | None, typer.Option("--valid", help="File of validation rows", rich_help_panel=DATA)]
Test = Annotated[str | None, typer.Option("--test", help="File of test rows", rich_help_panel=DATA)]
Encoding = Annotated[str, typer.Option("--encoding", help="Of CSV, TSV and JSONL files", rich_help_panel=DATA)]
DropEmpty = Annotated[
    bool,
    typer.Option(
        "--drop-empty",
        help="Leave out rows without text, or without their only label",
        rich_help_panel=DATA,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of splits, weights and order")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")]
Model = Annotated[
    str | None, typer.Option("--model", help="Hub name, folder, or tiny; default: the method's", rich_help_panel=METHOD)
]
Quantize = Annotated[str | None, typer.Option("--quantize", help="none, or nf4 for 4 bits", rich_help_panel=METHOD)]
Checkpointing = Annotated[
    str | None,
    typer.Option(
        "--checkpointing", help="Of activations: on, off, or auto, when memory is short", rich_help_panel=METHOD
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting: method.lora.r=16", rich_help_panel=METHOD)]
SetOf = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of one method: embedding.lora.r=16; or of all: seed=1", rich_help_panel=METHOD
    ),
]
Goal = Annotated[
    float | None,
    typer.Option(
        "--goal", min=0, max=1, help="Score from 0 to 1 that more labels should bring, asked of learning curves"
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow the run's base model to bring its own code")
]
Base = Annotated[
    str | None, typer.Option("--model", help="Folder of the run's base model, where it is another than in training")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; it must not exist")]


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def default_folder(source: str, what: str) -> Path:
    """runs/SOURCE-WHAT, of the last parts of both names: runs/reviews-embedding, runs/ag_news-Qwen3-0.6B-Base."""
    stem = Path(source).stem if not source.startswith("hub:") else source.rpartition("/")[2].replace(":", "-")
    return Path("runs") / f"{stem}-{what.rstrip('/').rpartition('/')[2]}"


def data_values(
    source: str,
    text: str,
    label: str,
    *,
    separator: str | None,
    template: str | None,
    id: str | None,
    group: str | None,
    split: str | None,
    valid: str | None,
    test: str | None,
    encoding: str,
    drop_empty: bool,
    hierarchy: str | None = None,
) -> dict[str, Any]:
    """The [data] table of a config."""
    return {
        "source": source,
        "text": listed(text),
        "label": listed(label),
        "separator": separator,
        "template": template,
        "id": id,
        "group": group,
        "split": split,
        "valid": valid,
        "test": test,
        "encoding": encoding,
        "drop_empty": drop_empty,
        "hierarchy": hierarchy,
    }


def check_there(*sources: str | None) -> None:
    """Raises DataError where a file of rows is not there: before what reads it is imported, which takes seconds."""
    from lasttoken.data.tables import check_file

    for source in sources:
        if source and source != "-" and not source.startswith(("hub:", "wipo:")):
            check_file(Path(source))


def check_known(methods: Iterable[str], option: str) -> None:
    """Raises ConfigError on the first name, given by `option`, that is of no method."""
    from lasttoken.config import METHOD_CONFIGS

    for method in methods:
        if method not in METHOD_CONFIGS:
            near = difflib.get_close_matches(method, METHOD_CONFIGS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError([f"{option}: {method!r} is not among {', '.join(METHOD_CONFIGS)}{hint}"])


def check_used(methods: Iterable[str], chosen: Iterable[str]) -> None:
    """Raises ConfigError where an option sets what none of the methods has."""
    from lasttoken.config import METHOD_CONFIGS

    for name in chosen:
        if not any(name in METHOD_CONFIGS[method].model_fields for method in methods):
            having = [method for method, kind in METHOD_CONFIGS.items() if name in kind.model_fields]
            raise ConfigError([f"--{name}: {', '.join(methods)} has no {name}; {', '.join(having)} have"])


def run_config(
    method: str,
    data: dict[str, Any],
    *,
    model: str | None,
    quantize: str | None,
    seed: int,
    device: str,
    settings: list[str],
    checkpointing: str | None = None,
) -> Run:
    """The Run of one method; None leaves a setting to the method. Raises ConfigError."""
    from lasttoken.config import METHOD_CONFIGS, Run, override, parse

    check_known([method], "--method")
    named = {"model": model, "quantize": quantize}
    chosen: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    check_used([method], chosen)
    settings = [re.sub(rf"^{method}\.", "method.", assigned) for assigned in settings]
    if checkpointing is not None:
        if "train" not in METHOD_CONFIGS[method].model_fields:
            raise ConfigError([f"--checkpointing: {method} trains no model; leave it out"])
        if any(assigned.startswith("method.train.checkpointing=") for assigned in settings):
            raise ConfigError(["--checkpointing: --set gives method.train.checkpointing too; leave one of the two out"])
        if checkpointing not in ("on", "off", "auto"):
            raise ConfigError([f"--checkpointing: {checkpointing!r} is not among on, off, auto"])
        chosen["train"] = {"checkpointing": checkpointing}
    values = {"seed": seed, "device": device, "data": data, "method": {"method": method, **chosen}}
    return parse(Run, override(values, settings))
