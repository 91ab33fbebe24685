"""Randomness by purpose: every use has a stream of its own, so that a new use never moves the numbers of an old one."""

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
