"""Options shared by several commands, and the Run config made from them."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.run import Run
from lasttoken.config.settings import Data
from lasttoken.errors import ConfigError, DataError, MissingColumn
from lasttoken.paths import local, local_text
from lasttoken.wording import closest, did_you_mean, quoted

LISTS = {"text", "label"}  # settings of Data that take several names
FILES = ("valid", "test")  # those that name files
COLUMNS = ("text", "label", "id", "group", "split")  # those that name columns
NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"\s*|([^,]*))(?:,|$)')  # one name of a comma-separated list, quoted or bare
SEVERAL = """ (several: a,b; a name with a comma: '"a, b",c')"""
METHOD = "Method"


def path(given: Any) -> Any:
    """Callback for options that take paths: expands ~ and refuses URLs such as s3://."""
    if isinstance(given, list | tuple):
        return [path(one) for one in given]
    return local_text(given) if isinstance(given, str) else local(given)


Encoding = Annotated[str, typer.Option("--encoding", help=Data.model_fields["encoding"].description)]
Quoting = Annotated[str | None, typer.Option("--quoting", help=Data.model_fields["quoting"].description)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed of splits, weights and row order")]
Device = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda or mps")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", min=1, help="Train in as many processes, one for each GPU of this machine  [default: 1]"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        callback=path,
        help="Model: hub name, folder, GGUF file, smollm2, minilm or tiny; default: the method's",
        rich_help_panel=METHOD,
    ),
]
Quantize = Annotated[
    str | None, typer.Option("--quantize", help="Quantization: none, or nf4 (4 bits)", rich_help_panel=METHOD)
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="Precision of weights and arithmetic: float32, bfloat16, or auto (the faster one here, measured)",
        rich_help_panel=METHOD,
    ),
]
Checkpointing = Annotated[
    str | None,
    typer.Option(
        "--checkpointing",
        help="Activation checkpointing: on, off, or auto (if memory is short)",
        rich_help_panel=METHOD,
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Setting to override: method.lora.r=16", rich_help_panel=METHOD)
]
SetOf = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting to override, for one method: embedding.lora.r=16; for all: seed=1",
        rich_help_panel=METHOD,
    ),
]
Goal = Annotated[
    float | None,
    typer.Option("--goal", min=0, max=1, help="Target score from 0 to 1, for the learning curves"),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="Time limit, such as 10m or 1h30m: epochs, frozen blocks and training rows are chosen to fit",
        rich_help_panel=METHOD,
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every",
        min=0,
        help="Seconds between checkpoints of a training at least; 0: after every update. They take 2 % of its time at most",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the base model")
]
Base = Annotated[
    str | None,
    typer.Option(
        "--model", callback=path, help="Folder or GGUF file of the run's base model, if it has moved since training"
    ),
]
Track = Annotated[
    str | None,
    typer.Option("--track", help="Show trainings in an experiment tracker: tensorboard, mlflow, wandb or trackio"),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend", help="Of an export: the name of a form, or auto (default): the fastest one within .05 of the run"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
Out = Annotated[Path | None, typer.Option("--out", callback=path, help="Folder to write; it must not exist yet")]


def takes_data(*, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that replaces a command's parameter `data` by one option per setting of `Data`.

    The command gets a dict of the settings that were given, keyed as in the config. without: settings to leave out.
    An error about a missing column names the option to use.
    """
    names = [name for name in Data.model_fields if name not in ("source", *without)]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        parameters = list(signature.parameters.values())
        place = list(signature.parameters).index("data")
        parameters[place : place + 1] = [data_option(name) for name in names]

        @functools.wraps(verb)
        def called(**given: Any) -> None:  # whatever typer has parsed
            parsed = {name: given.pop(name) for name in names}
            data = {name: value for name, value in parsed.items() if value is not None and value is not False}
            for name in LISTS & data.keys():
                data[name] = listed(data[name])
            with naming_options(data, names):
                verb(**given, data=data)

        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def data_option(name: str) -> inspect.Parameter:
    """The typer option of one setting of `Data`; its value is None (False for a flag) if not given."""
    field = Data.model_fields[name]
    help = f"{field.description}{SEVERAL if name in LISTS else ''}"
    if field.default is not None and field.default is not False:
        shown = ",".join(field.default) if name in LISTS else field.default
        help += f"  [default: {shown}]"
    kind = plain_type(field.annotation)
    expand = path if name in FILES else None
    option = typer.Option(
        f"--{name.replace('_', '-')}", callback=expand, help=help, show_default=False, rich_help_panel="Data"
    )
    annotation = Annotated[bool if kind is bool else kind | None, option]
    default = False if kind is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def plain_type(annotation: Any) -> type:
    """The command-line type of a setting: bool, int, float or str."""
    if annotation in (bool, int, float):
        return annotation
    return next((kind for part in get_args(annotation) if (kind := plain_type(part)) is not str), str)


def listed(text: str) -> tuple[str, ...]:
    """Comma-separated names, stripped; double quotes keep commas and outer spaces."""
    names = (quoted.replace('""', '"') if quoted else bare.strip() for quoted, bare in NAME.findall(text))
    return tuple(name for name in names if name)


@contextmanager
def naming_options(data: Mapping[str, Any], options: Sequence[str] = ("text",)) -> Iterator[None]:
    """Context manager that adds the option to correct to MissingColumn errors.

    data: settings of `Data` that were given; the others have their defaults. options: those the command has.
    """
    try:
        yield
    except MissingColumn as error:
        whole = {**Data().model_dump(), **data}
        for name in COLUMNS:
            given = columns_given(whole, name)
            if name in options and error.column in given:
                others = {other: columns_given(whole, other) for other in COLUMNS if other != name}
                unsure = name == "text" and "label" in options and not {*others["label"]} & {*error.found}
                raise DataError(f"{error}{option_for(name, given, error, others, unsure=unsure)}") from error
        raise


def columns_given(data: Mapping[str, Any], name: str) -> Sequence[str]:
    """The columns that a setting names."""
    return data[name] if name in LISTS else (data[name],)


def option_for(
    name: str, given: Sequence[str], error: MissingColumn, others: Mapping[str, Sequence[str]], *, unsure: bool
) -> str:
    """The end of an error message with the corrected option: `; name the text column: --text message`.

    others: columns that other settings name, which are not proposed. Without a similar name the last free column is, but not
    where one is `unsure`: the last column is often a label that is not named.
    """
    whole = next(
        (c for c in error.found if "," in c and error.column in (parts := listed(c)) and {*parts} <= {*given}), ""
    )
    taken = {*given}.union(*others.values())
    free = [column for column in error.found if column not in taken]
    last = "COLUMN" if unsure and len(free) > 1 else next(reversed(free), "")
    meant = whole or closest(error.column, free) or last
    if not meant:
        return ""
    gone = {*listed(whole)} if whole else {error.column}
    columns = list(dict.fromkeys(meant if column in gone else column for column in given))
    return f"; name the {name} column: --{name} {shlex.quote(','.join(map(quoted, columns)))}"


def data_words(data: Mapping[str, Any]) -> list[str]:
    """Command-line arguments for these settings of `Data`, without its source."""
    words = []
    for name, value in data.items():
        shown = ",".join(map(quoted, value)) if name in LISTS else str(value)
        if name != "source":
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [shown])]
    return words


def command(*words: object) -> str:
    """A shell-quoted `lasttoken` command line."""
    return shlex.join(["lasttoken", *map(str, words)])


def default_folder(source: str, what: str) -> Path:
    """runs/SOURCE-WHAT, of the last parts of both names: runs/reviews-embedding, runs/ag_news-Qwen3-0.6B-Base."""
    stem = Path(source).stem if not source.startswith("hub:") else source.rpartition("/")[2].replace(":", "-")
    return Path("runs") / f"{stem}-{what.rstrip('/').rpartition('/')[2]}"


def check_there(*sources: str | None) -> None:
    """Raises DataError if a data file is missing, before the slow imports of its readers."""
    from lasttoken.data.tables import check_file

    for source in sources:
        if source and source != "-" and not source.startswith(("hub:", "wipo:")):
            check_file(Path(source))


def check_first(data: Data, models: Iterable[str | None] = (), *, keep_empty: bool = False) -> None:
    """Raises DataError if a file lacks a column, ModelError if a model is missing, before torch is imported.

    keep_empty: rows of JSON may lack a text or a label, as with drop_empty.
    """
    from lasttoken.data.load import columns_of
    from lasttoken.data.read import check_header
    from lasttoken.model.files import check_model

    for source in (data.source, data.valid, data.test):
        if source:
            options = {"encoding": data.encoding, "quoting": data.quoting}
            check_header(source, columns_of(data), **options, keep_empty=data.drop_empty or keep_empty)
    for model in models:
        if model:
            check_model(model)


def check_tracked(name: str | None) -> None:
    """Raises ConfigError on an unknown tracker, or one that is not installed, before anything heavy is imported."""
    if name is not None:
        from lasttoken.track import check_tracker

        check_tracker(name)


def encoder_here(settings: Iterable[str]) -> tuple[str | None, list[str]]:
    """(replacement for the default encoder, notes): MiniLM if it is installed and the default is not on this machine.

    (None, []) if the default can be loaded, a setting names an encoder, or MiniLM is not installed.
    """
    from lasttoken.model.files import on_this_machine
    from lasttoken.packages import MINILM, installed_minilm

    default = METHOD_CONFIGS["encoder"].model_fields["model"].default
    named = any(setting.startswith("encoder.model=") for setting in settings)
    if named or not installed_minilm() or on_this_machine(default):
        return None, []
    return MINILM, [f"encoder: {default} is not on this machine, so minilm is used; --encoder NAME chooses another"]


def check_known(methods: Iterable[str], option: str, known: Collection[str] = METHOD_CONFIGS) -> None:
    """Raises ConfigError on the first name that is not known as a method. option: the one the names were given with."""
    for method in methods:
        if method not in known:
            raise ConfigError([f"{option}: {method!r} is not among {', '.join(known)}{did_you_mean(method, known)}"])


def check_used(methods: Iterable[str], chosen: Iterable[str]) -> None:
    """Raises ConfigError if none of the methods has a setting named in `chosen`."""
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
    precision: str | None = None,
) -> Run:
    """The Run of one method; None leaves a setting to the method. Raises ConfigError."""
    from lasttoken.config.parse import configured

    check_known([method], "--method")
    named = {"model": model, "quantize": quantize, "precision": precision}
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
    return configured(values, settings)
