"""Settings from TOML and from --set, and back: every problem of a config in one error, with what would do."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import TypeAdapter, ValidationError

from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.run import Run
from lasttoken.config.settings import Settings
from lasttoken.errors import ConfigError
from lasttoken.paths import escaped
from lasttoken.wording import closest, listed


def parse(kind: type[Settings], values: Mapping[str, Any]) -> Any:
    """`kind` made of plain values. Raises ConfigError with every problem, each with its dotted name and what would do."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        named: dict[str, str] = {}
        problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
        for problem in problems:  # a setting of several types has a problem with each; one line is enough
            told = sentence(kind, problem, values.get("method"))
            name = told.partition(":")[0]
            first = named.setdefault(name, told)
            if problem["type"] == "tuple_type":
                named[name] = first + listing(problem["input"])
            elif problem["type"] == "literal_error" and first != told:
                named[name] = first.replace(", got ", f" or {problem['ctx']['expected']}, got ", 1)
        raise ConfigError(list(named.values())) from error


def configured(values: Mapping[str, Any], settings: Sequence[str]) -> Run:
    """The Run of these values and of `a.b=value` settings over them. Raises ConfigError, also on a setting without effect."""
    whole = override(dict(values), settings)
    data = whole.get("data", {})
    idle = [part for part in ("valid", "test") if data.get(part) and f"{part}_share" in data]
    if idle:
        raise ConfigError(
            [
                f"data.{part}_share: has no effect, since {data[part]} holds the {part} rows; leave it out"
                for part in idle
            ]
        )
    return parse(Run, whole)


def sentence(kind: type[Settings], problem: dict[str, Any], given: Any = None) -> str:
    """One problem of a config: where, what, and the nearest name where a name is unknown.

    given: what is said of the method, whose settings are those that may have been meant.
    """
    told = list(map(str, problem["loc"]))
    if told[:2] == ["decision", "costs"]:  # below it are labels, named as they like
        place = [part if re.fullmatch(r"\w+", part) else f"{part!r}" for part in told if part != "[key]"]
    else:
        place = [part for part in told if re.fullmatch(r"\w+", part) and part not in METHOD_CONFIGS]
        if problem["type"] == "extra_forbidden" and not re.fullmatch(r"\w+", told[-1]):
            place.append(repr(told[-1]))  # a name that no setting can have; other odd parts are pydantic's own
    name = ".".join(place) or "settings"
    if problem["type"] == "extra_forbidden":
        known = sorted(names(kind))
        method = METHOD_CONFIGS.get(given.get("method", "")) if isinstance(given, dict) else None
        if kind is Run and method is not None and place[0] != "method":
            known = [n for n in known if not n.startswith("method.")] + sorted(names(method, "method."))
        if any(setting == name or setting.startswith(f"{name}.") for setting in known):  # of another method
            chosen = next(part for part in map(str, problem["loc"]) if part in METHOD_CONFIGS)
            bare = name.removeprefix(f"{place[0]}.") if place[1:] else name
            others = [m for m, c in METHOD_CONFIGS.items() if any(f"{n}.".startswith(f"{bare}.") for n in names(c))]
            have = f"{listed(others)} {'have' if others[1:] else 'has'} it"
            return f"{name}: {chosen} has no such setting; {have} (in compare: --set METHOD.NAME=VALUE)"
        if chosen := next((part for part in map(str, problem["loc"]) if part in METHOD_CONFIGS), None):
            known = sorted(names(METHOD_CONFIGS[chosen], f"{place[0]}." if place[:-1] else ""))
        every = known + sorted({setting.rpartition(".")[0] for setting in known} - {"", *known})  # and their tables
        inside, value = (
            name,
            problem["input"],
        )  # the whole path that was given: `train.epochs`, where there is no table `train`
        while isinstance(value, dict) and len(value) == 1:
            key, value = next(iter(value.items()))
            inside = f"{inside}.{key}"
        ends = (f".{inside}", f".{name}", f".{place[-1]}")  # train.lr of method.train.lr, method.lr of the same
        near = [n for end in ends for n in every if n.endswith(end)]
        # a slip keeps the table and, as a rule, the first letter
        alike = [n for n in every if n.count(".") == name.count(".") and n.split(".")[-1][0] == place[-1][0]]
        meant = near[0] if near else closest(name, alike, cutoff=0.5)
        hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
        return f"{name}: no such setting; {hint}"
    if problem["type"] == "value_error":  # of a validator here, which says all there is to say
        return f"{name}: {problem['ctx']['error']}"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def listing(given: Any) -> str:
    """How to write what should have been a list: q_proj,v_proj as ['q_proj','v_proj'], without a space for a shell to cut at."""
    if not isinstance(given, str):
        return f"; several are written as [{given!r},...]"
    parts = ",".join(f"""'{part.strip(" '")}'""" for part in given.strip("[]").split(","))
    return f'; several are written as [{parts}], on a command line within "double quotes"'


