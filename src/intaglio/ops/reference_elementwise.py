"""The oracle of layouts and elementwise arithmetic, in plain torch (docs/numerics.md, "Static quantization").

May import reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dequantize_image", "encode", "quantize_image"]


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
