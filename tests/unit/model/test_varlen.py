"""Kernels for all texts at once: how they are called, and that a wrong one is not used."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lasttoken.model import varlen
from lasttoken.model.attention import packed_attention
from lasttoken.model.layout import lay_out
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

    monkeypatch.setattr(varlen, "verified_kernel", lambda device, dtype, width, prefix: kernel)
    whole, _ = packed_attention(nn.Identity(), q, k, v, None, layout=layout, sliding_window=window)
    assert calls == [1]
    fresh = lay_out([3, 25, 1, 11], causal=causal, kind="cuda")
    packed_attention(nn.Identity(), q, k, v, None, layout=fresh, sliding_window=window)
    assert "grouped" not in vars(fresh)  # no buckets and masks are made for a kernel
    assert not fresh.masks
    torch.testing.assert_close(whole, blocks, rtol=1e-5, atol=1e-6)  # order of sums


@pytest.mark.parametrize("window", [None, 4])
def test_answers_of_one_branch_behind_a_header_go_by_one_kernel(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (states(23, heads, seed).requires_grad_() for seed, heads in enumerate((4, 2, 2)))
    chain = np.tril(np.ones((2, 2), dtype=bool))
    layout = lay_out([9, 1, 8], prefix=5, trees=[chain, None, chain], kind="cuda")
    assert layout.sequences is not None

    def run() -> list[Tensor]:
        out, _ = packed_attention(nn.Identity(), q, k, v, None, layout=layout, sliding_window=window)
        return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]

    blocks = run()
    monkeypatch.setattr(varlen, "serves", lambda kind, dtype, width: True)
    monkeypatch.setattr(varlen, "verified_kernel", lambda device, dtype, width, prefix: reference_attention)
    for whole, wanted in zip(run(), blocks, strict=True):
        torch.testing.assert_close(whole, wanted, rtol=1e-5, atol=1e-5)  # order of sums


def test_what_kernels_do_not_know_goes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(device: torch.device, dtype: torch.dtype, width: int, prefix: bool) -> None:
        raise AssertionError("asked for a kernel")

    monkeypatch.setattr(varlen, "verified_kernel", never)
    q, module = states(8, 2, 0), nn.Identity().train()
    packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"))  # a CPU
    monkeypatch.setattr(varlen, "serves", lambda kind, dtype, width: True)
    with pytest.raises(AssertionError, match="asked"):
        packed_attention(module, q, q, q, None, layout=lay_out([8], kind="cuda"))
    with pytest.raises(AssertionError, match="asked"):
        packed_attention(module, q, q, q, None, layout=lay_out([6], prefix=2, kind="cuda"))
    held = {module: (torch.zeros(2, 16), torch.zeros(2, 16))}
    packed_attention(module, q, q, q, None, layout=lay_out([8], prefix=2, cached=held, kind="cuda"))
    assert attend_varlen(q, q, states(8, 2, 1)[..., :4], lay_out([8]).sequences, scale=1.0, window=None) is None
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
    monkeypatch.setattr(varlen, "verified_kernel", lambda device, dtype, width, prefix: None)
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


def early(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, scale: float, sides: tuple[int, int]) -> Tensor:
    """Queries taken for the first of their keys, not the last: right only where both are as many."""
    cu, cu_keys, _, _ = sequences.bounds
    kept = [torch.arange(a, a + d - c) for (a, _), (c, d) in zip(pairs(cu_keys), pairs(cu), strict=True)]
    same = replace(sequences, keys=None, cu_keys=None)
    return reference_attention(q, k[torch.cat(kept)], v[torch.cat(kept)], same, scale=scale, sides=sides)


def pairs(bounds: Tensor) -> list[tuple[int, int]]:
    return list(pairwise(bounds.tolist()))


def broken(*args: Any, **kwargs: Any) -> Tensor:
    raise NotImplementedError("not for this device")


def test_a_kernel_has_to_be_right_to_be_used() -> None:
    assert agrees(reference_attention, CPU)
    assert agrees(reference_attention, CPU, prefix=True)
    with torch.inference_mode():
        assert agrees(reference_attention, CPU)
    assert [agrees(kernel, CPU) for kernel in (further, leaking, detached, broken)] == [False] * 4
    assert (agrees(early, CPU), agrees(early, CPU, prefix=True)) == (True, False)


def test_nothing_is_proven_on_a_cpu() -> None:
    assert varlen.verified_kernel(CPU, torch.bfloat16, 64) is None
