"""Counts what torch does inside a `with`: bytes that are alive and were at most, operations, and their arithmetic.

It sees every operation by its result, the backward pass among them.
A view shares its storage and is counted once; a storage is gone when the last tensor on it is.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """A context; read its attributes at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0  # bytes of all storages that were made inside and are alive
        self.peak = 0  # the largest `now` since the last `mark`
        self.flops = 0  # of matrix products, a multiplication and an addition counted as two
        self.operations = 0
        self._alive: dict[int, int] = {}  # storage -> bytes

    def mark(self) -> None:
        """Begin anew to look for a peak, and to count operations."""
        self.peak, self.flops, self.operations = self.now, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in found:
            self._see(tensor)
        if not func.is_view:
            self.operations += 1
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        elif func.name() == "bitsandbytes::gemm_4bit":
            self.flops += 2 * found[0].numel() * args[0].shape[-1]
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += self._alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key)
