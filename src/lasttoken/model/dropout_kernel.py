"""A Triton kernel that drops elements by a hash of their place and a seed: one pass, no mask.

Imported only where Triton is there; model/dropout.py holds the same in torch, and compares the two before it is used.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a program


@triton.jit
def drop_elements(x: Any, out: Any, count: Any, seed: Any, threshold: Any, size: tl.constexpr) -> None:
    """out[i] = x[i] if byte 3 of hash(i, seed) is at least the threshold, else 0."""
    place = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = place < count
    bits = place.to(tl.uint32) ^ seed.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x21F0AAAD  # FIRST and SECOND of model/dropout.py
    bits = (bits ^ (bits >> 15)) * 0xD35A2D97
    bits = bits ^ (bits >> 15)
    values = tl.load(x + place, mask=inside)
    tl.store(out + place, tl.where((bits >> 24) >= threshold, values, 0.0), mask=inside)


def dropped(x: Tensor, seed: int, threshold: int) -> Tensor:
    """x, of any shape, 0 where an element is dropped."""
    x = x.contiguous()
    out = torch.empty_like(x)
    programs: Any = drop_elements[(triton.cdiv(x.numel(), BLOCK),)]
    programs(x, out, x.numel(), seed, threshold, size=BLOCK)
    return out
