"""Recipes: the runs of an experiment, their settings, and the scores that a paper reports for them.

A recipe is a TOML file of the package (`paper/ag-news`) or of the user. Its entries are methods with settings, or `like`
another entry with a difference; `paper` is the score that the source reports.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.parse import configured
from lasttoken.config.run import Run
from lasttoken.config.settings import merge
from lasttoken.errors import ConfigError
from lasttoken.paths import local
from lasttoken.wording import did_you_mean

FOLDER = Path(__file__).parent / "recipes"
KEYS = ("about", "model", "metric", "data", "entries")
TOLD = ("paper", "about", "like")  # of an entry, beside its settings


@dataclass(frozen=True)
class Recipe:
    """An experiment as written."""

    name: str
    about: str
    model: str | None  # of the entries that name none
    metric: str
    data: dict[str, Any]
    entries: dict[str, dict[str, Any]]  # settings of a method, `like` resolved
    paper: dict[str, str]  # entry -> score
    notes: dict[str, str]  # entry -> what to know of it


def recipe_names() -> list[str]:
    """The recipes of the package."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that file. Raises ConfigError."""
    path = local(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if name.endswith(".toml"):
            raise ConfigError([f"--recipe {name}: no such file; check the path"]) from error
        known = recipe_names()
        raise ConfigError(
            [
                f"--recipe {name}: no such recipe{did_you_mean(name, known)}; known are {', '.join(known)}, or a .toml file"
            ]
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([f"--recipe {name}: not a TOML file ({error})"]) from error
    unknown = sorted(values.keys() - set(KEYS))
    if unknown:
        raise ConfigError([f"--recipe {name}: {unknown[0]!r} is not among {', '.join(KEYS)}"])
    written = values.get("entries")
    if not isinstance(written, dict) or not written or not all(isinstance(own, dict) for own in written.values()):
        raise ConfigError([f"--recipe {name}: has no entries; write [entries.NAME] with method = ... for each"])
    wrong = [entry for entry in written if not re.fullmatch(r"[\w-]+", entry)]
    if wrong:
        raise ConfigError([f"--recipe {name}: entry {wrong[0]!r} names a folder; use letters, digits, - and _"])
    entries = {entry: settings_of(written, entry, name) for entry in written}
    return Recipe(
        name,
        values.get("about", ""),
        values.get("model"),
        values.get("metric", "macro_f1"),
        values.get("data", {}),
        entries,
        {entry: told["paper"] for entry, told in written.items() if "paper" in told},
        {entry: told["about"] for entry, told in written.items() if "about" in told},
    )


def settings_of(written: Mapping[str, Any], entry: str, name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of an entry, with `like` resolved. Raises ConfigError."""
    if entry not in written or entry in seen:
        what = "is like itself" if entry in seen else "is not among the entries"
        raise ConfigError([f"--recipe {name}: {entry!r} {what}; name another entry in `like`"])
    told = written[entry]
    own = {setting: value for setting, value in told.items() if setting not in TOLD}
    if "like" in told:
        return merge(settings_of(written, told["like"], name, (*seen, entry)), own)
    if own.get("method") not in METHOD_CONFIGS:
        raise ConfigError(
            [f"--recipe {name}: {entry}.method: {own.get('method')!r} is not among {', '.join(METHOD_CONFIGS)}"]
        )
    return own


def runs_of(
    recipe: Recipe,
    data: Mapping[str, Any],
    chosen: Sequence[str] | None,
    *,
    model: str | None,
    quantize: str | None,
    seed: int,
    device: str,
    settings: Sequence[str],
) -> dict[str, Run]:
    """The Run of each entry, or of those `chosen`, on `data` over the recipe's own. Raises ConfigError.

    A setting is given to all entries (`seed=1`) or to one (`zero-shot.max_length=256`); model and quantize to those that
    have them and, of the model, name none themselves.
    """
    unknown = [name for name in chosen or () if name not in recipe.entries]
    if unknown:
        raise ConfigError([f"--methods: {unknown[0]!r} is not among the entries {', '.join(recipe.entries)}"])
    check_compared(settings, recipe.entries, chosen)
    given = {**recipe.data, **{name: value for name, value in data.items() if value is not None}}
    if not given.get("source"):
        raise ConfigError(
            [
                f"--recipe {recipe.name}: name the file to run it on: lasttoken compare FILE --recipe {shlex.quote(recipe.name)}"
            ]
        )
    runs = {}
    for name, own in recipe.entries.items():
        if chosen is not None and name not in chosen:
            continue
        known = METHOD_CONFIGS[own["method"]].model_fields
        values = dict(own)
        if "model" in known and "model" not in own and (model or recipe.model):
            values["model"] = model or recipe.model
        if quantize is not None and "quantize" in known:
            values["quantize"] = quantize
        mine = [setting for setting in settings if setting.partition(".")[0] not in recipe.entries.keys() - {name}]
        mine = [f"method.{s.removeprefix(f'{name}.')}" if s.startswith(f"{name}.") else s for s in mine]
        with called(name):
            runs[name] = configured({"seed": seed, "device": device, "data": given, "method": values}, mine)
    return runs


@contextmanager
def called(entry: str) -> Iterator[None]:
    """Problems with settings of a method are told as `compare` takes them: method.lora.r as ENTRY.lora.r."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([re.sub(r"\bmethod\.(?=\w)", f"{entry}.", problem) for problem in error.problems]) from error


def check_compared(settings: Sequence[str], known: Iterable[str], chosen: Sequence[str] | None) -> None:
    """Raises ConfigError on a setting of one of the `known` that is not `chosen`; None: all are."""
    away = set(known) - set(known if chosen is None else chosen)
    for setting in settings:
        name = setting.partition(".")[0]
        if name in away:
            raise ConfigError([f"--set {setting}: {name} is not compared; add it to --methods, or leave that out"])


def beside(recipe: Recipe, scores: Mapping[str, str]) -> str:
    """Markdown table of the reported scores beside those measured here; a cell without a score is empty."""
    lines = [f"| {recipe.name} | paper | here |", "|---|---|---|"]
    for name in recipe.entries:
        note = f" ({recipe.notes[name]})" if name in recipe.notes else ""
        lines.append(f"| {name}{note} | {recipe.paper.get(name, '')} | {scores.get(name, '')} |")
    return "\n".join(lines)
