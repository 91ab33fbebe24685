"""Kernels for all texts at once: how they are called, and that a wrong one is not used."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lasttoken.model import varlen
from lasttoken.model.attention import lay_out, packed_attention
from lasttoken.model.varlen import Sequences, agrees, attend_varlen, reference_attention, serves

CPU = torch.device("cpu")


def states(tokens: int, heads: int, seed: int) -> Tensor:
    return torch.randn(1, heads, tokens, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 4])
def test_a_packed_row_by_one_kernel_is_what_blocks_give(
    causal: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = states(40, 4, 0), states(40, 2, 1), states(40, 2, 2)
    layout = lay_out([3, 25, 1, 11], causal=causal, kind="cuda")  # without filler
    blocks, _ = packed_attention(nn.Identity(), q, k, v, None, layout=layout, sliding_window=window)
    monkeypatch.setattr(varlen, "serves", lambda kind, dtype, width: True)
    calls: list[int] = []

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return reference_attention(*args, **kwargs)

    monkeypatch.setattr(varlen, "verified_kernel", lambda device, dtype, width: kernel)
    whole, _ = packed_attention(nn.Identity(), q, k, v, None, layout=layout, sliding_window=window)
    assert calls == [1]
    torch.testing.assert_close(whole, blocks, rtol=1e-5, atol=1e-6)  # order of sums


def test_what_kernels_do_not_know_goes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(device: torch.device, dtype: torch.dtype, width: int) -> None:
        raise AssertionError("asked for a kernel")

    monkeypatch.setattr(varlen, "verified_kernel", never)
    q, module = states(8, 2, 0), nn.Identity().train()
    packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"))  # a CPU
    monkeypatch.setattr(varlen, "serves", lambda kind, dtype, width: True)
    with pytest.raises(AssertionError, match="asked"):
        packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"))
    packed_attention(module, q, q, q, None, layout=lay_out([6], prefix=2, kind="cuda"))
    packed_attention(module, q, q, q, None, layout=lay_out([8], trees=[np.eye(2, dtype=bool)], kind="cuda"))
    packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"), dropout=0.1)
    packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"), softcap=30.0)


def test_where_kernels_serve() -> None:
    assert serves("cuda", torch.bfloat16, 64)
    assert serves("cuda", torch.float16, 256)
    assert not serves("cpu", torch.bfloat16, 64)
    assert not serves("cuda", torch.float32, 64)
    assert not serves("cuda", torch.bfloat16, 264)
    assert not serves("cuda", torch.bfloat16, 60)


def test_without_a_kernel_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "serves", lambda kind, dtype, width: True)
    monkeypatch.setattr(varlen, "verified_kernel", lambda device, dtype, width: None)
    q = states(8, 2, 0)
    assert attend_varlen(q, q, q, lay_out([8]).sequences, scale=1.0, window=None) is None


def further(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]) -> Tensor:
    """Off by one in its window."""
    return reference_attention(q, k, v, sequences, scale=scale, sides=(sides[0] + (sides[0] > 0), sides[1]))


def leaking(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]) -> Tensor:
    """Texts that see each other."""
    cu_seqlens = sequences.cu_seqlens[[0, -1]]
    return reference_attention(q, k, v, replace(sequences, cu_seqlens=cu_seqlens), scale=scale, sides=sides)


def detached(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]) -> Tensor:
    """No gradient to its keys."""
    return reference_attention(q, k.detach(), v, sequences, scale=scale, sides=sides)


def broken(*args: Any, **kwargs: Any) -> Tensor:
    raise NotImplementedError("not for this device")


def test_a_kernel_has_to_be_right_to_be_used() -> None:
    assert agrees(reference_attention, CPU)
    with torch.inference_mode():
        assert agrees(reference_attention, CPU)
    assert [agrees(kernel, CPU) for kernel in (further, leaking, detached, broken)] == [False] * 4


def test_nothing_is_proven_on_a_cpu() -> None:
    assert varlen.verified_kernel(CPU, torch.bfloat16, 64) is None
