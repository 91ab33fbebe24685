"""Devices by name, and memory with its unit."""

from pathlib import Path

import pytest
import torch

from lasttoken.errors import ConfigError
from lasttoken.model import host_memory
from lasttoken.model.device import (
    choose_device,
    describe_device,
    device_memory,
    free_memory,
    peak_memory,
)
from lasttoken.model.host_memory import CGROUPS, NO_LIMIT, container_memory
from lasttoken.wording import counted


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r"^device: 'cuda' asked for, but torch sees no CUDA device; use --device cpu or auto$"
    ):
        choose_device("cuda")
    with pytest.raises(
        ConfigError, match=r"^device: 'mps' asked for, but torch offers none here; use --device cpu or auto$"
    ):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")


@pytest.mark.parametrize(("rank", "cards", "index"), [("1", 2, 1), ("1", 1, 0), ("5", 4, 1)])
def test_every_process_has_a_card_that_it_sees(
    rank: str, cards: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    assert choose_device("cuda") == torch.device("cuda", index)


def test_other_names_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="device: 'gpu' is not among auto, cpu, cuda, mps; to choose a card, set CUDA_VIS"
    ):
        choose_device("gpu")


@pytest.mark.parametrize("version", [2, 1])
def test_a_container_has_what_its_limit_leaves(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    whole, free = device_memory(cpu), free_memory(cpu)
    assert container_memory() == (NO_LIMIT, 0)
    limit, used = (tmp_path / name for name in CGROUPS[0 if version == 2 else 1])
    limit.parent.mkdir(exist_ok=True)
    limit.write_text("max" if version == 2 else str(NO_LIMIT - 4096))
    used.write_text("3000000")
    used.with_name("memory.stat").write_text("anon 1000000\ninactive_file 1000000\n")
    assert device_memory(cpu) == whole
    limit.write_text("5000000")
    assert device_memory(cpu) == 5_000_000
    assert free_memory(cpu) == 3_000_000 < (free or 0)  # the third million is a cache that gives way


def test_the_cpu_in_words_and_its_memory() -> None:
    assert describe_device(torch.device("cpu")) == f"cpu ({counted(torch.get_num_threads(), 'thread', 'threads')})"
    memory = peak_memory(torch.device("cpu"))
    assert (memory.kind, memory.reserved) == ("resident", None)
    assert 50e6 < memory.bytes < 1e12  # torch alone takes more than the one; no machine has the other
