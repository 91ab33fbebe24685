"""Arrays on disk: filled once, read as any safetensors file, made anew when damaged, in memory when the disk is full."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lasttoken.errors import ConfigError
from lasttoken.infer.disk_cache import ABANDONED, HEADER, cached_array


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Fill:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, array: np.ndarray) -> None:
        self.calls += 1
        array[:] = np.arange(array.size).reshape(array.shape)


def test_what_was_used_least_recently_makes_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = HEADER + 4 * 1000
    monkeypatch.setenv("LASTTOKEN_CACHE_GB", str(2.5 * size / 1e9))
    fill = Fill()
    for age, name in ((30, "a"), (20, "b")):
        cached_array(name, (1000,), "F32", fill)
        then = time.time() - age
        os.utime(cache / f"features-{name}.safetensors", (then, then))
    cached_array("a", (1000,), "F32", fill)  # used again
    (cache / "left.1.part").touch()
    (cache / "old.2.part").touch()
    os.utime(cache / "old.2.part", (0, time.time() - ABANDONED - 60))
    cached_array("c", (1000,), "F32", fill)
    assert sorted(path.name for path in cache.iterdir()) == [
        "features-a.safetensors",
        "features-c.safetensors",
        "left.1.part",
    ]
    monkeypatch.setenv("LASTTOKEN_CACHE_GB", "0")
    kept = cached_array("d", (1000,), "F32", fill)
    assert [path.name for path in cache.glob("*.safetensors")] == ["features-d.safetensors"]  # the newest stays
    assert kept.array[999] == 999


def test_a_limit_that_is_no_number_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTTOKEN_CACHE_GB", "much")
    fill = Fill()
    with pytest.raises(ConfigError, match="LASTTOKEN_CACHE_GB: 'much' is not a number of gigabytes"):
        cached_array("abc", (2, 3), "F32", fill)
    assert fill.calls == 0


def test_filled_once_then_read_from_the_cache(cache: Path) -> None:
    fill = Fill()
    first = cached_array("abc", (2, 3), "F32", fill)
    again = cached_array("abc", (2, 3), "F32", fill)
    assert fill.calls == 1
    assert first.origin == ""
    assert again.origin == f"features from the cache ({cache / 'features-abc.safetensors'})"
    assert again.array.tolist() == first.array.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert again.seconds == pytest.approx(first.seconds, abs=0.001)  # kept to the millisecond


def test_the_file_is_a_safetensors_file(cache: Path) -> None:
    cached_array("abc", (2, 3), "F32", Fill())
    assert load_file(cache / "features-abc.safetensors")["array"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert [path.name for path in cache.iterdir()] == ["features-abc.safetensors"]


def test_bfloat16_is_kept_as_its_bits(cache: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch

    values = torch.tensor([1.5, -2.0, 3e38], dtype=torch.bfloat16)
    cached_array("abc", (3,), "BF16", lambda array: np.copyto(array, values.view(torch.uint16).numpy()), what="states")
    assert torch.equal(load_torch(cache / "states-abc.safetensors")["array"], values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: b"x" * HEADER + raw[HEADER:],
        lambda raw: b"",
        lambda raw: raw[:8] + b"[]".ljust(HEADER - 8) + raw[HEADER:],  # JSON, and no table
        lambda raw: raw[:8] + b'{"array": null}'.ljust(HEADER - 8) + raw[HEADER:],
    ],
)
def test_a_damaged_file_is_made_anew(cache: Path, damage) -> None:
    fill = Fill()
    cached_array("abc", (2, 3), "F32", fill)
    path = cache / "features-abc.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert cached_array("abc", (2, 3), "F32", fill).array.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert fill.calls == 2


def test_a_full_disk_keeps_the_array_in_memory_and_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    found = cached_array("abc", (2, 2), "F32", Fill())
    assert found.array.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert found.origin == (
        f"features are not cached in {cache} ([Errno 28] No space left on device); the next fit computes them again"
    )
    assert list(cache.iterdir()) == []


def test_what_fails_while_filling_leaves_nothing(cache: Path) -> None:
    def fail(array: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_array("abc", (2, 2), "F32", fail)
    assert list(cache.iterdir()) == []


def test_an_array_without_rows() -> None:
    assert cached_array("none", (3, 0, 4), "F32", Fill()).array.shape == (3, 0, 4)
