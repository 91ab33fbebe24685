"""Equal up to rounding, for tests that run in float32 and in bfloat16."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# A matrix product of bfloat16 values is rounded to eps / 2. Results go through some twenty products and sums, whose
# errors add up as a random walk does: sqrt(20) * eps / 2, on both sides of a comparison, hence 3 eps; the random
# models' large weights (tiny.write_model) enlarge that about twice.
ROUNDINGS = 6


def equal_but_for_rounding(
    found: Tensor | np.ndarray | list,
    wanted: Tensor | np.ndarray | list,
    dtype: torch.dtype,
    *,
    rtol: float,
    atol: float,
) -> None:
    """Asserts that two arrays computed in `dtype` are equal.

    In float32 element by element, to rtol and atol. In bfloat16 to ROUNDINGS * eps of the size (norm) of `wanted`:
    a single element may be the small difference of large ones, which says nothing of its own rounding.
    """
    found, wanted = (torch.as_tensor(values).detach().double() for values in (found, wanted))
    assert found.shape == wanted.shape
    if dtype == torch.float32:
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)
    else:
        bound = ROUNDINGS * torch.finfo(dtype).eps
        missing = float((found - wanted).norm() / wanted.norm())
        assert missing <= bound, f"differs by {missing:.4f} of its size, more than the {bound:.4f} that {dtype} rounds"
