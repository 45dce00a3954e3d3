"""How near two computations of the same numbers must come: as near as their type lets them.

Adding the same terms in another order gives another rounding. How large it is depends on the
processor, the kernels that torch chooses for it and the number of threads, and it grows with the
terms: float32 has a spacing of 1e-6 at 13 but of 1e-7 at 1. A fixed tolerance such as 1e-6 is
therefore a statement about one machine. This one counts spacings of the type at the size of the
values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SPACINGS = 128
"""How many spacings of their type two orders of the same sums may lie apart.

The largest difference in the tests that use it was 30 spacings and most were below 10, whichever
kernels torch and oneDNN were made to use; a wrong mask, position or weight makes tens of thousands.
"""


def spacings(
    actual: Any, expected: Any, scale: float = 0.0, dtype: torch.dtype | None = None
) -> float:
    """How many spacings of their type `actual` and `expected` lie apart at most.

    Both are tensors, numbers, sequences of numbers, or mappings of one of these. A spacing is
    taken at the largest entry of a tensor or a sequence, and of all tensors of a mapping; the
    numbers of a mapping are measured each by itself. `scale` is the size of the terms where their
    sum may be near 0. `dtype` is the type that the terms were computed in where it is not the
    tensors' own; Python's numbers count as float32.
    """
    if isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        tensors = [value for value in expected.values() if isinstance(value, Tensor)]
        scale = max([scale, *map(_largest, tensors)])
        pairs = [(actual[name], expected[name]) for name in expected]
        return max(spacings(*pair, scale, dtype) for pair in pairs)
    both = (actual, expected)
    left, right = (torch.as_tensor(values, dtype=torch.float64).detach() for values in both)
    assert left.shape == right.shape
    difference, size = _largest(left - right), max(scale, _largest(right))
    if difference == 0:
        return 0.0
    if not math.isfinite(difference) or size == 0:
        return math.inf
    epsilon = max(torch.finfo(dtype or _dtype(values)).eps for values in both)
    return difference / (epsilon * size)


def assert_close_sums(
    actual: Any,
    expected: Any,
    scale: float = 0.0,
    limit: float = SPACINGS,
    dtype: torch.dtype | None = None,
) -> None:
    """Fail unless `actual` is `expected` but for the order in which the terms were added."""
    apart = spacings(actual, expected, scale, dtype)
    assert apart <= limit, f"{apart:.3g} spacings of the type apart; at most {limit} are rounding"


def _dtype(values: Any) -> torch.dtype:
    return values.dtype if isinstance(values, Tensor) else torch.float32


def _largest(tensor: Tensor) -> float:
    return tensor.detach().abs().max().item() if tensor.numel() else 0.0
