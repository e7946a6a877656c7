"""The oracle of what stands around a Program's products in float32: softmax, means, unit rows.

"Float operations of a Program" of docs/numerics.md, step by step. May import reference_rnn, reference_rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.ops.reference_rnn import exp2
from intaglio.ops.reference_rows import at_least, sum_rows

__all__ = ["mean_rows", "softmax", "unit_rows"]

LOG2E = float.fromhex("0x1.715476p+0")


def softmax(x: Tensor) -> Tensor:
    """Softmax of the rows of `(M, N)`."""
    t = x * torch.tensor(LOG2E)
    most = t.amax(1, keepdim=True)
    e = exp2(at_least(t - torch.where(most == -torch.inf, torch.zeros(()), most), -127.0))
    return e * (1.0 / sum_rows(e))[:, None]


def mean_rows(x: Tensor) -> Tensor:
    """`(B, T, C)` to `(B, C)`: the sum in the order of T, divided."""
    total = x[:, 0]
    for t in range(1, x.shape[1]):
        total = total + x[:, t]
    return total / torch.tensor(float(x.shape[1]))


def unit_rows(x: Tensor, epsilon: float) -> Tensor:
    """The rows of `(M, N)` divided by their lengths."""
    length = (
        sum_rows(x, squares=True).double().sqrt().float()
    )  # torch's float32 square root may be off by one
    return x / at_least(length, epsilon)[:, None]
