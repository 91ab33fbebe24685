"""Figures of statistics in running text: .031, [.012, .050], p = .002. No zero stands before the point."""

from __future__ import annotations

from collections.abc import Sequence


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


def listed(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
