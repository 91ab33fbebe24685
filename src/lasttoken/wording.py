"""Numbers in sentences: 1 row, 2 rows."""

from __future__ import annotations


def counted(number: int, one: str, several: str) -> str:
    """1 row repeats; 2 rows repeat."""
    return f"{number} {one if number == 1 else several}"
