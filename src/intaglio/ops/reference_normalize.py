"""The oracle of normalization, softmax and interpolation, in plain torch (docs/numerics.md).

May import the oracles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio.ops.reference import fma32
from intaglio.ops.reference_elementwise import encode

__all__ = ["Place", "group_norm", "layer_norm", "resize", "softmax"]

Place = tuple[Tensor, Tensor, Tensor]
"""Along one axis: positions of both neighbours of each output, and the weight of the second."""


def _gain_and_shift(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Of each row of `(rows, count)`: `(rows, 1)` float32 both."""
    steps = x.to(torch.int64)
    count, total, square = x.shape[1], steps.sum(1, keepdim=True), (steps * steps).sum(1, keepdim=True)
    variance = (count * square - total * total).double() + float(count) * float(count) * epsilon
    inverse = torch.where(variance > 0, 1.0 / torch.sqrt(variance), 0.0)
    return (float(count) * inverse).float(), (-total.double() * inverse).float()


def layer_norm(
    x: Tensor,
    axes: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """Slices along the last `axes` axes: `encode(fma(fma(float(a), gain, shift), multiplier, offset))`."""
    rows = x.flatten(x.dim() - axes).reshape(-1, multiplier.numel())
    normal = fma32(rows.float(), *_gain_and_shift(rows, epsilon))
    return encode(fma32(normal, multiplier, offset), zero_point, lower, upper).reshape(x.shape)


def group_norm(
    x: Tensor,
    groups: int,
    multiplier: Tensor,
    offset: Tensor,
    epsilon: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """The same for groups of the channels of `(N, C, *size)`, with `(C,)` multiplier and offset."""
    batch, channels = x.shape[:2]
    rows = x.reshape(batch * groups, -1)
    normal = fma32(rows.float(), *_gain_and_shift(rows, epsilon)).reshape(batch, channels, -1)
    y = fma32(normal, multiplier[:, None], offset[:, None])
    return encode(y, zero_point, lower, upper).reshape(x.shape)


def softmax(
    x: Tensor, table: Tensor, scale: float, zero_point: int = 0, lower: int = 0, upper: int = 255
) -> Tensor:
    """Over the last axis: `encode(float(t) * (1 / (sum of t * scale)))` of the entries `t` of the table."""
    steps = x.to(torch.int64)
    entries = table[steps.amax(-1, keepdim=True) - steps].to(torch.int64)
    inverse = (1.0 / (entries.sum(-1, keepdim=True).double() * scale)).float()
    return encode(entries.float() * inverse, zero_point, lower, upper)


def resize(x: Tensor, places: Sequence[Place], blend: bool, lower: int = 0, upper: int = 255) -> Tensor:
    """Interpolate `(N, C, *size)`: rows, planes, then columns; copies of first neighbours if not `blend`."""
    if not blend:
        for axis, (first, _, _) in enumerate(places):
            x = x.index_select(axis + 2, first)
        return x
    y = x.float()
    for axis in {1: (0,), 2: (0, 1), 3: (1, 0, 2)}[len(places)]:
        first, second, weight = places[axis]
        left, right = y.index_select(axis + 2, first), y.index_select(axis + 2, second)
        shape = [1] * x.dim()
        shape[axis + 2] = -1
        y = fma32(right - left, weight.reshape(shape), left)
    return encode(y, 0, lower, upper)
