"""LoRA's dropout: the inputs that it keeps are a stored mask, or on a GPU a hash of their place and a seed.

With the hash nothing is stored and one kernel does it all (model/dropout_kernel.py); it needs Triton, which comes with
torch for CUDA. Without that file, or where its kernel gives other bits than `keep_by_hash`, the mask is stored.
"""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 256  # dropout rates are multiples of 1 / 256, drawn as random bytes
FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97  # lowbias32 of Wellons 2018 (hash-prospector), second edition
FAILURES = (ImportError, OSError, subprocess.SubprocessError, RuntimeError, ValueError, TypeError, AttributeError)


def draw(shape: torch.Size, threshold: int, device: torch.device) -> Tensor:
    """What dropout keeps of an input: uint8 of `shape`, 1 where kept; or the seed of a hash, () int64 on the CPU.

    threshold: the share that is dropped, in STEPS.
    """
    if device.type == "cuda" and not torch.compiler.is_compiling() and works(device):
        return torch.randint(2**31, ())  # of the CPU's generator: no wait for the device
    return keep_mask(shape, threshold, device)


def drop(x: Tensor, kept: Tensor | None, threshold: int) -> Tensor:
    """x (T, in), 0 where an element is dropped; not scaled. kept: from `draw`, None to drop nothing."""
    if kept is None:
        return x
    return x * kept if kept.ndim else kernel()(x, int(kept), threshold)


def keep_mask(shape: torch.Size, threshold: int, device: torch.device) -> Tensor:
    """Dropout mask: 1 for kept elements, 0 for the share threshold / 256 that is dropped.

    uint8, because a product with bool takes three times as long on a CPU.
    One random byte per element. On a CPU eight bytes come from one 64-bit draw, because drawing dominates the time.
    """
    if device.type != "cpu":
        return (torch.randint(STEPS, shape, dtype=torch.uint8, device=device) >= threshold).view(torch.uint8)
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = words.numpy().view(np.uint8)[: shape.numel()] >= threshold  # numpy compares bytes ten times as fast as torch
    return torch.from_numpy(kept.view(np.uint8)).view(shape)


def keep_by_hash(count: int, seed: int, threshold: int) -> Tensor:
    """What the kernel keeps of `count` elements, (count,) bool, by torch on a CPU.

    Element i is kept if the highest byte of hash(i, seed) is at least the threshold.
    """
    bits = (torch.arange(count) % 2**32) ^ seed
    bits = ((bits ^ (bits >> 16)) * FIRST) % 2**32
    bits = ((bits ^ (bits >> 15)) * SECOND) % 2**32
    return ((bits ^ (bits >> 15)) >> 24) >= threshold


@cache
def kernel() -> Any:
    """The function of model/dropout_kernel.py. Raises ImportError without Triton."""
    from lasttoken.model.dropout_kernel import dropped

    return dropped


@cache
def works(device: torch.device) -> bool:
    """Whether the kernel runs on this device and drops what `keep_by_hash` says; asked once per process."""
    x = torch.arange(1, 10_001, dtype=torch.float32)
    wanted = x * keep_by_hash(len(x), 2**30 + 7, 26)
    try:
        return torch.equal(kernel()(x.to(device), 2**30 + 7, 26).cpu(), wanted)
    except FAILURES:  # no Triton, no compiler, a card that is too old
        return False
