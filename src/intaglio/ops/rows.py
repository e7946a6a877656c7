"""Rows and columns of a tensor of any number of dimensions, for ops that treat its last one.

May import nothing from the package.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

__all__ = ["allocate_rows"]

_empty = torch.empty
_float32 = torch.float32


def allocate_rows(x: Tensor, width: int) -> tuple[Tensor, int, int]:
    """A new float32 `(..., width)` for an `x` of `(..., K)`, the number of rows, and K.

    Sizes are spelled out where they are few: `torch.empty(*sizes)` takes twice as long. A 0-dim `x` raises
    `ValueError`.
    """
    shape = x.shape
    if len(shape) == 2:
        rows, k = shape
        return _empty(rows, width, dtype=_float32), rows, k
    if len(shape) == 3:
        outer, inner, k = shape
        return _empty(outer, inner, width, dtype=_float32), outer * inner, k
    *sizes, k = shape
    return _empty(*sizes, width, dtype=_float32), prod(sizes), k