def names(kind: type[Settings], prefix: str = "") -> set[str]:
    """Dotted names of every setting of `kind`."""
    found: set[str] = set()
    for name, field in kind.model_fields.items():
        inner = [
            t
            for t in (field.annotation, *get_args(field.annotation))
            if isinstance(t, type) and issubclass(t, Settings)
        ]
        for each in inner:
            found |= names(each, f"{prefix}{name}.")
        if not inner:
            found.add(f"{prefix}{name}")
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of nested values; a name that holds more than letters, digits and - is quoted."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        name = name if re.fullmatch(r"[\w-]+", name) else f'"{name}"'
        pairs += flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [(f"{prefix}{name}", value)]
    return pairs


def differing(config: Settings) -> dict[str, Any]:
    """The settings of a table that differ from its defaults, as plain values, those of inner tables too."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, default = getattr(config, name), field.default
        if value == default:
            continue
        if isinstance(value, Settings) and type(value) is type(default):
            own, usual = value.model_dump(mode="json"), default.model_dump(mode="json")
            found[name] = {key: one for key, one in own.items() if one != usual[key]}
        else:
            found[name] = config.model_dump(mode="json")[name]
    return found


def settings_line(config: Run) -> str:
    """The settings of method and decision that differ from their defaults, in one line; config.toml has all of them."""
    decision = {f"decision.{name}": value for name, value in flat(differing(config.decision))}
    values = dict(flat(differing(config.method))) | decision
    changed = ", ".join(f"{name}={value}" for name, value in values.items()).replace("\n", "\\n")
    return f"settings: {changed}; all others are defaults" if changed else "settings: all defaults"


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of nested `values` after `a.b=value` assignments; a value is TOML, or a string where it is not TOML."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    wrong = [a for a in assignments if "=" not in a]
    if wrong:
        raise ConfigError([f"--set {a}: write it as name=value, for instance --set method.lora.r=16" for a in wrong])
    for assignment in assignments:
        path, _, text = assignment.partition("=")
        *parents, last = path.strip().split(".")
        place = result
        for parent in parents:
            inner = place.get(parent) or {}
            if not isinstance(inner, dict):
                raise ConfigError([f"--set {assignment}: {parent!r} is a single value, not a table of settings"])
            place[parent] = dict(inner)
            place = place[parent]
        place[last] = toml_value(text.strip())
    return result


def toml_value(text: str) -> Any:
    """`text` read as a TOML value; itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.startswith("{"):
            raise ConfigError(
                [
                    f'--set ...={text}: {error}; a table is {{name = value, ...}}, with "quotes" around names of several words'
                ]
            ) from error
        return text


def seconds_in(text: str, option: str) -> float:
    """The seconds of a duration such as 90s, 10m or 1h30m. Raises ConfigError, naming the option."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not seconds:
        raise ConfigError([f"{option}: {text!r} is no duration; write it as 90s, 10m or 1h30m"])
    return float(seconds)


def to_toml(config: Settings) -> str:
    """Every setting, defaults too; those that are None are left out."""
    return tomli_w.dumps(storable(config.model_dump(exclude_none=True)))


def storable(value: Any) -> Any:
    """`value` as TOML can hold it: names that are not UTF-8 with escapes, tuples as lists."""
    if isinstance(value, dict):
        return {escaped(name): storable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value


def read_run(path: Path) -> Run:
    """The Run in a TOML file. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([f"{path}: not a TOML file ({error})"]) from error
    if isinstance(values.get("method"), dict):
        values["method"] = of_today(values["method"])
    return parse(Run, values)


def of_today(method: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a finished run's method without what was dropped since: the ranking loss, which no prediction needs."""
    return {name: value for name, value in method.items() if (name, value) != ("loss", "ranking")}
