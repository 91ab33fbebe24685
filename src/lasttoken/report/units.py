"""Numbers as a reader wants them: .834, 12.2 M parameters, 1.42 GB, 4 min 10 s. A value that is not there is a dash."""

from __future__ import annotations

import math

from lasttoken.evaluation import wording

DASH = "–"
MINUS = "\u2212"


def number(value: float | None) -> float:
    """The number; NaN for the null that stands for it in JSON."""
    return math.nan if value is None else value


def score(value: float) -> str:
    """A metric: .834, or -.021 with a true minus sign."""
    return DASH if math.isnan(value) else wording.figure(value).replace("-", MINUS)


def brief(value: float) -> str:
    """A metric in two digits, for tables of many: .83."""
    return DASH if math.isnan(value) else "1.00" if value >= 0.995 else f"{value:.2f}"[1:]


def signed(value: float) -> str:
    """A difference of metrics, its sign always shown: +.021."""
    return f"+{score(value)}" if value >= 0.0005 else score(value)


def span(low: float, high: float) -> str:
    """The ends of an interval: [.812, .855]; nothing where they are undefined."""
    return "" if math.isnan(low) or math.isnan(high) else wording.span(low, high).replace("-", MINUS)


def p_value(value: float) -> str:
    """A probability of chance, which is never shown as zero: < .001, .032, .61; a dash where no test was made."""
    return DASH if math.isnan(value) else wording.p_value(value).removeprefix("p ").removeprefix("= ")


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
