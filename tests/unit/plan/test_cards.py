"""Cards by the names that people and drivers use, and this machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from lasttoken.errors import ConfigError
from lasttoken.model.cpu_rates import cpu_name, keep_rates
from lasttoken.plan.cards import find_card, known_cards, this_machine

VERSION = f"torch {version('torch')}, oneDNN's float32"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("rtx-a6000", "RTX A6000"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("a10", "A10"),
        ("T4", "T4"),
        ("l40s", "L40S"),
        ("b200", "B200"),
    ],
)
def test_cards_by_the_names_people_and_drivers_use(asked: str, name: str) -> None:
    assert find_card(asked).name == name


def test_an_amount_of_memory_is_a_card_too() -> None:
    card = find_card("24GB")
    assert (card.memory, card.free, card.rate, card.itemsize) == (24e9, 0.95 * 24e9, None, 2)
    assert find_card("16 GiB").memory == 16 * 2**30
    assert find_card("800MB").memory == 8e8


def test_a_t4_computes_in_float32_and_is_not_among_cards_of_its_memory() -> None:
    assert [card.name for card in known_cards() if card.itemsize == 4] == ["T4"]
    assert [card.name for card in known_cards(16e9)] == ["RTX 4080"]
    assert (find_card("t4").rate, find_card("h200").rate) == (8.1e12, 989.4e12)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("4900", "not a known card; did you mean RTX 4090"),
        ("A100", r"did you mean A100 40GB or A100 80GB\?"),
        ("-5GB", "is not a known card"),
        ("0GB", "is not a known card"),
        ("", "not a known card; known are T4, "),
        ("24", "or give its memory: --gpu 24GB$"),
    ],
)
def test_unknown_cards(asked: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_card(asked)


def test_the_cpu_is_planned_in_the_precision_that_was_measured_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    keep_rates(f"{cpu_name()}, 3 threads, {VERSION}, small", {"float32": 4e9, "bfloat16": 8e9})
    keep_rates(f"{cpu_name()}, 3 threads, {VERSION}, large", {"float32": 9e9, "bfloat16": 8e9})
    keep_rates(f"{cpu_name()}, 2 threads, {VERSION}, large", {"float32": 1e9, "bfloat16": 8e12})
    old = {"float32": 1e9, "bfloat16": 9e12}
    keep_rates(f"{cpu_name()}, 3 threads, torch 1.0, oneDNN's float32, large", old)
    keep_rates(f"{cpu_name()}, 3 threads, torch {version('torch')}, large", old)
    card = this_machine("cpu")
    assert (card.itemsize, card.rate) == (4, 9e9)
    keep_rates(f"{cpu_name()}, 3 threads, {VERSION}, larger", {"float32": 1e9, "bfloat16": 2e12})
    card = this_machine("cpu")
    assert (card.itemsize, card.rate) == (2, 2e12)


def test_this_machine_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))  # nothing is kept
    card = this_machine("cpu")
    assert card.rate is not None
    assert 1e8 < card.rate < 1e15  # a matrix product, not nothing and not free
    assert 0 < card.memory < 2**50
