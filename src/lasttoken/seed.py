"""Seeds by purpose: each use has its own random stream, so a new use never changes the numbers of another."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, purpose: str) -> int:
    """A seed in [0, 2^63) that belongs to (seed, purpose) alone."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The numpy stream of (seed, purpose)."""
    return np.random.default_rng(derive(seed, purpose))
