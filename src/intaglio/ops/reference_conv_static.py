"""The oracle of the static convolution and Linear: what the kernels must compute, bit for bit.

The integers are exact in float64, so torch's own convolution sums them. May import reference and
reference_conv.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intaglio.ops.reference import fma32, matmul_exact
from intaglio.ops.reference_conv import convolve_exact

__all__ = ["conv_static", "linear_static", "requantize_sums"]


def requantize_sums(
    acc: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
    *,
    residual: Tensor | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
) -> Tensor:
    """uint8 of exact sums `(..., O)`; `multiplier` and `offset` are `(O,)` float32, `residual` `(..., O)`."""
    y = fma32(acc.float(), multiplier, offset)
    if residual is not None:
        factor = torch.tensor(residual_multiplier, dtype=torch.float32)
        y = fma32(residual.float() - residual_zero_point, factor, y)
    steps = torch.clamp(y, -(2.0**20), 2.0**20).round() + zero_point
    return torch.clamp(steps, lower, upper).to(torch.uint8)


def conv_static(
    x: Tensor,
    zero_point_in: int,
    weight: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
    *,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: Sequence[int] = (),
    residual: Tensor | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
) -> Tensor:
    """Static quantized convolution of `(N, C, *size)` uint8; the geometry as in `reference_conv`."""
    acc = convolve_exact(
        x.double() - zero_point_in,
        weight,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        transposed=transposed,
        output_padding=output_padding,
    )
    rows = requantize_sums(
        acc.movedim(1, -1),
        multiplier,
        offset,
        zero_point,
        lower,
        upper,
        residual=None if residual is None else residual.movedim(1, -1),
        residual_zero_point=residual_zero_point,
        residual_multiplier=residual_multiplier,
    )
    return rows.movedim(-1, 1)


def linear_static(
    x: Tensor,
    zero_point_in: int,
    weight: Tensor,
    multiplier: Tensor,
    offset: Tensor,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
    *,
    residual: Tensor | None = None,
    residual_zero_point: int = 0,
    residual_multiplier: float = 0.0,
) -> Tensor:
    """Static quantized Linear: `(..., K)` uint8 by `(N, K)` int8 to `(..., N)` uint8."""
    rows = x.reshape(-1, x.shape[-1]).to(torch.int32) - zero_point_in
    acc = matmul_exact(rows, weight).view(*x.shape[:-1], len(weight))
    return requantize_sums(
        acc,
        multiplier,
        offset,
        zero_point,
        lower,
        upper,
        residual=residual,
        residual_zero_point=residual_zero_point,
        residual_multiplier=residual_multiplier,
    )
