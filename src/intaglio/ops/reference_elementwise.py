"""The oracle of layouts and elementwise arithmetic, in plain torch (docs/numerics.md, "Static quantization").

May import reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.ops.reference import fma32

__all__ = ["add", "dequantize_image", "encode", "matmul", "mul", "quantize_image", "requantize"]


def encode(y: Tensor, zero_point: int, lower: int = 0, upper: int = 255) -> Tensor:
    """`clamp(round(clamp(y, -2^20, 2^20)) + zero_point, lower, upper)` as uint8; NaN gives `lower`."""
    q = torch.clamp(torch.clamp(y, -(2.0**20), 2.0**20).round() + zero_point, lower, upper)
    return torch.nan_to_num(q, nan=float(lower)).to(torch.uint8)


def quantize_image(x: Tensor, scale: float, zero_point: int, lower: int = 0, upper: int = 255) -> Tensor:
    """Section 2 of docs/numerics.md, with limits."""
    return encode(x * (1.0 / torch.tensor(scale, dtype=torch.float32)), zero_point, lower, upper)


def dequantize_image(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """`(q - zero_point) * scale`."""
    return (q.to(torch.int32) - zero_point).float() * torch.tensor(scale, dtype=torch.float32)


def requantize(
    x: Tensor,
    scale_in: float,
    zero_point_in: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`encode(float(x - zero_point_in) * (scale_in / scale))`."""
    steps = x.to(torch.int64) - zero_point_in
    return encode(steps.float() * _factor(scale_in / scale), zero_point, lower, upper)


def add(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`encode(fma(float(a - zero_point_a), factor_a, float(b - zero_point_b) * factor_b))`."""
    x = (a.to(torch.int32) - zero_point_a).float()
    y = (b.to(torch.int32) - zero_point_b).float()
    total = fma32(x, _factor(scale_a / scale), y * _factor(scale_b / scale))
    return encode(total, zero_point, lower, upper)


def mul(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`encode(float((a - zero_point_a) * (b - zero_point_b)) * (scale_a * scale_b / scale))`."""
    product = (a.to(torch.int32) - zero_point_a) * (b.to(torch.int32) - zero_point_b)
    return encode(product.float() * _factor(scale_a * scale_b / scale), zero_point, lower, upper)


def matmul(
    a: Tensor,
    b: Tensor,
    scale_a: float,
    zero_point_a: int,
    scale_b: float,
    zero_point_b: int,
    scale: float,
    zero_point: int,
    lower: int = 0,
    upper: int = 255,
) -> Tensor:
    """`encode(float(acc) * (scale_a * scale_b / scale))`, `acc` the exact product of the steps."""
    acc = torch.matmul(a.double() - zero_point_a, b.double() - zero_point_b)
    return encode(acc.float() * _factor(scale_a * scale_b / scale), zero_point, lower, upper)


def _factor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
