"""Unambiguous exports of labelling tools: Label Studio tasks, its {"choices": [...]} cells, and JSON lists.

A separator inside a cell, as in doccano's CSV, is ambiguous: `quick_checks` warns about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lasttoken.errors import DataError


def as_flat_row(row: dict[str, Any], place: str) -> dict[str, Any]:
    """A Label Studio task flattened as in its JSON-MIN export: data fields and the choices of each control.

    Any other row is returned unchanged. Raises DataError when annotations of one task differ.
    """
    data, annotations = row.get("data"), row.get("annotations", row.get("completions"))
    if not isinstance(data, dict) or not isinstance(annotations, list):
        return row
    kept = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    answers = [choices_of(one.get("result")) for one in kept]
    if any(one != answers[0] for one in answers):
        raise DataError(f"{place}: {len(answers)} annotations that differ, {answers[0]} and another; keep one of them")
    rest = {
        name: cell for name, cell in row.items() if name not in ("data", "annotations", "completions", "predictions")
    }
    return rest | data | (answers[0] if answers else {})


def choices_of(results: Any) -> dict[str, Any]:
    """Control name -> choices of an annotation: one as text, several as {"choices": [...]}."""
    found: dict[str, Any] = {}
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        choices = value.get("choices") if isinstance(value, dict) else None
        if isinstance(choices, list) and choices:
            found[str(result.get("from_name"))] = choices[0] if len(choices) == 1 else {"choices": choices}
    return found


def unwrapped(cells: Sequence[Any]) -> Sequence[Any]:
    """The cells of a label column, with {"choices": [...]} and JSON lists replaced by Python lists.

    If any cell holds choices, single values become lists of one: the tool writes a row of one label that way.
    """
    if not any(type(cell) is dict or (type(cell) is str and cell[:1] in ("{", "[")) for cell in cells):
        return cells
    chosen = [choices(cell) for cell in cells]
    if any(found is not None for found in chosen):
        return [
            [cell] if found is None and isinstance(cell, str) and cell.strip() else cell if found is None else found
            for cell, found in zip(cells, chosen, strict=True)
        ]
    lists = [json_list(cell) if isinstance(cell, str) and cell.strip() else None for cell in cells]
    blank = [cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells]
    plain = all(empty or found is not None for empty, found in zip(blank, lists, strict=True))
    return lists if plain else cells


def choices(cell: Any) -> list[Any] | None:
    """The names in a {"choices": [...]} cell, given as a dict or as JSON text; None for any other cell."""
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    found = cell.get("choices") if isinstance(cell, dict) and len(cell) == 1 else None
    return found if isinstance(found, list) else None


def json_list(cell: str) -> list[str] | None:
    """The names in a JSON list of strings; None for any other cell."""
    try:
        found = json.loads(cell) if cell.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None
