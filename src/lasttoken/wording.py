"""Formats of numbers (.031, [.012, .050], p = .002, 12.2 M, 4 min 10 s) and suggestions for misspelt names.

A score has no zero before its point. A missing value is a dash.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

DASH = "–"
MINUS = "\u2212"
SHORT = 30  # characters of a value that is shown


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name closest to `name`, or nothing where none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean 'positive'?` with the known name closest to `name`, or nothing where none is close."""
    near = closest(name, known, cutoff=cutoff)
    return f"; did you mean {near!r}?" if near else ""


def quoted(name: str) -> str:
    """A name for a comma-separated list, in double quotes if it has a comma, a quote or outer spaces."""
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name or name != name.strip() else name


def counted(number: int, one: str, several: str) -> str:
    """1 row repeats; 2 rows repeat."""
    return f"{number} {one if number == 1 else several}"


def figure(value: float) -> str:
    """Three decimals: .031, -.004, 1.250."""
    digits = f"{value:.3f}"
    if float(digits) == 0:
        return ".000"  # never -.000
    return digits.replace("0.", ".", 1) if abs(float(digits)) < 1 else digits


def span(low: float, high: float) -> str:
    """The ends of an interval: [.012, .050]."""
    return f"[{figure(low)}, {figure(high)}]"


def p_value(p: float) -> str:
    """p < .001, p = .002, p = .61: the third decimal only where it can matter."""
    if p < 0.001:
        return "p < .001"
    return f"p = {f'{p:.3f}' if p < 0.1 else f'{p:.2f}'}".replace("= 0.", "= .")


def there_and_here(name: str, there: Any, here: Any, places: tuple[str, str] = ("there", "here")) -> str:
    """`folds (3 there, 5 here)`: a setting that differs, with both values where they are short."""
    shown = [spelt(value) for value in (there, here)]
    plain = all(isinstance(value, str | int | float | None) and len(str(value)) <= SHORT for value in (there, here))
    return f"{name} ({shown[0]} {places[0]}, {shown[1]} {places[1]})" if plain else name


def spelt(value: Any) -> Any:
    """A value for a sentence: true and false as settings have them, text in quotes where it would not be seen otherwise."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not (value.strip() and value.isprintable()):
        return repr(value)
    return "not given" if value is None else value


def listed(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def number(value: float | None) -> float:
    """The number; NaN for the null that stands for it in JSON."""
    return math.nan if value is None else value


def score(value: float) -> str:
    """A metric: .834, or -.021 with a true minus sign."""
    return DASH if math.isnan(value) else figure(value).replace("-", MINUS)


def brief(value: float) -> str:
    """A metric in two digits, for tables of many: .83."""
    return DASH if math.isnan(value) else "1.00" if value >= 0.995 else f"{value:.2f}"[1:]


def signed(value: float) -> str:
    """A difference of metrics, its sign always shown: +.021."""
    return f"+{score(value)}" if value >= 0.0005 else score(value)


def shown_span(low: float, high: float) -> str:
    """The ends of an interval: [.812, .855]; nothing where they are undefined."""
    return "" if math.isnan(low) or math.isnan(high) else span(low, high).replace("-", MINUS)


def shown_p(value: float) -> str:
    """A p-value, never shown as zero: < .001, .032, .61; a dash where no test was made."""
    return DASH if math.isnan(value) else p_value(value).removeprefix("p ").removeprefix("= ")


def percent(share: float) -> str:
    """A share of one: 18.2 %."""
    return f"{100 * share:.1f} %"


def whole(value: int) -> str:
    """A count in full: 12,345."""
    return f"{value:,}"


def size(value: float) -> str:
    """A large count in three digits: 812, 12.2 M, 7.25 B."""
    return scaled(value, ("", " k", " M", " B", " T"))


def data_size(value: float) -> str:
    """Bytes in decimal units: 1.42 GB is 1,420,000,000 bytes."""
    return scaled(value, (" B", " kB", " MB", " GB", " TB"))


def rate(value: float) -> str:
    """Rows a second, in three digits: 0.451, 83.1, 12,300."""
    if math.isnan(value):
        return DASH
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"


def duration(seconds: float) -> str:
    """Wall time in at most two units: 0.42 s, 4 min 10 s, 2 h 5 min."""
    if math.isnan(seconds):
        return DASH
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def scaled(value: float, suffixes: tuple[str, ...]) -> str:
    """`value` in three digits, in the largest unit, a thousand apart, that leaves at least one before the point."""
    if math.isnan(value):
        return DASH
    power = 0
    while power < len(suffixes) - 1 and abs(value) >= 999.5 * 1000**power:
        power += 1
    value /= 1000**power
    digits = 0 if power == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}{suffixes[power]}"


def first_line(error: Exception) -> str:
    """The first non-empty line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
