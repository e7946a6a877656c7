"""Fake quantization in plain torch, for any device: what the kernels compute, bit for bit.

`y = (clamp(round(v * (1 / scale)) + zero_point, quant_min, quant_max) - zero_point) * scale` with
`v = clamp(x, low, high)`, in float32: what `qparams.quantize` and `dequantize` compute one after the other,
but for NaN, which stays NaN so that training shows it. No function here waits for a device or branches on
data, so that `torch.compile` can take them in. May import qparams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.qparams import SMALLEST_RANGE

__all__ = [
    "fake_quantize",
    "learned_gradients",
    "moved_range",
    "range_parameters",
    "symmetric_scale",
]


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    low: float = -torch.inf,
    high: float = torch.inf,
) -> tuple[Tensor, Tensor]:
    """The rounded values, float32, and where the gradient passes, bool; both in the shape of `x`.

    `scale` and `zero_point` stand beside `x` by broadcasting. The gradient passes where the integer lies in
    its limits before it is clamped (Jacob et al., arXiv:1712.05877) and `x` strictly between `low` and
    `high`, the limits of an activation.
    """
    v = torch.clamp(x, low, high)
    q = torch.round(v * (1.0 / scale)) + zero_point.to(torch.float32)
    inside = ~(q < quant_min) & ~(q > quant_max) & ~(x <= low) & ~(x >= high)
    y = (torch.clamp(q, quant_min, quant_max) - zero_point.to(torch.float32)) * scale
    return y, inside


def moved_range(
    x: Tensor, min_val: Tensor, max_val: Tensor, averaging_constant: float, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The moving average of the extremes of `clamp(x, low, high)`, `()` each.

    The first tensor's own extremes where nothing was seen before (inf and -inf), and what was held where
    the extremes of `x` are not finite or `x` is empty.
    """
    if x.numel() == 0:
        return min_val, max_val
    found = torch.aminmax(torch.clamp(x, low, high))
    is_finite = torch.isfinite(found.max - found.min)
    unseen = min_val > max_val
    moved = []
    for held, value in ((min_val, found.min), (max_val, found.max)):
        average = held + averaging_constant * (value - held)
        moved.append(torch.where(is_finite, torch.where(unseen, value, average), held))
    return moved[0], moved[1]


def range_parameters(
    min_val: Tensor, max_val: Tensor, quant_min: int, quant_max: int, eps: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scale and zero point, float32 and int32, of an affine range: as `qparams.choose_qparams`.

    Of a range that is unseen, 1 and `quant_min`, or 0 where that is within the limits.
    """
    steps = quant_max - quant_min
    unseen = min_val > max_val
    low = torch.clamp(torch.where(unseen, 0.0, min_val), max=0.0)
    high = torch.clamp(torch.where(unseen, float(steps), max_val), min=0.0)
    span = torch.clamp(high - low, min=max(SMALLEST_RANGE, eps * steps))
    zero_point = quant_min + torch.round(-low * (torch.full_like(span, steps) / span)).to(torch.int32)
    return span / steps, zero_point


def symmetric_scale(reach: Tensor, most: int, eps: float = 0.0) -> Tensor:
    """The scale at which `reach`, the largest magnitude, is the integer `most`; float32."""
    return torch.clamp(reach, min=max(SMALLEST_RANGE, eps * most)) / most


def learned_gradients(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    low: float = -torch.inf,
    high: float = torch.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `x`, of `scale` and of `zero_point`, each in the shape of `x` (the last two unsummed).

    Learned step size quantization (Esser et al., arXiv:1902.08153) and, for the zero point, LSQ+ (Bhalgat et
    al., arXiv:2004.09576): `dy/dscale` is `round(v / scale) - v / scale` where the integer is within its
    limits and the limit less the zero point where it is not; `dy/dzero_point` is 0 and `-scale`.
    """
    v = torch.clamp(x, low, high) * (1.0 / scale)
    shift = zero_point.to(torch.float32)
    q = torch.round(v) + shift
    clipped = (q < quant_min) | (q > quant_max)
    inside = ~clipped & ~(x <= low) & ~(x >= high)
    steps = torch.clamp(q, quant_min, quant_max) - shift
    return (
        torch.where(inside, grad, 0.0),
        grad * torch.where(clipped, steps, steps - v),
        torch.where(clipped, -grad * scale, 0.0),
    )
