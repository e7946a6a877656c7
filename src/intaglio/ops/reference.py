"""The oracle: what every kernel must compute, bit for bit, in plain torch.

Slow and plain on purpose. Integer products are summed exactly in float64 or int64; the float32 part
repeats docs/numerics.md operation by operation, with `fma32` rounding once as the hardware does.
May import qparams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.qparams import SMALLEST_RANGE

__all__ = [
    "clamp_activation",
    "epilogue",
    "fma32",
    "linear_dynamic",
    "linear_half",
    "matmul_exact",
    "quantize_rows",
    "requantize",
    "row_params",
]


def fma32(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a * b + c` in float32 with a single rounding, as IEEE 754's fusedMultiplyAdd.

    The product of two float32 is exact in float64. The sum is rounded to odd there (the last bit is set
    when anything was lost), which makes the final rounding to float32 the only one that counts
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    inexact = torch.isfinite(total) & (lost != 0)
    bits = total.view(torch.int64)
    # Towards the true sum, if that lies below in magnitude, before the last bit is set.
    beyond = (lost > 0) != (total > 0)
    odd = torch.where(beyond, bits - 1, bits) | 1
    even = (bits & 1) == 0
    return torch.where(inexact & even, odd, bits).view(torch.float64).float()


def row_params(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`scale`, `inverse_scale` (float32) and `zero_point` (int32) of ranges `low <= 0 <= high`.

    A NaN range gives scale NaN, inverse 0 and zero point 0.
    """
    span = high - low
    finite = torch.isfinite(span)
    span = torch.clamp(torch.where(finite, span, torch.ones_like(span)), min=SMALLEST_RANGE)
    inverse = (
        torch.full_like(span, 255.0) / span
    )  # `255.0 / span` would round twice: torch multiplies by 1 / span
    zero_point = torch.where(finite, torch.round(-low * inverse), torch.zeros_like(low)).to(torch.int32)
    scale = torch.where(finite, span / 255.0, torch.full_like(span, torch.nan))
    return scale, torch.where(finite, inverse, torch.zeros_like(inverse)), zero_point


def quantize_rows(x: Tensor, *, per_row: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamic quantization of `(M, K)` float32 to uint8.

    Returns `q` `(M, K)` uint8, `scale` `(M,)` float32 and `zero_point` `(M,)` int32; with
    `per_row=False` one range serves all rows.
    """
    rows = x if per_row else x.reshape(1, -1)
    zero = torch.zeros(rows.shape[0], 1)
    padded = torch.cat([rows, zero], 1)
    finite = torch.isfinite(rows).all(1)
    nan = torch.full_like(zero[:, 0], torch.nan)
    low = torch.where(finite, padded.amin(1), nan)
    high = torch.where(finite, padded.amax(1), nan)
    scale, inverse, zero_point = (p.expand(x.shape[0]) for p in row_params(low, high))
    steps = torch.round(x * inverse[:, None]) + zero_point[:, None]
    q = torch.where(inverse[:, None] == 0, torch.zeros_like(x), torch.clamp(steps, 0, 255))
    return q.to(torch.uint8), scale, zero_point


def matmul_exact(a: Tensor, w: Tensor) -> Tensor:
    """`a @ w.T` of integers `(M, K)` and `(N, K)`, exact, as int32 (wrapping is the caller's error)."""
    return (a.double() @ w.double().T).to(torch.int64).to(torch.int32)


def clamp_activation(y: Tensor, lower: float, upper: float) -> Tensor:
    """`min(max(y, lower), upper)`; NaN stays NaN."""
    return torch.clamp(y, lower, upper)


def epilogue(acc: Tensor, row_scale: Tensor, weight_scale: Tensor, base: Tensor) -> Tensor:
    """`fma(float(acc), row_scale * weight_scale, base)`: `(M, N)` from `(M, N)`, `(M,)`, `(N,)`."""
    return fma32(acc.float(), row_scale[:, None] * weight_scale[None, :], base)


def requantize(y: Tensor, inverse_scale: float, zero_point: int) -> Tensor:
    """`clamp(round(y * inverse_scale) + zero_point, 0, 255)` as uint8; NaN gives 0."""
    t = torch.clamp(y * torch.tensor(inverse_scale, dtype=torch.float32), -(2.0**20), 2.0**20).round()
    return torch.nan_to_num(torch.clamp(t + zero_point, 0, 255), nan=0.0).to(torch.uint8)


def linear_dynamic(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    per_row: bool = True,
    lower: float = -torch.inf,
    upper: float = torch.inf,
) -> Tensor:
    """Dynamic quantized Linear: `(M, K)` float32 by `(N, K)` int8 to `(M, N)` float32."""
    q, scale, zero_point = quantize_rows(x, per_row=per_row)
    acc = matmul_exact(q.to(torch.int32) - zero_point[:, None], weight)
    base = torch.zeros(weight.shape[0]) if bias is None else bias
    return clamp_activation(epilogue(acc, scale, weight_scale, base[None, :]), lower, upper)


def linear_half(x: Tensor, weight: Tensor, base: Tensor | None = None) -> Tensor:
    """Linear of `(M, K)` float32 by `(N, K)` float16 to `(M, N)` float32: a chain of fma from `base`.

    `base` is the bias `(N,)`, an addend `(M, N)`, or None for zeros.
    """
    y = torch.zeros(()) if base is None else base
    y = y.expand(x.shape[0], weight.shape[0])
    for k in range(x.shape[1]):
        y = fma32(x[:, k, None], weight[None, :, k].float(), y)
    return y
