"""What would make a fit have room: settings in the order of what they cost, else a card that is large enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lasttoken.config import Encoder, Probe
from lasttoken.plan.cards import Card, known_cards
from lasttoken.plan.forecast import Forecast
from lasttoken.plan.skeleton import Method

SHORTEST = 128  # tokens below which a text is hardly worth reading
LOWEST = 4  # rank

Forecaster = Callable[[Method, Card], Forecast]


@dataclass(frozen=True)
class Advice:
    """Changes that give room; or none, and the cards that have it."""

    settings: dict[str, Any]  # dotted name in [method] -> value; empty where none was found
    forecast: Forecast | None  # with them
    cards: tuple[str, ...]  # the smallest on which it fits as it is


def advise(config: Method, card: Card, foresee: Forecaster) -> Advice:
    """The first changes that make `config` fit on `card`; where none does, the smallest cards that take it unchanged."""
    for settings in ladder(config, card):
        found = foresee(changed(config, settings), card)
        if found.fits:
            return shortened(settings, found, lambda some: foresee(changed(config, some), card))
    return Advice({}, None, tuple(large_enough(config, card, foresee)))


def shortened(settings: dict[str, Any], found: Forecast, foresee: Callable[[dict[str, Any]], Forecast]) -> Advice:
    """The advice without the changes that a later and stronger one made needless."""
    for name in reversed(list(settings)[:-1]):
        fewer = {key: value for key, value in settings.items() if key != name}
        without = foresee(fewer)
        if without.fits:
            settings, found = fewer, without
    return Advice(settings, found, ())


def ladder(config: Method, card: Card) -> Iterator[dict[str, Any]]:
    """Changes, each rung with those before it: first what costs nothing, then time, then precision, then quality."""
    so_far: dict[str, Any] = {}
    values = config.model_dump()
    if not isinstance(config, Probe):
        if values["train"]["checkpointing"] == "off":
            so_far["train.checkpointing"] = "auto"
            yield dict(so_far)
        if card.kind != "cuda":  # there training finds the largest budget by itself
            so_far["train.budget"] = 1024
            yield dict(so_far)
    if values.get("merge") == "auto":
        so_far["merge"] = "off"
        yield dict(so_far)
    if values.get("quantize") == "none" and card.kind != "mps":
        so_far["quantize"] = "nf4"
        yield dict(so_far)
    length = config.max_length // 2
    while length >= SHORTEST:
        so_far["max_length"] = length
        yield dict(so_far)
        length //= 2
    rank = 0 if isinstance(config, Probe | Encoder) else config.lora.r // 2
    while rank >= LOWEST:
        so_far["lora.r"] = rank
        yield dict(so_far)
        rank //= 2


def changed(config: Method, settings: dict[str, Any]) -> Method:
    """The config with other values at dotted names."""
    values = config.model_dump()
    for name, value in settings.items():
        *tables, last = name.split(".")
        place = values
        for table in tables:
            place = place[table]
        place[last] = value
    return type(config)(**values)


def large_enough(config: Method, card: Card, foresee: Forecaster) -> list[str]:
    """The cards of the smallest memory on which `config` fits; empty where none is large enough."""
    larger = [other for other in known_cards() if other.memory > card.memory and other.dtype.itemsize == 2]
    sizes = sorted({other.memory for other in larger})
    low, high = 0, len(sizes)
    while low < high:  # what fits one size fits every larger one
        middle = (low + high) // 2
        one = next(other for other in larger if other.memory == sizes[middle])
        low, high = (low, middle) if foresee(config, one).fits else (middle + 1, high)
    return [other.name for other in larger if low < len(sizes) and other.memory == sizes[low]]
