"""Devices by name, and memory with its unit."""

import pytest
import torch

from lasttoken.errors import ConfigError
from lasttoken.model.device import choose_device, describe_device, peak_memory
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


def test_every_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == torch.device("cuda", 3)


def test_the_cpu_in_words_and_its_memory() -> None:
    assert describe_device(torch.device("cpu")) == f"cpu ({counted(torch.get_num_threads(), 'thread', 'threads')})"
    memory = peak_memory(torch.device("cpu"))
    assert (memory["kind"], memory["reserved"]) == ("resident", None)
    assert 50e6 < memory["bytes"] < 1e12  # torch alone takes more than the one; no machine has the other
